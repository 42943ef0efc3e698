"""The building blocks of every network in the search space, in 2D and 3D.

Shapes: B batch, C channels, then the spatial axes. Every edge ends in an InstanceNorm, and MAN's scalars act AFTER it:
a positive scalar before a norm would be cancelled by it, and MAN would have no influence at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from operator import add
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NEGATIVE_SLOPE = 0.01  # nnU-Net's LeakyReLU
FULL_PRECISION = (torch.float32, torch.float64)
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.7
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class _KeepingItsResult(torch.autograd.Function):
    """LeakyReLU that keeps its result for the backward pass, as the convolutions after it do anyway, not its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = F.leaky_relu(x, NEGATIVE_SLOPE)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.leaky_relu_backward(gradient, result, NEGATIVE_SLOPE, True)


def activate(x: Tensor) -> Tensor:
    """Apply LeakyReLU; what it saves for the backward pass is its result."""
    return _KeepingItsResult.apply(x) if x.requires_grad else F.leaky_relu(x, NEGATIVE_SLOPE)


def in_fast_layout(x: Tensor) -> Tensor:
    """Return a map in the memory format in which a network is fast: on a CPU, channels last.

    All operations keep the format, in which a CPU convolves and interpolates faster (docs/performance.md). On other
    devices the map stays as it is, and so it does in half precision: in bf16, which CPUs compute natively, oneDNN's
    gradients of small channels-last weights are not finite (torch 2.13). Exported programs, which run anywhere, have
    plain operations.
    """
    if x.device.type != "cpu" or x.dtype not in FULL_PRECISION or torch.is_autocast_enabled("cpu") or _is_exporting():
        return x
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])


class Scaled(NamedTuple):
    """A feature map times one number for each sample and channel, multiplied only where the product is needed.

    A chain of skips that keep their scale then costs a product of a few numbers, where each of its links would make,
    and keep for the backward pass, another map.

    Attributes:
        factor: shape (B, C, 1, ...), or (1, C, 1, ...) for all samples, or None for 1.
    """

    map: Tensor
    factor: Tensor | None = None

    def times(self, scale_bc: Tensor | None) -> Scaled:
        """Return it times MAN's scalars, shape (B, C), or (1, C) for all samples."""
        if scale_bc is None:
            return self
        factor = _over(self.map, scale_bc.to(self.map.dtype))
        return Scaled(self.map, factor if self.factor is None else self.factor * factor)

    def product(self) -> Tensor:
        return self.map if self.factor is None else self.map * self.factor


