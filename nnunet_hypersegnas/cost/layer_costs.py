"""What one layer costs, for every way that its edges can be set.

A layer's cost depends on its row of codes alone, so it is computed once for each row; a network's cost is a sum and a
maximum over its rows. The order of operations is that of `TopologyNetwork` forwards and of autograd backwards: the
reverse. Terms stand beside what they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from nnunet_hypersegnas.cost.setup import FP32, TensorSizes
from nnunet_hypersegnas.cost.tape import IntArray, Tape
from nnunet_hypersegnas.space import Edge, Operation


@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """One value for each row, all of shape (n,); scales are bits of the masks, the finest is bit 0.

    Attributes:
        parameters: of the layer's operations.
        largest_weights: elements of the largest weight tensor among them.
        multiply_adds: of its convolutions, for one patch.
        saved_bytes: kept for the backward pass, the nodes that the layer reads excepted.
        sources: nodes that it reads or hands on.
        targets: nodes that it makes.
        kept_sources: nodes that it needs again in the backward pass.
        handed_on: nodes that only an identity reaches, so that they are the same tensor as before the layer.
        forward_peak_bytes: at most live while it runs, beside what was live before it.
        backward_peak_bytes: at most live while it runs backwards, beside what was live before it and all it saved.
    """

    parameters: IntArray
    largest_weights: IntArray
    multiply_adds: IntArray
    saved_bytes: IntArray
    sources: IntArray
    targets: IntArray
    kept_sources: IntArray
    handed_on: IntArray
    forward_peak_bytes: IntArray
    backward_peak_bytes: IntArray


@dataclass(frozen=True)
class _Operation:
    """An operation on an edge; bytes are those of a whole batch."""

    column: int
    edge: Edge
    operation: Operation
    parameters: int
    multiply_adds: int  # for one patch
    convolution_out: int  # kept by the norm, which works before the upsampling
    pooled: int  # what average pooling makes and the convolution keeps
    statistics: int
    weights_kept: int
    weights: int  # of the convolution, number

    @property
    def is_identity(self) -> bool:
        return self.operation is Operation.SKIP and self.edge.source == self.edge.target

    @property
    def keeps_its_source(self) -> bool:
        """A projection up convolves the node itself; others keep its activation, or what pooling makes of it."""
        return self.operation is Operation.SKIP and self.edge.target < self.edge.source

    @property
    def saved(self) -> int:
        return self.convolution_out + self.pooled + self.statistics + self.weights_kept


def layer_costs(sizes: TensorSizes, rows: IntArray) -> LayerCosts:
    """Compute the costs of layers.

    Args:
        sizes: tensor sizes of the space.
        rows: codes, shape (n, E).
    """
    table = [
        (rows[:, column] == operation, _operation(sizes, column, edge, operation))
        for column, edge in enumerate(sizes.space.edges)
        for operation in Operation
    ]
    scales = range(sizes.space.n_scales)
    arriving = [sum(on for on, o in table if o.edge.target == t).astype(np.int64) for t in scales]
    activated = [_any(on for on, o in table if o.operation is Operation.CONV and o.edge.source == s) for s in scales]
    identity = [_any(on for on, o in table if o.is_identity and o.edge.source == s) for s in scales]
    sources = [_any(on for on, o in table if o.edge.source == s) for s in scales]
    kept = [_any(on & o.keeps_its_source for on, o in table if o.edge.source == s) for s in scales]
    activation_bytes = sum(activated[s] * sizes.maps[s] for s in scales)
    return LayerCosts(
        parameters=sum(on * o.parameters for on, o in table),
        largest_weights=np.maximum.reduce([on * o.weights for on, o in table]),
        multiply_adds=sum(on * o.multiply_adds for on, o in table),
        saved_bytes=sum(on * o.saved for on, o in table) + activation_bytes,
        sources=_mask(sources),
        targets=_mask([arriving[t] > 0 for t in scales]),
        kept_sources=_mask(kept),
        handed_on=_mask([identity[t] & (arriving[t] == 1) for t in scales]),
        forward_peak_bytes=_forward_peak(sizes, rows, table, arriving),
        backward_peak_bytes=_backward_peak(sizes, rows, table, arriving),
    )


def _operation(sizes: TensorSizes, column: int, edge: Edge, operation: Operation) -> _Operation:
    space, (source, target) = sizes.space, edge
    c_in, c_out = space.channels[source], space.channels[target]
    if operation is Operation.SKIP and source == target:
        return _Operation(column, edge, operation, *(0,) * 7)
    kernel = space.kernel_sizes[max(source, target)] if operation is Operation.CONV else (1,) * space.dimension
    weights = c_in * c_out * prod(kernel)
    low = sizes.voxels[max(source, target)]  # where convolution and norm work
    return _Operation(
        column,
        edge,
        operation,
        parameters=weights + 2 * c_out,
        multiply_adds=weights * low // sizes.setup.batch_size,
        convolution_out=sizes.width * c_out * low,
        pooled=sizes.width * c_in * low if operation is Operation.SKIP and target > source else 0,
        statistics=sizes.norm_statistics(c_out),
        weights_kept=sizes.weights_kept(weights),
        weights=weights,
    )


def _forward_peak(
    sizes: TensorSizes, rows: IntArray, table: list[tuple[IntArray, _Operation]], arriving: list[IntArray]
) -> IntArray:
    tape = Tape(np.zeros(len(rows)))
    is_activated = [np.zeros(len(rows), bool) for _ in sizes.maps]
    for on, o in table:
        source, target = o.edge
        if o.is_identity:
            continue
        if o.operation is Operation.CONV:
            tape.step(alloc=sizes.maps[source], where=on & ~is_activated[source])
            is_activated[source] |= on
        if o.pooled:
            _pool(tape, sizes, o, on)
        tape.step(alloc=o.weights_kept, where=on)
        tape.step(alloc=o.convolution_out + o.statistics, where=on)
        if target < source:
            tape.step(alloc=o.convolution_out, where=on)  # normed
            if sizes.setup.autocast:  # interpolates in fp32
                low, high = 2 * o.convolution_out, 2 * sizes.maps[target]
                tape.step(alloc=low + high, free=low, where=on)
                tape.step(alloc=sizes.maps[target], free=high + o.convolution_out, where=on)
            else:
                tape.step(alloc=sizes.maps[target], free=o.convolution_out, where=on)
        else:
            tape.step(alloc=sizes.maps[target], where=on)  # normed
    for target, size in enumerate(sizes.maps):
        # Several terms: the partial sum, and each further one beside the one before.
        tape.step(alloc=size, where=arriving[target] > 1)
        tape.step(alloc=size, free=size, where=arriving[target] > 2)
        identity = _any(on for on, o in table if o.is_identity and o.edge.target == target)
        made = arriving[target] - identity  # terms that go once they are added
        tape.step(free=size * made, where=arriving[target] > 1)
    return tape.peak


def _pool(tape: Tape, sizes: TensorSizes, o: _Operation, on: IntArray) -> None:
    """Axis by axis the sum of neighbours; the last one is divided in place, and stays."""
    size, before = sizes.maps[o.edge.source], 0
    for stride in sizes.space.strides[o.edge.target]:
        if stride > 1:
            size //= stride
            tape.step(alloc=size, where=on)
            if stride > 2:
                tape.step(alloc=size, free=size, where=on)
            tape.step(free=before, where=on)
            before = size


def _pool_backward(tape: Tape, sizes: TensorSizes, o: _Operation, on: IntArray) -> None:
    size = o.pooled
    tape.step(alloc=size, free=size, where=on)  # the division
    for stride in reversed(sizes.space.strides[o.edge.target]):
        if stride > 1:  # a copy of the gradient for each of the neighbours
            tape.step(alloc=stride * size, free=size, where=on)
            size *= stride


def _backward_peak(
    sizes: TensorSizes, rows: IntArray, table: list[tuple[IntArray, _Operation]], arriving: list[IntArray]
) -> IntArray:
    """At the start the gradient of every target is there, and nothing that the layer saved has gone."""
    maps, scales, autocast = sizes.maps, range(len(sizes.maps)), sizes.setup.autocast
    tape = Tape(np.sum([(arriving[t] > 0) * maps[t] for t in scales], axis=0))
    for target in reversed(scales):  # the division by sqrt(n), after which the terms share one gradient
        tape.step(alloc=maps[target], free=maps[target], where=arriving[target] > 1)
    waiting = list(arriving)  # terms of each target whose turn is still to come
    consumers = [sum(on for on, o in table if o.operation is Operation.CONV and o.edge.source == s) for s in scales]
    activated = [np.zeros(len(rows), bool) for _ in scales]  # whether there is a gradient of the activated map yet
    node = [np.zeros(len(rows), bool) for _ in scales]  # likewise of the node before the layer
    handed_on = [np.zeros(len(rows), bool) for _ in scales]  # the node's gradient is that of the target

    for on, o in reversed(table):
        source, target = o.edge
        waiting[target] = waiting[target] - on
        if o.is_identity:
            handed_on[target] = on & ~node[target]
            node[target] = node[target] | on
            continue
        gone = on & (waiting[target] == 0) & ~handed_on[target]  # the target's gradient, once this edge has read it
        out = o.convolution_out
        if target < source:
            if autocast:  # to fp32, interpolation, and back
                tape.step(alloc=2 * maps[target], where=on)
                tape.step(free=maps[target], where=gone)
                tape.step(alloc=2 * out, free=2 * maps[target], where=on)
                tape.step(alloc=out, free=2 * out, where=on)
            else:
                tape.step(alloc=out, where=on)
                tape.step(free=maps[target], where=gone)
            tape.step(alloc=out, free=2 * out + o.statistics, where=on)  # norm: gradient and its input go
        else:
            tape.step(alloc=out, free=out + o.statistics, where=on)  # norm: its input goes
            tape.step(free=maps[target], where=gone)
        # The convolution's gradients: of its input, and of its weights, which become fp32 afterwards.
        of_input, of_weights = o.pooled or maps[source], sizes.width * o.weights
        tape.step(alloc=of_input + of_weights, free=out + o.pooled + o.weights_kept, where=on)
        if autocast:
            tape.step(alloc=FP32 * o.weights, free=of_weights, where=on)
        if o.pooled:
            _pool_backward(tape, sizes, o, on)
        # The first gradient that reaches a tensor is kept; the next ones are added to it and go.
        if o.operation is Operation.SKIP:
            tape.step(free=maps[source], where=on & node[source])
            node[source] = node[source] | on
            continue
        tape.step(free=maps[source], where=on & activated[source])
        activated[source] = activated[source] | on
        consumers[source] = consumers[source] - on
        done = on & (consumers[source] == 0)  # then comes the activation, which had kept its result
        tape.step(alloc=maps[source], free=2 * maps[source], where=done)
        tape.step(free=maps[source], where=done & node[source])
        node[source] = node[source] | done
    return tape.peak


def _any(masks: Iterable[IntArray]) -> IntArray:
    return np.logical_or.reduce(list(masks))


def _mask(by_scale: list[IntArray]) -> IntArray:
    return np.sum([np.asarray(on, dtype=np.int64) << scale for scale, on in enumerate(by_scale)], axis=0)
