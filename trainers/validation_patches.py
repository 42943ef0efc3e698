"""A fixed set of validation patches, drawn once, on which the reference sub-nets are scored every epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from nnunet_hypersegnas.space import derive_seed

Batch = dict[str, Any]


class ValidationPatches:
    """Takes the place of nnU-Net's validation loader: every `next()` gives the same list of one-patch batches."""

    def __init__(self, loader: Any, count: int, seed: int) -> None:
        """Draw `count` patches from nnU-Net's validation augmenter, then shut its workers down."""
        # The generator behind nnU-Net's augmenter, in this process: its background workers draw unseeded.
        source = loader.data_loader if hasattr(loader, "data_loader") else loader.generator
        patches: list[Batch] = []
        with _seeded(derive_seed(seed, "validation patches")):
            while len(patches) < count:
                patches += _single_patches(next(source))
        # Those with most labels first, so that few of them tell of as many labels as possible.
        self.patches = sorted(patches[:count], key=_count_labels, reverse=True)
        if hasattr(loader, "_finish"):
            loader._finish()

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        return self.patches


def copy_of(batch: Batch) -> Batch:
    """Return a copy with targets of its own, since nnU-Net's validation step writes into them."""
    target = batch["target"]
    return {**batch, "target": [t.clone() for t in target] if isinstance(target, list) else target.clone()}


def _count_labels(batch: Batch) -> int:
    target = batch["target"]
    reference = target[0] if isinstance(target, list) else target  # shape (1, 1 or regions, spatial axes)
    if reference.shape[1] > 1:
        return int(reference.flatten(2).any(dim=2).sum())
    return int((torch.unique(reference) > 0).sum())


def _single_patches(batch: Batch) -> list[Batch]:
    target = batch["target"]
    return [
        {
            "data": batch["data"][i : i + 1],
            "target": [t[i : i + 1] for t in target] if isinstance(target, list) else target[i : i + 1],
        }
        for i in range(len(batch["data"]))
    ]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that nnU-Net's loaders use, and put them back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
