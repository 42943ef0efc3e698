"""The stages of nnU-Net plans, from which a search space follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_hypersegnas.space import SearchSpaceError

# nnU-Net's planners give no stage more features than these, by number of axes.
MOST_FEATURES = {2: 512, 3: 320}
# A residual encoder needs more memory than the plain U-Net with the same features. With half as many features more, its
# memory lies where a plain U-Net's lies among the networks of its own space, see docs/decisions.
RESIDUAL_WIDTH = 1.5


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What the plans say of each stage, finest first.

    Attributes:
        strides: of each stage, per axis; the first ones are all ones.
        kernel_sizes: likewise.
        features: channels of a search space's scales; empty where the plans name none.
    """

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Stages:
        """Read the stages of a plans configuration.

        Raises:
            SearchSpaceError: its network names no strides and kernel sizes, or other than lists of whole numbers.
        """
        kwargs = configuration.get("architecture", {}).get("arch_kwargs", {})
        if not {"strides", "kernel_sizes"} <= set(kwargs):
            raise SearchSpaceError(
                "the plans' architecture names no strides and kernel_sizes, so no search space follows from it; use "
                "plans that nnU-Net's own planners wrote"
            )
        try:
            strides, kernels = (tuple(tuple(map(int, row)) for row in kwargs[k]) for k in ("strides", "kernel_sizes"))
            features = tuple(map(int, kwargs.get("features_per_stage", ())))
        except (TypeError, ValueError) as error:
            raise SearchSpaceError(
                f"the plans' strides, kernel_sizes and features_per_stage have to be lists of whole numbers ({error}); "
                "use plans that nnU-Net's own planners wrote"
            ) from error
        if "n_blocks_per_stage" in kwargs and strides:
            most = max(MOST_FEATURES[len(strides[0])], *features, 0)
            features = tuple(min(most, round(RESIDUAL_WIDTH * count)) for count in features)
        return cls(strides=strides, kernel_sizes=kernels, features=features)
