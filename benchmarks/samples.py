"""How long nnU-Net's augmentation of a sample takes as a super-net trains: with blurs that are timed anew, and without.

    python -m benchmarks.samples --patch 24 40 24 --patch 96 96 96

Both ways draw the same samples, one after the other in turn, on the CPU time of this process.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.tables import ratios, section, table
from nnunet_hypersegnas.nnunet.seeded_batches import ForgetfulTransforms, nested_transforms

ROTATION = (-30 / 360 * 2 * np.pi, 30 / 360 * 2 * np.pi)  # nnU-Net's, of near-isotropic patches
MIRRORED = (0, 1, 2)


def transforms(patch: list[int], timed: bool) -> ForgetfulTransforms:
    """Return nnU-Net's transforms of training, with or without the timing that nnU-Net's own come with."""
    stock = nnUNetTrainer.get_training_transforms(np.array(patch), ROTATION, [[1, 1, 1]], MIRRORED, False)
    made = ForgetfulTransforms(stock)
    for transform in nested_transforms(stock):
        if isinstance(transform, GaussianBlurTransform):
            transform.benchmark = timed
    return made


def seconds(augment: ForgetfulTransforms, patch: list[int], seeds: range) -> float:
    """Return the CPU time of a sample."""
    image, labels = torch.randn(1, *patch), torch.zeros(1, *patch, dtype=torch.int16)
    started = time.process_time()
    for seed in seeds:
        np.random.seed(seed)
        torch.manual_seed(seed)
        augment(image=image.clone(), segmentation=labels.clone())
    return (time.process_time() - started) / len(seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, action="append", required=True, help="in voxels")
    parser.add_argument("--samples", type=int, default=100, help="of each way in each repeat [%(default)s]")
    parser.add_argument("--repeats", type=int, default=5, help="[%(default)s]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with section("Augmentation of a sample"):
        for patch in arguments.patch:
            timed, untimed = transforms(patch, timed=True), transforms(patch, timed=False)
            before, after = [], []
            for repeat in range(arguments.repeats):
                seeds = range(repeat * arguments.samples, (repeat + 1) * arguments.samples)
                before.append(seconds(timed, patch, seeds))
                after.append(seconds(untimed, patch, seeds))
            rows.append(
                {
                    "patch": " x ".join(map(str, patch)),
                    "timed, ms": f"{statistics.median(before) * 1e3:,.1f}",
                    "not timed, ms": f"{statistics.median(after) * 1e3:,.1f}",
                    "not timed / timed": ratios([b / a for a, b in zip(before, after, strict=True)]),
                }
            )
        table(rows)


if __name__ == "__main__":
    main()
