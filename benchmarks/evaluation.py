"""Normalised surface distance: how far from MONAI's, and how fast beside it.

Prints a Markdown table; see benchmarks/README.md. Both run in turn on the same masks, in one process with one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.metrics import compute_surface_dice
from scipy.ndimage import gaussian_filter

from nnunet_hypersegnas.evaluation import surface_dice
from nnunet_hypersegnas.space import rng_for

TOLERANCE_MM = 1.0
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, help="labelsTr of a task of the Medical Segmentation Decathlon")
    parser.add_argument("--cases", type=int, default=20, help="of these, each against the next one [%(default)s]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # of MONAI's own arguments
    surface_dice(*[np.ones((2, 2, 2), bool)] * 2, (1, 1, 1), 1)  # the table of triangles is made once
    header = ("masks", "structures", "largest difference", "ours (ms)", "MONAI (ms)", "ratio")
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for name, masks in ((f"{args.labels}", _labels(args.labels, args.cases)), *_synthetic()):
        found = [_compare(*mask) for mask in masks]
        if found:
            difference = max(f[0] for f in found)
            ours, monai = (statistics.median(f[i] for f in found) * 1e3 for i in (1, 2))
            ratio = statistics.median(f[1] / f[2] for f in found)
            print(f"| {name} | {len(found)} | {difference:.1e} | {ours:.1f} | {monai:.1f} | {ratio:.2f} |")


def _labels(folder: Path | None, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, ...]]]:
    images = [sitk.ReadImage(str(path)) for path in sorted(folder.glob("[!.]*"))[: count + 1]] if folder else []
    for one, other in pairwise(images):
        mine, theirs = (sitk.GetArrayFromImage(image) for image in (one, other))
        box = tuple(slice(0, min(a, b)) for a, b in zip(mine.shape, theirs.shape, strict=True))
        for value in np.unique(mine[mine > 0]):
            yield mine[box] == value, theirs[box] == value, one.GetSpacing()[::-1]


def _synthetic() -> Iterator[tuple[str, list[tuple[np.ndarray, np.ndarray, tuple[float, ...]]]]]:
    for shape, spacing_mm in (((64, 64, 64), (1.0, 1.0, 1.0)), ((40, 256, 256), (5.0, 0.8, 0.8))):
        rng = rng_for(0, "surfaces", *shape)
        reference = gaussian_filter(rng.normal(size=shape), [n / 12 for n in shape]) > 0
        prediction = np.roll(reference, 1, 2) ^ (gaussian_filter(rng.normal(size=shape), 2) > 0.1)
        yield " x ".join(map(str, shape)), [(reference, prediction, spacing_mm)]


def _compare(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[float, float, float]:
    """Return the difference of both scores, and the seconds of both."""
    one_hot = [torch.from_numpy(np.stack([~m, m])[None].astype(np.float32)) for m in (prediction, reference)]
    spacing = [float(mm) for mm in spacing_mm]

    def monai() -> float:
        return compute_surface_dice(*one_hot, [TOLERANCE_MM], spacing=spacing, use_subvoxels=True).item()

    functions = (lambda: surface_dice(reference, prediction, spacing_mm, TOLERANCE_MM), monai)
    values: list[float] = []
    seconds: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        values = [_timed(function, taken) for function, taken in zip(functions, seconds, strict=True)]
    return abs(values[0] - values[1]), *(statistics.median(taken) for taken in seconds)


def _timed(function: Callable[[], float], taken: list[float]) -> float:
    started = time.perf_counter()
    value = function()
    taken.append(time.perf_counter() - started)
    return value


if __name__ == "__main__":
    main()
