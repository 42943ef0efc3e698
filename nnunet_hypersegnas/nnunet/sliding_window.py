"""nnU-Net's sliding window over many images at once: patches of all images share batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import Tensor, nn

STEP = 0.5  # of a patch, from one to the next, as nnU-Net predicts
# Patches run in batches of so many voxels at most: beyond that, batching gains nothing on a CPU.
VOXELS_A_BATCH, PATCHES_A_BATCH = 2**20, 16

Where = tuple[int | slice, ...]  # in an image of shape (C, X, Y, Z); a 2D patch has an index for the first spatial axis


@dataclass(frozen=True)
class Patch:
    """Where a patch is: which image, and which part of it after its padding."""

    image: int
    where: Where


class SlidingWindow:
    """Predicts a fixed set of images with one network after the other, without mirroring.

    Blended as nnU-Net does it, in fp16: far from a patch's middle that is coarse, but users will predict with it.

    Args:
        images: of shape (C, X, Y, Z) each; those that are smaller than a patch are padded with zeros.
        patch_size: of the configuration; two axes are the image's last two.
        device: where the network runs.
        batch_size: patches a batch, one at least; by default what the device makes use of.
        stride: most voxels from one patch to the next, a patch's side at most; by default half a patch, as nnU-Net
            predicts. Either way patches are spread evenly and reach the image's border.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        patch_size: Sequence[int],
        device: torch.device,
        batch_size: int | None = None,
        stride: int | None = None,
    ) -> None:
        self.device = device
        self.batch_size = batch_size or max(1, min(PATCHES_A_BATCH, VOXELS_A_BATCH // prod(patch_size)))
        self._gaussian = compute_gaussian(tuple(patch_size), 1 / 8, 10, torch.half, device)
        self._images: list[Tensor] = []
        self._inside: list[Where] = []  # the image without its padding
        self.patches: list[Patch] = []
        for i, image in enumerate(images):
            padded, inside = pad_nd_image(
                torch.from_numpy(image), tuple(patch_size), "constant", {"value": 0}, return_slicer=True
            )
            self.patches += [Patch(i, where) for where in _positions(padded.shape[1:], patch_size, stride)]
            self._images.append(padded)
            self._inside.append((slice(None), *inside[1:]))

    def padded(self, image: int, labels: np.ndarray, value: int) -> Tensor:
        """Return something of an image's shape (X, Y, Z), such as its labels, padded as the image was."""
        given, size = torch.from_numpy(labels), self._images[image].shape[1:]
        if given.shape == size:
            return given
        result = given.new_full(size, value)
        result[self._inside[image][1:]] = given
        return result

    def batches(self, patches: Sequence[Patch]) -> Iterator[Tensor]:
        """Yield some patches, in order, in batches of shape (B, C, *patch size) on the device."""
        for start in range(0, len(patches), self.batch_size):
            batch = patches[start : start + self.batch_size]
            yield torch.stack([self._images[patch.image][patch.where] for patch in batch]).to(self.device)

    def patch_logits(self, network: nn.Module, patches: Sequence[Patch]) -> Iterator[Tensor]:
        """Yield the logits of some patches alone, in order, of shape (heads, *patch size) on the device."""
        network.eval()
        for images in self.batches(patches):
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
                logits = network(images)
            yield from logits

    def logits(self, network: nn.Module) -> Iterator[Tensor]:
        """Yield the logits of each image, in order, of shape (heads, X, Y, Z) on the device.

        Args:
            network: on the device; gives one tensor of logits.
        """
        predicted = zip(self.patches, self.patch_logits(network, self.patches), strict=True)
        for i, of_image in groupby(predicted, key=lambda pair: pair[0].image):
            size = self._images[i].shape[1:]
            weights = torch.zeros(size, dtype=torch.half, device=self.device)
            total: Tensor | None = None
            for patch, logits in of_image:
                if total is None:
                    total = weights.new_zeros(len(logits), *size)
                with torch.inference_mode():
                    total[patch.where] += logits * self._gaussian
                    weights[patch.where[1:]] += self._gaussian
            assert total is not None
            yield (total / weights)[self._inside[i]]

    def averaged(self, image: int, values: np.ndarray) -> np.ndarray:
        """Return for each voxel of an image the mean over the patches that cover it, shape (X, Y, Z), float32.

        Args:
            image: which one.
            values: one of each of its patches, in order.
        """
        patches = [patch for patch in self.patches if patch.image == image]
        size = self._images[image].shape[1:]
        total, count = np.zeros(size), np.zeros(size, np.int32)
        for patch, value in zip(patches, values, strict=True):
            total[patch.where[1:]] += value
            count[patch.where[1:]] += 1
        return (total / count)[self._inside[image][1:]].astype(np.float32)


def _positions(image_size: Sequence[int], patch_size: Sequence[int], stride: int | None) -> Iterator[Where]:
    """Yield where the patches of an image are; by default as nnU-Net lays them."""
    if len(patch_size) < len(image_size):
        for index in range(image_size[0]):
            for _, *rest in _positions(image_size[1:], patch_size, stride):
                yield (slice(None), index, *rest)
        return
    if stride is None:
        starts = compute_steps_for_sliding_window(tuple(image_size), tuple(patch_size), STEP)
    else:  # in voxels: nnU-Net's own takes a share of the patch, which is a share that rounding may push over a voxel
        starts = [_starts(size, patch, stride) for size, patch in zip(image_size, patch_size, strict=True)]
    for corner in np.ndindex(*map(len, starts)):
        firsts = [steps[i] for steps, i in zip(starts, corner, strict=True)]
        yield (slice(None), *(slice(first, first + size) for first, size in zip(firsts, patch_size, strict=True)))


def _starts(size: int, patch: int, stride: int) -> list[int]:
    last = size - patch
    steps = -(-last // min(stride, patch))
    return [round(last * i / steps) for i in range(steps + 1)] if steps else [0]