class _Pointwise:
    """A convolution of single voxels: where a voxel's channels lie side by side, a matrix product without any copy."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def forward(self, x: Tensor) -> Tensor:
        if not _is_channels_last(x):
            return super().forward(x)  # type: ignore[misc]
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class PointwiseConv2d(_Pointwise, nn.Conv2d):
    """1x1 convolution."""


class PointwiseConv3d(_Pointwise, nn.Conv3d):
    """1x1x1 convolution."""


def pointwise_convolution(in_channels: int, out_channels: int, dimension: int, *, bias: bool) -> nn.Module:
    """Return a convolution of single voxels, as torch initialises it."""
    return {2: PointwiseConv2d, 3: PointwiseConv3d}[dimension](in_channels, out_channels, 1, bias=bias)


def convolution(in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Module:
    """Return a convolution with nnU-Net's He initialisation; a norm follows it, so it has no bias."""
    if prod(kernel) == prod(stride) == 1:
        conv = pointwise_convolution(in_channels, out_channels, len(kernel), bias=False)
    else:
        conv_class = {2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
        padding = tuple(k // 2 for k in kernel)
        conv = conv_class(in_channels, out_channels, tuple(kernel), tuple(stride), padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, a=NEGATIVE_SLOPE)
    return conv


def average_pool(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Average over blocks of voxels, axis by axis: torch's pooling would keep x for the backward pass."""
    for axis, step in enumerate(stride, start=2):
        if step > 1:
            x = reduce(add, x.unflatten(axis, (-1, step)).unbind(axis + 1))
    return x if prod(stride) == 1 else x.mul_(1 / prod(stride))


def upsample(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Interpolate linearly by the given factors."""
    if all(s == 1 for s in stride):
        return x
    mode = {2: "bilinear", 3: "trilinear"}[len(stride)]
    larger = F.interpolate(x, scale_factor=tuple(float(s) for s in stride), mode=mode, align_corners=False)
    return larger.to(x.dtype)  # CUDA's autocast interpolates in fp32; the maps after it would stay fp32


class _ChannelsLastNorm(torch.autograd.Function):
    """InstanceNorm of maps in channels-last memory, which torch's own would copy to and fro.

    Args:
        x: shape (B, C, ...).
        scale, shift: the affine, shape (B, C), or (1, C) for all samples.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        # Deviations first: torch's group norm takes the mean of squares in this format, and loses digits by it.
        axes = tuple(range(2, x.ndim))
        mean = x.mean(axes)
        y = x - _over(x, mean)
        rstd = (y.square().mean(axes) + eps).rsqrt()
        ctx.save_for_backward(x, mean, rstd, scale)
        return y.mul_(_over(x, rstd * scale)).add_(_over(x, shift))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, mean, rstd, scale = ctx.saved_tensors
        axes, voxels = tuple(range(2, x.ndim)), prod(x.shape[2:])
        of_shift = gradient.sum(axes)
        of_scale = rstd * (x - _over(x, mean)).mul_(gradient).sum(axes)
        # d/dx = scale * rstd * (gradient - of_shift / n - (x - mean) * rstd * of_scale / n)
        by_gradient = scale * rstd
        by_x = -by_gradient * rstd * of_scale / voxels
        constant = -by_gradient * of_shift / voxels - by_x * mean
        of_x = torch.addcmul(_over(x, constant), x, _over(x, by_x)).addcmul_(gradient, _over(x, by_gradient))
        if len(scale) == 1:
            of_scale, of_shift = of_scale.sum(0, keepdim=True), of_shift.sum(0, keepdim=True)
        return of_x, of_scale, of_shift, None


def _is_channels_last(x: Tensor) -> bool:
    """Whether x has that memory format, and no other one."""
    return x.is_contiguous(memory_format=CHANNELS_LAST[x.ndim - 2]) and not x.is_contiguous()


def _over(x: Tensor, values: Tensor) -> Tensor:
    """Return values of shape (B, C) as they broadcast over x's voxels."""
    return values[(...,) + (None,) * (x.ndim - 2)]


class ScaledInstanceNorm(nn.Module):
    """InstanceNorm whose affine output may be scaled per sample and channel.

    The scalars are folded into the norm's own affine, so scaling costs no extra pass and no extra saved tensor.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, scale_bc: Tensor | None = None) -> Tensor:
        """Normalise x, shape (B, C, ...); `scale_bc` has shape (B, C), or (1, C) for all samples."""
        # Small convolutions of one sample return the default format, and with a gradient in the other format torch's
        # own norm is wrong in its backward pass.
        x = in_fast_layout(x)
        if _is_channels_last(x) and x.dtype in FULL_PRECISION:
            affine = torch.stack([self.weight, self.bias])[:, None]
            scale, shift = affine if scale_bc is None else affine * scale_bc
            return _ChannelsLastNorm.apply(x, scale, shift, self.eps)
        if scale_bc is None:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        scale = scale_bc.to(self.weight.dtype)
        if len(scale) == 1:
            return F.instance_norm(x, weight=scale[0] * self.weight, bias=scale[0] * self.bias, eps=self.eps)
        # One sample of B * C channels is the same norm, with an affine for every sample.
        flat = x.reshape(1, -1, *x.shape[2:])
        normed = F.instance_norm(
            flat, weight=(scale * self.weight).flatten(), bias=(scale * self.bias).flatten(), eps=self.eps
        )
        return normed.reshape(x.shape)


class ConvolutionEdge(nn.Module):
    """Convolution and norm between two scales, the resampling in the cheaper order.

    Going down the convolution carries the stride; going up it stands before the upsampling, where it costs less by the
    stride's product (8 in 3D).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Sequence[int], down: Sequence[int], up: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel, down)
        self.norm = ScaledInstanceNorm(out_channels)
        self.up = tuple(up)

    def forward(self, activated: Tensor, scale_bc: Tensor | None = None) -> Tensor:
        return upsample(self.norm(self.conv(activated), scale_bc), self.up)


class ProjectionSkip(nn.Module):
    """A skip connection that changes the scale: pooling down or interpolation up, with 1x1 convolution and norm.

    One that keeps the scale has nothing to compute, see `Scaled.times`.
    Average pooling as in nnU-Net's residual encoder (a strided 1x1 convolution would drop 7 of 8 voxels); going up,
    convolution and norm work at the low resolution, since a 1x1 convolution commutes with linear interpolation.
    """

    def __init__(self, in_channels: int, out_channels: int, down: Sequence[int], up: Sequence[int]) -> None:
        super().__init__()
        ones = (1,) * len(down)
        self.conv = convolution(in_channels, out_channels, ones, ones)
        self.norm = ScaledInstanceNorm(out_channels)
        self.down, self.up = tuple(down), tuple(up)

    def forward(self, node: Tensor, scale_bc: Tensor | None = None) -> Tensor:
        return upsample(self.norm(self.conv(average_pool(node, self.down)), scale_bc), self.up)


class Stem(nn.Module):
    """Feature map of one scale from the image: the image pooled to that scale, a convolution and a norm."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Sequence[int], pool: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel, stride)
        self.norm = ScaledInstanceNorm(out_channels)
        self.pool = tuple(pool)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(in_fast_layout(self.conv(average_pool(image, self.pool))))


class Merge(nn.Module):
    """One step of the output's running sum towards the finer scale: activation, 1x1 convolution, norm, upsampling."""

    def __init__(self, in_channels: int, out_channels: int, up: Sequence[int]) -> None:
        super().__init__()
        ones = (1,) * len(up)
        self.conv = convolution(in_channels, out_channels, ones, ones)
        self.norm = ScaledInstanceNorm(out_channels)
        self.up = tuple(up)

    def forward(self, activated: Tensor) -> Tensor:
        return upsample(self.norm(self.conv(activated)), self.up)


class FullResolution(nn.Module):
    """From the finest searched scale to full resolution, where the stem had a stride (DiNTS's final stem)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int], up: Sequence[int]) -> None:
        super().__init__()
        self.merge = Merge(in_channels, out_channels, up)
        self.conv = convolution(out_channels, out_channels, kernel, (1,) * len(up))
        self.norm = ScaledInstanceNorm(out_channels)

    def forward(self, activated: Tensor) -> Tensor:
        return self.norm(self.conv(activate(self.merge(activated))))


def sum_normalised(terms: Sequence[Scaled]) -> Scaled:
    """Add feature maps and divide by sqrt(n), which keeps the magnitude of independent inputs whatever was sampled.

    This is the paper's "summed and normalized" (section 3.1). A norm here would cancel MAN's scalars at every node with
    one incoming edge, and a mean would shrink nodes with many.
    """
    if len(terms) == 1:
        return terms[0]
    total = terms[0].product() + terms[1].product()
    for term in terms[2:]:
        total = total + term.product()
    return Scaled(total.mul_(len(terms) ** -0.5))


def relative_product(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the per-axis product of some strides."""
    return tuple(prod(axis) for axis in zip(*strides, strict=True))
