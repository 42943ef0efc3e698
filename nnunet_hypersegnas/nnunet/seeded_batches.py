"""Batches of nnU-Net's loader that follow from a seed and their number."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nnunet_hypersegnas.space import derive_seed


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
