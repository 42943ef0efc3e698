"""The search space that a data set gets, for people, and plans that hold its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from nnunet_hypersegnas.cost import CostModel
from nnunet_hypersegnas.cost.measuring import MemoryMetric
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting, memory_counting
from nnunet_hypersegnas.nnunet.settings import BLOCK, SuperNetSettings, space_in_block
from nnunet_hypersegnas.nnunet.space_costs import SpaceCosts
from nnunet_hypersegnas.nnunet.stages import Stages
from nnunet_hypersegnas.nnunet.super_net_memory import SuperNetMemory, super_net_parameters
from nnunet_hypersegnas.search import Budget, Placement, Predict, place
from nnunet_hypersegnas.space import SearchSpace, count_architectures


@dataclass(frozen=True, kw_only=True)
class SpaceDescription:
    """A search space on a data set's configuration.

    Attributes:
        space: the search space.
        stages: how many the plans have.
        spacing_mm: voxel size at full resolution.
        patch_size: voxels of each axis.
        batch_size: patches a step.
        architectures: number of different ones.
        costs: of the space's networks, and of nnU-Net's own.
        counting: how the device counts memory.
        super_net_parameters: of the super-net.
        man_parameters: of the Meta-Assistant Network beside it; 0 where the settings have none.
        super_net_memory: what training the super-net takes, on one device.
    """

    space: SearchSpace
    stages: int
    spacing_mm: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    architectures: int
    costs: SpaceCosts
    counting: MemoryCounting
    super_net_parameters: int
    man_parameters: int
    super_net_memory: SuperNetMemory

    @classmethod
    def of(
        cls,
        dataset: PreprocessedDataset,
        settings: SuperNetSettings,
        device_type: str,
        metric: MemoryMetric | None = None,
    ) -> SpaceDescription:
        """Describe the space that the settings give on a data set's configuration, trained on a type of device.

        Raises:
            SearchSpaceError, SetupError: the settings do not fit the plans.
        """
        configuration = dataset.configuration
        space = settings.space(configuration.configuration)
        costs = SpaceCosts.of(dataset, space, device_type)
        counting = memory_counting(dataset, CostModel(space, costs.setup), device_type, metric)
        super_net, man = super_net_parameters(dataset, space, settings)
        return cls(
            space=space,
            stages=len(Stages.of(configuration.configuration).strides),
            spacing_mm=tuple(configuration.spacing),
            patch_size=tuple(configuration.patch_size),
            batch_size=configuration.batch_size,
            architectures=count_architectures(space),
            costs=costs,
            counting=counting,
            super_net_parameters=super_net,
            man_parameters=man,
            super_net_memory=SuperNetMemory.of(dataset, space, settings, costs.setup, counting),
        )

    @property
    def expected(self) -> Predict:
        """Predict the costs of networks, memory as the device counts it."""
        return self.counting.expected(CostModel(self.space, self.costs.setup).predict)

    def placements(self, budgets: Sequence[Budget], count: int) -> list[Placement]:
        """Say where memory budgets lie among the networks drawn, and how many of `count` candidates are found."""
        counted = replace(self.costs.drawn, memory_bytes=self.counting.count(self.costs.drawn.memory_bytes))
        return place(self.space, self.expected, counted, budgets, count)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, in bytes and multiply-adds."""
        memory = self.super_net_memory
        return {
            **self.costs.to_json(),
            "counting": {
                "offset_bytes": round(self.counting.offset_bytes),
                "factor": self.counting.factor,
                "origin": self.counting.origin or "tensors alone",
                "estimate": self.counting.is_estimate,
            },
            "super_net": {
                "parameters": self.super_net_parameters,
                "man_parameters": self.man_parameters,
                "fixed_bytes": memory.fixed_bytes,
                "median_draw_bytes": round(memory.drawn_quantiles(0.5)[0]),
                "largest_draw_bytes": round(memory.drawn_quantiles(1.0)[0]),
                "warmup_bytes": round(memory.warmup_bytes),
            },
        }

    def scales_in_words(self) -> str:
        """Say how the scales follow from the plans."""
        first = 0 if self.space.finest_is_full_resolution else 1
        used = self.space.n_scales
        left_out = self.stages - first - used
        text = f"The scales are {'all' if used == self.stages else f'{used} of the'} {self.stages} stages of the plans"
        text += (
            ", from full resolution" if not first else "; the stem takes the first stride, so none has full resolution"
        )
        if left_out > 0:
            text += "; the coarsest one is left out" if left_out == 1 else f"; the {left_out} coarsest are left out"
            if used == self.space.layers // 2 + 1:
                text += f", since {self.space.layers} layers cannot go further down and up again"
        return text + "."

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


def changed_settings(
    dataset: PreprocessedDataset,
    *,
    layers: int | None = None,
    channels: Sequence[int] | None = None,
    scales: int | None = None,
    full_resolution: bool | None = None,
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
    if full_resolution is not None:
        settings = replace(settings, full_resolution=full_resolution)
    return settings if layers is None else replace(settings, layers=layers)


def plans_with_settings(
    plans: Mapping[str, Any], configuration: str, plans_name: str, settings: SuperNetSettings, space: SearchSpace
) -> dict[str, Any]:
    """Return a copy of plans under another name whose configuration holds every setting that is not left open."""
    result = deepcopy(dict(plans))
    result["plans_name"] = plans_name
    block = {key: value for key, value in settings.to_json().items() if value is not None and key != "scales"}
    result["configurations"][configuration][BLOCK] = {**block, **space_in_block(space)}
    return result


def _by(values: Any) -> str:
    return " x ".join(map(str, values))
