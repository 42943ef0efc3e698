"""The multi-scale, multi-path search space (paper section 3.1; the topology is that of DiNTS and Auto-DeepLab).

Scales are counted from 0, the finest. Layers are counted from 0; a layer's edges lead from the feature maps before it
to those after it. Strides and kernel sizes are per axis, in nnU-Net's axis order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import index
from typing import Any, NamedTuple

from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated

N_OPERATIONS = 2  # {skip, convolution}; the paper leaves out DiNTS's pseudo-3D operators (section 3.1)
DEFAULT_LAYERS = 12
MOST_LAYERS = 100  # the paper has 12; tables of thousands of layers would fill the memory
MOST_CHANNELS = 100_000


class SearchSpaceError(HyperSegNASError):
    """A search space that cannot exist, or JSON that does not describe one."""


class Edge(NamedTuple):
    """One of a layer's edges: from a feature map at scale `source` to one at scale `target`."""

    source: int
    target: int


@lru_cache
def layer_edges(n_scales: int) -> tuple[Edge, ...]:
    """Return the 3 S - 2 edges of a layer, by target and then by source: for four scales, DiNTS's ten columns."""
    return tuple(
        Edge(source, target)
        for target in range(n_scales)
        for source in range(max(0, target - 1), min(n_scales, target + 2))
    )


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """All architectures of `layers` layers over the given scales.

    Attributes:
        layers: number of layers, L.
        channels: feature channels of each scale, finest first.
        strides: for each scale the per-axis stride from the next finer scale; the first entry leads from the image to
            the finest scale (all ones where the search includes full resolution).
        kernel_sizes: the convolution kernel of each scale.

    Raises:
        SearchSpaceError: naming every fault at once.
    """

    layers: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        faults = []
        if not 1 <= self.layers <= MOST_LAYERS:
            faults.append(f"layers is {self.layers}, needed are 1 to {MOST_LAYERS}")
        if not self.channels or not all(1 <= count <= MOST_CHANNELS for count in self.channels):
            faults.append(
                f"channels is {abbreviated(list(self.channels))}, needed are 1 to {MOST_CHANNELS:,} for each scale"
            )
        if not len(self.channels) == len(self.strides) == len(self.kernel_sizes):
            faults.append(
                f"channels, strides and kernel_sizes describe {len(self.channels)}, {len(self.strides)} and "
                f"{len(self.kernel_sizes)} scales; they must agree"
            )
        dimensions = {len(value) for value in (*self.strides, *self.kernel_sizes)}
        if dimensions not in ({2}, {3}):
            faults.append(f"strides and kernel sizes have {sorted(dimensions)} axes; all must have 2, or all 3")
        if any(s < 1 for stride in self.strides for s in stride):
            faults.append(f"strides is {abbreviated(self.strides)}, positive integers are needed")
        if any(k < 1 or k % 2 == 0 for kernel in self.kernel_sizes for k in kernel):
            faults.append(f"kernel_sizes is {abbreviated(self.kernel_sizes)}, odd positive integers are needed")
        if faults:
            raise SearchSpaceError("not a search space: " + "; ".join(faults))

    @property
    def n_scales(self) -> int:
        return len(self.channels)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges of a layer, E of them."""
        return layer_edges(self.n_scales)

    @property
    def dimension(self) -> int:
        """2 or 3 spatial axes."""
        return len(self.strides[0])

    @cached_property
    def cumulative_strides(self) -> tuple[tuple[int, ...], ...]:
        """Per-axis stride of each scale relative to the image."""
        totals = [self.strides[0]]
        for stride in self.strides[1:]:
            totals.append(tuple(a * b for a, b in zip(totals[-1], stride, strict=True)))
        return tuple(totals)

    @property
    def finest_is_full_resolution(self) -> bool:
        return all(s == 1 for s in self.strides[0])

    @property
    def n_architecture_entries(self) -> int:
        """Length of the architecture vector, L x E x O (240 for the paper's space)."""
        return self.layers * len(self.edges) * N_OPERATIONS

    @property
    def n_man_outputs(self) -> int:
        """Number of channel-wise scalars, c_tot (27,648 for the paper's space, section 4)."""
        return self.layers * N_OPERATIONS * sum(self.channels[edge.target] for edge in self.edges)

    def to_json(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "channels": list(self.channels),
            "strides": [list(s) for s in self.strides],
            "kernel_sizes": [list(k) for k in self.kernel_sizes],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SearchSpace:
        """Read what `to_json` wrote.

        Raises:
            SearchSpaceError: a key is missing or unknown, or a value has the wrong form.
        """
        known = {"layers", "channels", "strides", "kernel_sizes"}
        if not isinstance(value, Mapping) or set(value) != known:
            got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise SearchSpaceError(f"not a search space: got {got}, exactly the keys {sorted(known)} are needed")
        try:
            return cls(
                layers=index(value["layers"]),
                channels=tuple(index(c) for c in value["channels"]),
                strides=_int_tuples(value["strides"]),
                kernel_sizes=_int_tuples(value["kernel_sizes"]),
            )
        except (TypeError, ValueError) as error:
            raise SearchSpaceError(f"not a search space: {error} in {dict(value)}") from error

    @cached_property
    def digest(self) -> str:
        """Short stable name of this space; equal spaces have equal digests on every machine."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def paper(cls) -> SearchSpace:
        """The paper's space: 12 layers, 4 scales from half resolution on, channels 32 to 256 (sections 3.1 and 4)."""
        return cls(
            layers=DEFAULT_LAYERS,
            channels=(32, 64, 128, 256),
            strides=((2, 2, 2),) * 4,
            kernel_sizes=((3, 3, 3),) * 4,
        )

    @classmethod
    def from_stages(
        cls,
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        features: Sequence[int] = (),
        *,
        layers: int = DEFAULT_LAYERS,
        channels: Sequence[int] | None = None,
        n_scales: int | None = None,
        full_resolution: bool | None = None,
    ) -> SearchSpace:
        """Configure the space from the stages of nnU-Net plans, the way nnU-Net configures its own U-Net.

        By default the scales are the stages from full resolution down: all of them, or as many as the layers can go
        down and up again. Where fewer scales than stages are asked for, the stem takes the first stride and the finest
        scale is at half resolution, as in DiNTS and in the paper, unless `full_resolution` says otherwise.

        Args:
            strides: nnU-Net's strides of each stage, the first one all ones.
            kernel_sizes: nnU-Net's kernel sizes of each stage.
            features: channels of each stage, finest first; as many as there are scales are used.
            layers: number of layers, L.
            channels: feature channels of each scale, in place of `features`.
            n_scales: number of scales, in place of the default.
            full_resolution: whether the finest scale is full resolution; None leaves it to the rule above.

        Raises:
            SearchSpaceError: the stages do not have that many scales, or there are no channels for them.
        """
        stage_strides, stage_kernels = _int_tuples(strides), _int_tuples(kernel_sizes)
        if len(stage_strides) != len(stage_kernels) or not stage_strides:
            raise SearchSpaceError(
                f"the plans name {len(stage_strides)} strides and {len(stage_kernels)} kernel sizes; one of each is "
                "needed for every stage"
            )
        available = len(stage_strides)
        asked = n_scales if n_scales is not None else None if channels is None else len(channels)
        first = 1 if full_resolution is False else 0
        if asked is not None and full_resolution is None and available > asked:
            first = 1
        n = min(available - first, layers // 2 + 1) if asked is None else asked
        if not 1 <= n <= available - first:
            without = " below full resolution" if first else ""
            raise SearchSpaceError(f"{n} scales are asked for, the plans have {available - first} stages{without}")
        if channels is None and len(features) < n:
            raise SearchSpaceError(
                f"the plans name features of {len(features)} stages, {n} scales need as many; name the channels of "
                "each scale"
            )
        return cls(
            layers=layers,
            channels=tuple(index(c) for c in (features[:n] if channels is None else channels)),
            strides=stage_strides[first : first + n],
            kernel_sizes=stage_kernels[first : first + n],
        )


def _int_tuples(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(index(v) for v in row) for row in rows)
