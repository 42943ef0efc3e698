"""The analysis of one super-net's MAN, one validation case after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_hypersegnas.architectures import (
    ScalarMoments,
    ScalarStatistics,
    spread_architectures,
    spread_over_architectures,
)
from nnunet_hypersegnas.architectures.man import EveryRow
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.ablation.sub_nets import spread_sub_nets
from nnunet_hypersegnas.nnunet.architecture_files import FoundArchitecture, find_architecture
from nnunet_hypersegnas.nnunet.cascade import network_input
from nnunet_hypersegnas.nnunet.cost_models import cost_model, search_space
from nnunet_hypersegnas.nnunet.dataset import DatasetError, PreprocessedDataset
from nnunet_hypersegnas.nnunet.man.maps import ScalarMaps, scalar_maps
from nnunet_hypersegnas.nnunet.original_images import on_original_grid, preprocessed_spacing_mm, write_on_original
from nnunet_hypersegnas.nnunet.sliding_window import SlidingWindow
from nnunet_hypersegnas.nnunet.super_net_loading import TrainedSuperNet
from nnunet_hypersegnas.nnunet.validation_crops import scoring_cases

FOLDER = "hsnas_man"
ALL_CASES = "all"
PARTS = 10  # of the sub-nets that training draws, by memory: by default the smallest and the largest part are compared

Advance = Callable[[int], object]


class AnalysisError(HyperSegNASError):
    """Cases or architectures that cannot be looked at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnalysedCase:
    """One case on the preprocessed grid, shapes (X, Y, Z) in nnU-Net's axis order; `image` is its first channel."""

    case: str
    image: np.ndarray
    labels: np.ndarray
    foreground: np.ndarray
    spacing_mm: tuple[float, ...]
    maps: ScalarMaps
    properties: dict[str, Any]


class ManAnalysis:
    """Goes over cases, and gathers statistics of MAN's scalars by layer on the way.

    Args:
        dataset: with the super-net's plans.
        super_net: with its MAN.
        architectures: the two that are compared.
        stride: of the sliding window, in voxels.
        device: where MAN runs.

    Raises:
        ArchitectureError: an architecture is none of the super-net's space.
    """

    def __init__(
        self,
        dataset: PreprocessedDataset,
        super_net: TrainedSuperNet,
        architectures: tuple[FoundArchitecture, FoundArchitecture],
        stride: int,
        device: torch.device,
    ) -> None:
        self.dataset, self.stride, self.device = dataset, stride, device
        self.space = super_net.record.space
        for found in architectures:
            found.architecture.check_fits(self.space)
        self.architectures = architectures
        self.man = super_net.network.man.to(device)
        # Those that the training's log is about.
        self._drawn = spread_architectures(self.space, super_net.record.settings.seed)
        self._moments = ScalarMoments()
        self._spreads: list[torch.Tensor] = []

    def case(self, name: str, begin: Callable[[int], Advance] = lambda total: lambda n: None) -> AnalysedCase:
        """Go over a case.

        Args:
            name: of a preprocessed case.
            begin: called with the number of steps; what it returns, with the steps of each batch.
        """
        manager = self.dataset.label_manager
        with self.dataset.reading(name):
            data, seg, prediction, properties = self.dataset.cases().load_case(name)
            labels = np.asarray(seg[:])[0]
            image = network_input(np.array(data[:]), None if prediction is None else np.asarray(prediction[:]), manager)
        foreground = labels > 0
        if manager.has_ignore_label:
            foreground &= labels != manager.ignore_label
        window = SlidingWindow([image], self.dataset.configuration.patch_size, self.device, stride=self.stride)
        first, second = (found.architecture for found in self.architectures)
        advance = begin(2 * len(window.patches))
        maps = scalar_maps(self.man, (first, second), window, foreground, self._moments, advance)
        self._spreads.append(spread_over_architectures(self.man, maps.most_foreground, self._drawn))
        return AnalysedCase(
            case=name,
            image=image[0],
            labels=labels,
            foreground=foreground,
            spacing_mm=preprocessed_spacing_mm(self.dataset, properties),
            maps=maps,
            properties=properties,
        )

    def write_maps(self, case: AnalysedCase, folder: Path) -> None:
        """Write both maps of a case in the geometry of its image."""
        for name, found in (("image", case.maps.image), ("architecture", case.maps.architecture)):
            values = on_original_grid(found.of_voxels, self.dataset, case.properties)
            write_on_original(values, case.properties, folder / f"{case.case}_{name}_deviation.nii.gz")

    def statistics(self) -> ScalarStatistics:
        """Return the statistics over all patches of all cases so far.

        The spread over architectures is that of the sub-nets which the training's log looks at, on the patch of each
        case that shows most foreground, mean over the cases.
        """
        return ScalarStatistics.of(EveryRow.of(self.man), self._moments, torch.stack(self._spreads).mean(0))


def cases_to_analyse(dataset: PreprocessedDataset, fold: int, asked: Sequence[str] | None) -> list[str]:
    """Return validation cases of a fold: those asked for, or the first one.

    Args:
        dataset: preprocessed.
        fold: whose validation cases are meant.
        asked: names, or "all" alone.

    Raises:
        AnalysisError: some of them are none of the fold's.
        DatasetError: there is no such fold, or its cases are not preprocessed.
    """
    known = scoring_cases(dataset, fold)
    if not known:
        raise DatasetError(f"fold {fold} has no validation cases; choose another fold")
    if asked is None:
        return known[:1]
    if list(asked) == [ALL_CASES]:
        return known
    if unknown := [case for case in asked if case not in known]:
        raise AnalysisError(
            f"no validation cases of fold {fold}: {', '.join(unknown)}; there are {', '.join(known[:5])}"
            f"{', ...' if len(known) > 5 else ''} ({len(known)} in all), or {ALL_CASES!r}"
        )
    return list(dict.fromkeys(asked))


def architectures_to_compare(
    dataset: PreprocessedDataset, files: Sequence[str] | None, device_type: str
) -> tuple[FoundArchitecture, FoundArchitecture]:
    """Return the architectures that two files or names stand for, or a small and a large one of the space.

    These are what the ablation takes of the smallest and of the largest tenth, by predicted memory, of what training
    draws.

    Raises:
        ArchitectureFileError, DatasetError: see `find_architecture`.
        AblationError: the space has fewer than ten architectures.
    """
    if files:
        space = search_space(dataset)
        first, second = (find_architecture(name, space, dataset.configuration_name) for name in files)
        return first, second
    costs = cost_model(dataset, device_type)
    spread = spread_sub_nets(costs.space, costs.predict, PARTS)
    return (
        FoundArchitecture(name="small", architecture=spread[0].architecture),
        FoundArchitecture(name="large", architecture=spread[-1].architecture),
    )


def default_folder(dataset: PreprocessedDataset, trainer: str, fold: int) -> Path:
    """Return the analysis's folder among nnU-Net's results of the data set, where nnU-Net does not look."""
    trained = dataset.trained_folder(trainer, fold)
    return trained.parent.parent / FOLDER / f"{trained.parent.name}_{trained.name}"
