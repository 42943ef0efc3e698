"""An architecture that was found on one data set, as plans for another (the paper's way for its five tasks)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nnunet_hypersegnas
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.architecture_files import FoundArchitecture
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.plans import searched_plans
from nnunet_hypersegnas.nnunet.space_description import changed_settings
from nnunet_hypersegnas.nnunet.stages import Stages
from nnunet_hypersegnas.space import Architecture, SearchSpace, fold_scales


class TransferError(HyperSegNASError):
    """An architecture that a data set cannot take."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """An architecture in the search space of another data set.

    Attributes:
        found: where it comes from.
        space: the data set's, with the architecture's number of layers.
        architecture: with fewer scales than the one that was found, where the data set's plans have fewer stages.
    """

    found: FoundArchitecture
    space: SearchSpace
    architecture: Architecture

    @classmethod
    def to(
        cls, dataset: PreprocessedDataset, found: FoundArchitecture, channels: Sequence[int] | None = None
    ) -> Transfer:
        """Fit an architecture to a data set: strides, kernels, patch and channels are the data set's.

        Args:
            dataset: with the configuration that it is for.
            found: the architecture.
            channels: of each scale, in place of those that the plans give.

        Raises:
            TransferError: it was found in 2D and is to be used in 3D, or the other way round.
            SearchSpaceError, SettingsError, SetupError: the plans cannot have that many scales.
        """
        space = _space_for(dataset, found, channels)
        if found.space is not None and found.space.dimension != space.dimension:
            raise TransferError(
                f"{found.name} was found in {found.space.dimension}D, configuration {dataset.configuration_name} of "
                f"{dataset.name} is {space.dimension}D; choose another configuration"
            )
        architecture = fold_scales(found.architecture, space.n_scales)
        return cls(found=found, space=space, architecture=architecture)

    def notes(self) -> list[str]:
        """Say what became otherwise than where the architecture was found."""
        notes = []
        before, after = self.found.architecture.n_scales, self.space.n_scales
        if after < before:
            notes.append(
                f"The plans have {after} stages, {self.found.name} has {before} scales: the coarser ones are folded "
                f"onto scale {after - 1}, where several edges become one with a convolution if one of them was."
            )
        if self.found.space is not None and self.found.space.channels[:after] != self.space.channels:
            notes.append(
                f"Channels are {list(self.space.channels)}, where it was found {list(self.found.space.channels)}; "
                "--channels changes them."
            )
        return notes

    def plans(self, dataset: PreprocessedDataset, plans_name: str) -> dict[str, Any]:
        """Return plans of the data set that train this network."""
        provenance = {
            "package_version": nnunet_hypersegnas.__version__,
            "transferred_from": self.found.name,
            "architecture": self.found.architecture.id,
            "notes": self.notes(),
        }
        return searched_plans(
            dataset.plans, dataset.configuration_name, plans_name, self.space, self.architecture, provenance
        )


def _space_for(dataset: PreprocessedDataset, found: FoundArchitecture, channels: Sequence[int] | None) -> SearchSpace:
    """Return the data set's space with the layers and scales of an architecture, from full resolution where it is."""
    configuration = dataset.configuration.configuration
    stages = len(Stages.of(configuration).strides)
    scales = min(found.architecture.n_scales, stages)
    if channels is not None and len(channels) != scales:
        raise TransferError(f"--channels names {len(channels)} scales, {found.name} has {scales} here")
    full_resolution = None
    if found.space is not None and (found.space.finest_is_full_resolution or stages > scales):
        full_resolution = found.space.finest_is_full_resolution
    settings = changed_settings(
        dataset,
        layers=found.architecture.n_layers,
        channels=channels,
        scales=None if channels is not None else scales,
        full_resolution=full_resolution,
    )
    return settings.space(configuration)
