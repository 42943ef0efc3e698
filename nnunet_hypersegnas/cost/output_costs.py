"""What the ends of a network cost: its stems, and the output with its heads and the loss.

The output depends on the scales that the last layer reaches, and its memory also on which of those nodes are kept for
the backward pass anyway; so there are few cases, and all are computed at once. The order of operations is that of
`Output.forward`, nnU-Net's Dice and cross-entropy loss, and autograd backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

import numpy as np

from nnunet_hypersegnas.cost.setup import FP32, INT16, INT64, TensorSizes
from nnunet_hypersegnas.cost.tape import IntArray, Tape


@dataclass(frozen=True, kw_only=True)
class StemCosts:
    """One value for each set of stems, shape (2^S,); the index is the mask of scales."""

    parameters: IntArray
    largest_weights: IntArray
    multiply_adds: IntArray
    saved_bytes: IntArray


@dataclass(frozen=True, kw_only=True)
class OutputCosts:
    """One value for each set of output scales and set of nodes kept anyway, shape (2^S, 2^S); indices are masks.

    Attributes:
        parameters, largest_weights, multiply_adds: as in `LayerCosts`, of merges, full-resolution block and heads.
        saved_bytes: kept for the backward pass by output and loss, the nodes excepted.
        target_bytes: the targets, which stay on the device throughout.
        logit_bytes: the logits, which nnU-Net's training step holds to its end.
        peak_bytes: at most live from the last layer's end until the gradients of its nodes are there, beside all that
            the layers saved.
    """

    parameters: IntArray
    largest_weights: IntArray
    multiply_adds: IntArray
    saved_bytes: IntArray
    target_bytes: IntArray
    logit_bytes: IntArray
    peak_bytes: IntArray


def stem_costs(sizes: TensorSizes) -> StemCosts:
    space, setup = sizes.space, sizes.setup
    masks = np.arange(1 << space.n_scales)
    costs = {field.name: np.zeros(len(masks), np.int64) for field in fields(StemCosts)}
    for scale, channels in enumerate(space.channels):
        on = masks >> scale & 1
        weights = setup.input_channels * channels * prod(space.kernel_sizes[scale])
        # The convolution reads the pooled image: at the finest scale the image itself, which autocast copies to fp16.
        pooled = setup.input_channels * sizes.voxels[scale] * prod(space.strides[0])
        kept_input = sizes.width * pooled if scale or setup.autocast else 0
        costs["parameters"] += on * (weights + 2 * channels)
        np.maximum(costs["largest_weights"], on * weights, out=costs["largest_weights"])
        costs["multiply_adds"] += on * (weights * sizes.voxels[scale] // setup.batch_size)
        costs["saved_bytes"] += on * (
            kept_input + sizes.maps[scale] + sizes.norm_statistics(channels) + sizes.weights_kept(weights)
        )
    return StemCosts(**costs)


def output_costs(sizes: TensorSizes) -> OutputCosts:
    n = 1 << sizes.space.n_scales
    outputs, kept = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    walk = _OutputWalk(sizes, outputs, kept)
    walk.forward()
    walk.loss()
    saved = walk.saved
    walk.loss_backward()
    walk.backward()
    values = {
        "parameters": walk.parameters,
        "largest_weights": walk.largest_weights,
        "multiply_adds": walk.multiply_adds,
        "saved_bytes": saved,
        "target_bytes": walk.target_bytes,
        "logit_bytes": walk.logit_bytes,
        "peak_bytes": walk.tape.peak,
    }
    return OutputCosts(**{name: np.broadcast_to(value, n * n).reshape(n, n) for name, value in values.items()})


class _OutputWalk:
    """Goes through output and loss, forwards and backwards, for all cases at once."""

    def __init__(self, sizes: TensorSizes, outputs: IntArray, kept: IntArray) -> None:
        self.sizes, space = sizes, sizes.space
        self.scales = range(space.n_scales)
        self.has_node = [outputs >> s & 1 == 1 for s in self.scales]
        self.node_is_kept = [kept >> s & 1 == 1 for s in self.scales]
        self.reaches = [outputs >> s != 0 for s in self.scales]  # this scale or a coarser one is an output
        self.merged = [self.reaches[s + 1] if s + 1 < space.n_scales else self.reaches[0] & False for s in self.scales]
        self.stem_has_stride = not space.finest_is_full_resolution
        # Heads, full resolution first: channels, voxels, and where there is one.
        self.heads = [(space.channels[s], sizes.voxels[s], self.reaches[s]) for s in self.scales]
        if self.stem_has_stride:
            self.heads.insert(0, (sizes.full_resolution_channels, sizes.full_voxels, self.reaches[0]))
        # nnU-Net gives the last of several heads no weight; without deep supervision there is only the first.
        self.trained = [here for *_, here in self.heads]
        for i in range(1, len(self.heads)):
            coarser = self.heads[i + 1][2] if i + 1 < len(self.heads) else False
            self.trained[i] = self.trained[i] & coarser
        # Every head has its weights, also where only the first one runs.
        classes = sizes.setup.num_classes
        self.parameters = np.sum([here * (c + 1) * classes for c, _, here in self.heads], axis=0)
        if not sizes.setup.deep_supervision:
            self.heads = [(c, v, here & (i == 0)) for i, (c, v, here) in enumerate(self.heads)]
            self.trained = [here for *_, here in self.heads]
        # At the last layer's end its nodes are there; those kept anyway count with the layers.
        start = sum((self.has_node[s] & ~self.node_is_kept[s]) * sizes.maps[s] for s in self.scales)
        self.tape = Tape(start)
        self.saved = np.zeros(len(outputs), np.int64)
        self.largest_weights = np.zeros(len(outputs), np.int64)
        self.multiply_adds = np.zeros(len(outputs), np.int64)

    @property
    def logit_bytes(self) -> IntArray:
        return sum(here * self._logits(voxels) for _, voxels, here in self.heads)

    @property
    def target_bytes(self) -> IntArray:
        # nnU-Net makes two targets at least; the second of a network with one head has full resolution too.
        alone = ~self.heads[1][2] if len(self.heads) > 1 else True
        second = self.sizes.full_voxels if self.sizes.setup.deep_supervision else 0
        return INT16 * (sum(here * voxels for _, voxels, here in self.heads) + alone * second)

    def _logits(self, voxels: int) -> int:
        return self.sizes.width * self.sizes.setup.num_classes * voxels

    def _keep(self, size: int, where: IntArray) -> None:
        """Allocate what stays until the backward pass."""
        self.tape.step(alloc=size, where=where)
        self.saved += np.where(where, size, 0)

    def _convolution(self, c_in: int, c_out: int, kernel: int, voxels: int, where: IntArray, norm: bool = True) -> None:
        weights = c_in * c_out * kernel
        self.parameters += where * (weights + 2 * c_out) * norm
        self.largest_weights = np.maximum(self.largest_weights, where * weights)
        self.multiply_adds += where * (weights * voxels // self.sizes.setup.batch_size)
        self._keep(self.sizes.weights_kept(weights), where)

    def _merge(self, c_in: int, c_out: int, low: int, high: int, where: IntArray) -> None:
        """1x1 convolution and norm at the low resolution, then interpolation; the result is live."""
        size, width, tape = self.sizes, self.sizes.width, self.tape
        self._convolution(c_in, c_out, 1, low, where)
        self._keep(width * c_out * low + size.norm_statistics(c_out), where)
        tape.step(alloc=width * c_out * low, where=where)
        if size.setup.autocast:  # interpolates in fp32
            tape.step(alloc=FP32 * c_out * (low + high), free=FP32 * c_out * low, where=where)
            tape.step(alloc=width * c_out * high, free=(FP32 * high + width * low) * c_out, where=where)
        else:
            tape.step(alloc=width * c_out * high, free=width * c_out * low, where=where)

    def forward(self) -> None:
        sizes, space, tape = self.sizes, self.sizes.space, self.tape
        for s in reversed(self.scales):
            size, joined = sizes.maps[s], self.has_node[s] & self.merged[s]
            if s + 1 < space.n_scales:
                self._merge(
                    space.channels[s + 1], space.channels[s], sizes.voxels[s + 1], sizes.voxels[s], self.merged[s]
                )
            tape.step(alloc=size, free=size, where=joined)  # the sum, after which what was merged goes
            tape.step(free=size, where=joined & ~self.node_is_kept[s])
            self._keep(size, self.reaches[s])  # activated
            # Then the running sum goes, unless it is a node that is kept anyway.
            tape.step(free=size, where=self.reaches[s] & (self.merged[s] | ~self.node_is_kept[s]))
        if self.stem_has_stride:
            c, everywhere = sizes.full_resolution_channels, self.reaches[0]
            full = sizes.width * c * sizes.full_voxels
            self._merge(space.channels[0], c, sizes.voxels[0], sizes.full_voxels, everywhere)
            self._keep(full, everywhere)  # activated
            tape.step(free=full, where=everywhere)  # the upsampled map
            self._convolution(c, c, prod(space.kernel_sizes[0]), sizes.full_voxels, everywhere)
            self._keep(full + sizes.norm_statistics(c), everywhere)
            tape.step(alloc=full, where=everywhere)  # normed
            self._keep(full, everywhere)  # activated
            tape.step(free=full, where=everywhere)
        for channels, voxels, here in self.heads:  # their weights are counted already
            self._convolution(channels, sizes.setup.num_classes, 1, voxels, here, norm=False)
            tape.step(alloc=self._logits(voxels), where=here)

    def loss(self) -> None:
        classes = self.sizes.setup.num_classes
        for (_, voxels, _), here in zip(self.heads, self.trained, strict=True):
            self._keep(FP32 * classes * voxels, here)  # softmax
            self._keep(FP32 * classes * voxels, here)  # one-hot target
            self.tape.step(alloc=INT64 * voxels, free=INT64 * voxels, where=here)  # its index
            product = FP32 * (classes - 1) * voxels
            self.tape.step(alloc=product, free=product, where=here)
            self._keep(INT64 * voxels, here)  # the cross-entropy's target
            self._keep(FP32 * classes * voxels, here)  # log-softmax

    def loss_backward(self) -> None:
        classes, step = self.sizes.setup.num_classes, self.tape.step
        for (_, voxels, _), here in reversed(list(zip(self.heads, self.trained, strict=True))):
            fp32, foreground = FP32 * classes * voxels, FP32 * (classes - 1) * voxels
            logits = self._logits(voxels)
            step(alloc=fp32, free=INT64 * voxels, where=here)  # cross-entropy
            step(alloc=logits, free=2 * fp32, where=here)  # log-softmax
            step(alloc=foreground, free=fp32, where=here)  # the product with the one-hot target
            step(alloc=foreground, free=foreground, where=here)  # and the plain sum of probabilities
            step(alloc=fp32, free=foreground, where=here)  # background put back
            step(alloc=logits, free=2 * fp32, where=here)  # softmax
            step(free=logits, where=here)  # added to the other one

    def _merge_backward(
        self, c_in: int, c_out: int, low: int, high: int, where: IntArray, gradient_goes: IntArray
    ) -> None:
        """Backwards through `_merge`; in the end there is a gradient of the convolution's input."""
        width, step = self.sizes.width, self.tape.step
        small, large = width * c_out * low, width * c_out * high
        if self.sizes.setup.autocast:  # to fp32, interpolation, and back
            step(alloc=2 * large, where=where)
            step(free=large, where=where & gradient_goes)
            step(alloc=2 * small, free=2 * large, where=where)
            step(alloc=small, free=2 * small, where=where)
        else:
            step(alloc=small, where=where)
            step(free=large, where=where & gradient_goes)
        step(alloc=small, free=2 * small + self.sizes.norm_statistics(c_out), where=where)  # norm
        step(alloc=width * c_in * low, free=small + self.sizes.weights_kept(c_in * c_out), where=where)

    def backward(self) -> None:
        sizes, space, step = self.sizes, self.sizes.space, self.tape.step
        for (channels, voxels, _), trained in reversed(list(zip(self.heads, self.trained, strict=True))):
            step(alloc=sizes.width * channels * voxels, free=self._logits(voxels), where=trained)
        if self.stem_has_stride:
            c, everywhere = sizes.full_resolution_channels, self.reaches[0]
            full = sizes.width * c * sizes.full_voxels
            step(alloc=full, free=2 * full, where=everywhere)  # activation: its gradient and its result go
            step(alloc=full, free=2 * full + sizes.norm_statistics(c), where=everywhere)  # norm
            step(alloc=full, free=full, where=everywhere)  # convolution
            step(alloc=full, free=2 * full, where=everywhere)  # activation
            self._merge_backward(space.channels[0], c, sizes.voxels[0], sizes.full_voxels, everywhere, everywhere)
        first = 1 if self.stem_has_stride else 0
        for s in self.scales:
            size, joined = sizes.maps[s], self.has_node[s] & self.merged[s]
            if s > 0 or self.stem_has_stride:  # a second gradient, from the head, that the first one is added to
                step(free=size, where=self.reaches[s] & self.trained[s + first])
            step(alloc=size, free=2 * size, where=self.reaches[s])  # activation: its gradient and its result go
            step(alloc=size, free=size, where=joined)  # the division by sqrt(2)
            if s + 1 < space.n_scales:
                self._merge_backward(
                    space.channels[s + 1],
                    space.channels[s],
                    sizes.voxels[s + 1],
                    sizes.voxels[s],
                    self.merged[s],
                    ~self.has_node[s],
                )
