"""One architecture as a value: which edges are active, and the operation that each one holds.

An architecture is written as L rows of E codes, columns in the order of `SearchSpace.edges`:
0 = edge off, 1 = skip connection, 2 = convolution. The number of scales follows from E = 3 S - 2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from operator import index
from typing import Any

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space.search_space import Edge, SearchSpace, layer_edges

OFF = 0
Codes = tuple[tuple[int, ...], ...]


class ArchitectureError(HyperSegNASError):
    """Codes or JSON that describe no architecture, or none of the space at hand."""


class Operation(IntEnum):
    """The operation an active edge holds; the values are the codes of an architecture."""

    SKIP = 1
    CONV = 2


@dataclass(frozen=True)
class Architecture:
    """A sub-network of the search space, in canonical form: equal networks compare and hash equal.

    Edges that no path from the stem to the output uses are pruned on construction, so every edge left does something.

    Raises:
        ArchitectureError: the codes have the wrong form, or some layer has no edge left.
    """

    codes: Codes

    def __post_init__(self) -> None:
        codes = tuple(tuple(int(c) for c in row) for row in self.codes)
        widths = {len(row) for row in codes}
        if len(widths) != 1 or (next(iter(widths)) + 2) % 3 or next(iter(widths)) < 1:
            raise ArchitectureError(
                f"an architecture needs rows of equal length 3 S - 2 for S scales, got rows of {sorted(widths)}"
            )
        if unknown := sorted({c for row in codes for c in row} - {OFF, *Operation}):
            raise ArchitectureError(f"unknown codes {unknown}; allowed are 0 (off), 1 (skip), 2 (convolution)")
        pruned = _prune(codes, layer_edges((next(iter(widths)) + 2) // 3))
        if empty := [i for i, row in enumerate(pruned) if not any(row)]:
            raise ArchitectureError(f"no path through all {len(codes)} layers: layer {empty[0]} has no usable edge")
        object.__setattr__(self, "codes", pruned)

    @property
    def n_layers(self) -> int:
        return len(self.codes)

    @property
    def n_scales(self) -> int:
        return (len(self.codes[0]) + 2) // 3

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The columns of `codes`."""
        return layer_edges(self.n_scales)

    def active(self) -> Iterator[tuple[int, int, Edge, Operation]]:
        """Yield (layer, column, edge, operation) of every active edge, layer by layer."""
        for layer, row in enumerate(self.codes):
            for column, (code, edge) in enumerate(zip(row, self.edges, strict=True)):
                if code != OFF:
                    yield layer, column, edge, Operation(code)

    @cached_property
    def stems(self) -> tuple[int, ...]:
        """Scales at which the first layer reads the image, finest first."""
        return tuple(sorted({edge.source for layer, _, edge, _ in self.active() if layer == 0}))

    @cached_property
    def outputs(self) -> tuple[int, ...]:
        """Scales that the last layer reaches, finest first; the network's output merges them."""
        return tuple(sorted({edge.target for layer, _, edge, _ in self.active() if layer == self.n_layers - 1}))

    @property
    def n_edges(self) -> int:
        return sum(1 for _ in self.active())

    @property
    def n_convolutions(self) -> int:
        return sum(operation is Operation.CONV for *_, operation in self.active())

    @cached_property
    def id(self) -> str:
        """Short stable name, the same on every machine."""
        return hashlib.sha256(json.dumps(self.codes).encode()).hexdigest()[:10]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "codes": [list(row) for row in self.codes]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Architecture:
        """Read what `to_json` wrote; the id may be left out by hand-written files.

        Raises:
            ArchitectureError: unknown or missing keys, bad codes, or an id that belongs to other codes.
        """
        if not isinstance(value, Mapping) or not {"codes"} <= set(value) <= {"codes", "id"}:
            got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise ArchitectureError(f"not an architecture: got {got}, needed are the keys 'codes' and, optional, 'id'")
        try:
            architecture = cls(tuple(tuple(index(code) for code in row) for row in value["codes"]))
        except (TypeError, ValueError) as error:
            raise ArchitectureError(f"not an architecture: {error}") from error
        if value.get("id", architecture.id) != architecture.id:
            raise ArchitectureError(
                f"the architecture's id is {value['id']}, its codes have {architecture.id}: the file was edited by "
                "hand; remove the id to use the codes as they are"
            )
        return architecture

    def check_fits(self, space: SearchSpace) -> None:
        """Raise ArchitectureError unless this is an architecture of `space`."""
        if (self.n_layers, self.n_scales) != (space.layers, space.n_scales):
            raise ArchitectureError(
                f"architecture {self.id} has {self.n_layers} layers and {self.n_scales} scales, the search space has "
                f"{space.layers} and {space.n_scales}"
            )


def feasible_edges(edges: Sequence[Edge], previous: Sequence[int] | None) -> list[int]:
    """Return the columns whose source is reached, given the codes of the layer before (None for the first layer).

    In the first layer every edge is feasible, since the image is given at all scales (paper section 3.1).
    """
    if previous is None:
        return list(range(len(edges)))
    reached = {edge.target for code, edge in zip(previous, edges, strict=True) if code != OFF}
    return [column for column, edge in enumerate(edges) if edge.source in reached]


def _prune(codes: Codes, edges: Sequence[Edge]) -> Codes:
    """Switch off the edges that no path from the stem to the output uses."""
    rows = [list(row) for row in codes]
    for layer in range(1, len(rows)):  # forwards: nothing arrives at their source
        feasible = set(feasible_edges(edges, rows[layer - 1]))
        rows[layer] = [code if column in feasible else OFF for column, code in enumerate(rows[layer])]
    for layer in range(len(rows) - 2, -1, -1):  # backwards: nothing leaves their target
        used = {edge.source for code, edge in zip(rows[layer + 1], edges, strict=True) if code != OFF}
        rows[layer] = [code if edge.target in used else OFF for code, edge in zip(rows[layer], edges, strict=True)]
    return tuple(tuple(row) for row in rows)
