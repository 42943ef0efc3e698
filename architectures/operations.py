"""The building blocks of every network in the search space, in 2D and 3D.

Shapes: B batch, C channels, then the spatial axes. Every edge ends in an InstanceNorm, and MAN's scalars act AFTER it:
a positive scalar before a norm would be cancelled by it, and MAN would have no influence at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.01  # nnU-Net's LeakyReLU


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, NEGATIVE_SLOPE)


def convolution(in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int]) -> nn.Module:
    """Return a convolution with nnU-Net's He initialisation; a norm follows it, so it has no bias."""
    conv_class = {2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
    conv = conv_class(
        in_channels, out_channels, tuple(kernel), tuple(stride), tuple(k // 2 for k in kernel), bias=False
    )
    nn.init.kaiming_normal_(conv.weight, a=NEGATIVE_SLOPE)
    return conv


def average_pool(x: Tensor, stride: Sequence[int]) -> Tensor:
    if all(s == 1 for s in stride):
        return x
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[len(stride)]
    return pool(x, tuple(stride), tuple(stride))


def upsample(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Interpolate linearly by the given factors."""
    if all(s == 1 for s in stride):
        return x
    mode = {2: "bilinear", 3: "trilinear"}[len(stride)]
    larger = F.interpolate(x, scale_factor=tuple(float(s) for s in stride), mode=mode, align_corners=False)
    return larger.to(x.dtype)  # CUDA's autocast interpolates in fp32; the maps after it would stay fp32


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
        """Normalise x, shape (B, C, ...); `scale_bc` has shape (B, C)."""
        if scale_bc is None:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        # One sample of B * C channels is the same norm, with an affine for every sample.
        scale = scale_bc.float()
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

    def forward(self, raw: Tensor, activated: Tensor, scale_bc: Tensor | None = None) -> Tensor:
        return upsample(self.norm(self.conv(activated), scale_bc), self.up)


class ProjectionSkip(nn.Module):
    """A skip connection that changes the scale: pooling down or interpolation up, with 1x1 convolution and norm.

    Average pooling as in nnU-Net's residual encoder (a strided 1x1 convolution would drop 7 of 8 voxels); going up,
    convolution and norm work at the low resolution, since a 1x1 convolution commutes with linear interpolation.
    """

    def __init__(self, in_channels: int, out_channels: int, down: Sequence[int], up: Sequence[int]) -> None:
        super().__init__()
        ones = (1,) * len(down)
        self.conv = convolution(in_channels, out_channels, ones, ones)
        self.norm = ScaledInstanceNorm(out_channels)
        self.down, self.up = tuple(down), tuple(up)

    def forward(self, raw: Tensor, activated: Tensor, scale_bc: Tensor | None = None) -> Tensor:
        return upsample(self.norm(self.conv(average_pool(raw, self.down)), scale_bc), self.up)


class IdentitySkip(nn.Module):
    """A skip connection within a scale."""

    def forward(self, raw: Tensor, activated: Tensor, scale_bc: Tensor | None = None) -> Tensor:
        if scale_bc is None:
            return raw
        return raw * scale_bc.to(raw.dtype)[(...,) + (None,) * (raw.ndim - 2)]


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
        return self.norm(self.conv(average_pool(image, self.pool)))


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


def sum_normalised(terms: Sequence[Tensor]) -> Tensor:
    """Add feature maps and divide by sqrt(n), which keeps the magnitude of independent inputs whatever was sampled.

    This is the paper's "summed and normalized" (section 3.1). A norm here would cancel MAN's scalars at every node with
    one incoming edge, and a mean would shrink nodes with many.
    """
    if len(terms) == 1:
        return terms[0]
    total = terms[0] + terms[1]
    for term in terms[2:]:
        total = total + term
    return total * len(terms) ** -0.5


def relative_product(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the per-axis product of some strides."""
    return tuple(prod(axis) for axis in zip(*strides, strict=True))
