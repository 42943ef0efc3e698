"""The search space that a data set gets, for people, and plans that hold its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch

from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.cost import CostModel, Quantity
from nnunet_hypersegnas.nnunet.cost_models import training_setup
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.settings import BLOCK, SuperNetSettings
from nnunet_hypersegnas.search import Interval, possible_range
from nnunet_hypersegnas.space import SearchSpace, count_architectures

RANGES = (Quantity.MEMORY, Quantity.PARAMETERS, Quantity.MULTIPLY_ADDS)


@dataclass(frozen=True, kw_only=True)
class SpaceDescription:
    """A search space on a data set's configuration.

    Attributes:
        space: the search space.
        spacing_mm: voxel size at full resolution.
        patch_size: voxels of each axis.
        batch_size: patches a step.
        architectures: number of different ones.
        ranges: between what the costs of a network lie, predicted for its training; in bytes and numbers.
        super_net_parameters: of the super-net.
        man_parameters: of the Meta-Assistant Network beside it; 0 where the settings have none.
    """

    space: SearchSpace
    spacing_mm: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    architectures: int
    ranges: Mapping[Quantity, Interval]
    super_net_parameters: int
    man_parameters: int

    @classmethod
    def of(cls, dataset: PreprocessedDataset, settings: SuperNetSettings, device_type: str) -> SpaceDescription:
        """Describe the space that the settings give on a data set's configuration, trained on a type of device.

        Raises:
            SearchSpaceError, SetupError: the settings do not fit the plans.
        """
        configuration = dataset.configuration
        space = settings.space(configuration.configuration)
        setup = training_setup(dataset, device_type)
        costs = CostModel(space, setup)
        with torch.device("meta"):  # shapes alone
            network = OneShotNetwork(
                space,
                setup.input_channels,
                setup.num_classes,
                setup.patch_size,
                man=settings.man,
                scalar_position=settings.scalar_position,
            )
        return cls(
            space=space,
            spacing_mm=tuple(configuration.spacing),
            patch_size=tuple(configuration.patch_size),
            batch_size=configuration.batch_size,
            architectures=count_architectures(space),
            ranges={quantity: possible_range(space, costs.predict, quantity) for quantity in RANGES},
            super_net_parameters=sum(p.numel() for p in network.super_net.parameters()),
            man_parameters=sum(p.numel() for p in network.man.parameters()) if network.man is not None else 0,
        )

    def scales(self) -> list[dict[str, str]]:
        """Return one row of text for each scale, finest first."""
        return [
            {
                "scale": str(scale),
                "stride": _by(stride),
                "voxel size (mm)": _by(f"{mm * step:.3g}" for mm, step in zip(self.spacing_mm, stride, strict=True)),
                "feature map": _by(size // step for size, step in zip(self.patch_size, stride, strict=True)),
                "channels": str(self.space.channels[scale]),
                "kernel": _by(self.space.kernel_sizes[scale]),
            }
            for scale, stride in enumerate(self.space.cumulative_strides)
        ]

    def costs(self) -> list[dict[str, str]]:
        """Return one row of text for each cost."""
        names = {Quantity.MEMORY: "training memory", Quantity.PARAMETERS: "parameters"}
        return [
            {
                "predicted": names.get(quantity, quantity.value),
                "smallest": quantity.format(interval.low),
                "largest": quantity.format(interval.high),
            }
            for quantity, interval in self.ranges.items()
        ]


def changed_settings(
    dataset: PreprocessedDataset, *, layers: int | None, channels: Sequence[int] | None, scales: int | None
) -> SuperNetSettings:
    """Return the plans' settings with other sizes of the search space; None leaves what the plans have.

    Raises:
        SettingsError: naming every fault of the block, or of the sizes.
    """
    settings = SuperNetSettings.from_configuration(dataset.configuration.configuration)
    if scales is not None and channels is None:
        kept = settings.channels if settings.channels is not None and len(settings.channels) == scales else None
        settings = replace(settings, channels=kept, scales=scales)
    if channels is not None:
        settings = replace(settings, channels=tuple(channels), scales=scales)
    return settings if layers is None else replace(settings, layers=layers)


def plans_with_settings(
    plans: Mapping[str, Any], configuration: str, plans_name: str, settings: SuperNetSettings, space: SearchSpace
) -> dict[str, Any]:
    """Return a copy of plans under another name whose configuration holds every setting that is not left open."""
    result = deepcopy(dict(plans))
    result["plans_name"] = plans_name
    block = {key: value for key, value in settings.to_json().items() if value is not None and key != "scales"}
    result["configurations"][configuration][BLOCK] = {**block, "channels": list(space.channels)}
    return result


def _by(values: Any) -> str:
    return " x ".join(map(str, values))
