"""Batches of nnU-Net's loader that follow from a seed and their number."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Tensor

from nnunet_hypersegnas.space import derive_seed


class ForgetfulTransforms:
    """Transforms that keep nothing from one sample to the next.

    Those of a cascade shuffle a list of their own in place, so a sample would depend on all that were drawn before it.
    """

    def __init__(self, transforms: Callable[..., dict[str, Tensor]]) -> None:
        self._transforms = transforms
        for transform in nested_transforms(transforms):
            if isinstance(transform, GaussianBlurTransform):
                # It would time FFT against convolution and keep the faster one for later samples: with nothing kept,
                # anew for each; and which one is taken changes a sample. Convolution is faster at nnU-Net's sigmas.
                transform.benchmark = False

    def __call__(self, **sample: Tensor) -> dict[str, Tensor]:
        return deepcopy(self._transforms)(**sample)


def nested_transforms(transforms: Any) -> Iterator[BasicTransform]:
    """Yield all transforms that these are made of."""
    if isinstance(transforms, ComposeTransforms):
        for transform in transforms.transforms:
            yield from nested_transforms(transform)
    elif isinstance(transforms, RandomTransform):
        yield from nested_transforms(transforms.transform)
    else:
        yield transforms


class SeededBatches:
    """Batches of nnU-Net's loader, each drawn with a seed of its own.

    So the n-th batch is the same one whatever was drawn before, in this process or in how many background processes.

    Args:
        loader: draws from the global random generators.
        seed: of all batches.
        first: number of the first batch.
        step: from one batch to the next; of background processes each takes every n-th batch.
    """

    def __init__(self, loader: Any, seed: int, first: int = 0, step: int = 1) -> None:
        self.loader, self.seed, self.number, self.step = loader, seed, first, step

    def set_thread_id(self, thread_id: int) -> None:
        """Called by batchgenerators in each background process, with its number."""
        self.number += thread_id

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        seed = derive_seed(self.seed, "batch", self.number)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        self.number += self.step
        return next(self.loader)
