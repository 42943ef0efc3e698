"""The kinds of data set that the product has to work on, each small and synthetic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_hypersegnas.space import rng_for

N_TRAINING = 5  # one case for each fold's validation
PLAIN_LABELS = {"background": 0, "organ": 1, "lesion": 2}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of data set, and what its search space has to look like.

    Attributes:
        shape: voxels, z first, of the cases.
        spacing_mm: z first.
        configuration: of the plans.
        preprocessed: configurations whose cases nnU-Net needs; the same one if left out.
        first_stage: configuration of which the other one is the cascade's second stage.
        channels: of the images.
        labels: as in dataset.json.
        planner: flags for nnUNetv2_plan_and_preprocess.
        plans: that it writes.
        strides: of the searched scales, from one to the next, the first one from the image.
        kernels: of the searched scales.
    """

    shape: Sequence[int] = (40, 40, 40)
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
    configuration: str = "3d_fullres"
    preprocessed: Sequence[str] = ()
    first_stage: str | None = None
    channels: int = 1
    labels: Mapping[str, int | list[int]] = field(default_factory=lambda: dict(PLAIN_LABELS))
    planner: Sequence[str] = ()
    plans: str = "nnUNetPlans"
    strides: Sequence[Sequence[int]] = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    kernels: Sequence[Sequence[int]] = ((3, 3, 3),) * 4

    @property
    def values(self) -> set[int]:
        """Labels that a segmentation can hold, the one to ignore left out."""
        return {v for name, value in self.labels.items() if name != "ignore" for v in np.atleast_1d(value).tolist()}

    def write(self, raw: Path) -> None:
        """Write the data set in nnU-Net's raw format."""
        for number in range(N_TRAINING + 1):
            subset = "Tr" if number < N_TRAINING else "Ts"
            rng = rng_for(0, "matrix case", number)
            labels = self._labels(rng)
            for channel in range(self.channels):
                image = 100 + 40.0 * labels + rng.normal(0, 10, labels.shape) + 5 * channel
                self._write(raw / f"images{subset}" / f"case_{number}_{channel:04d}.nii.gz", image.astype(np.float32))
            if subset == "Tr":
                self._write(raw / "labelsTr" / f"case_{number}.nii.gz", labels)
        dataset = {
            "channel_names": {str(i): f"MRI{i}" for i in range(self.channels)},
            "labels": dict(self.labels),
            "numTraining": N_TRAINING,
            "file_ending": ".nii.gz",
        }
        if any(isinstance(value, list) for value in self.labels.values()):
            dataset["regions_class_order"] = sorted(self.values - {0})
        (raw / "dataset.json").write_text(json.dumps(dataset))

    def _labels(self, rng: np.random.Generator) -> np.ndarray:
        """Return a box within a box, and some slices to ignore where the data set has such a label."""
        labels = np.zeros(self.shape, np.uint8)
        low = [int(n * rng.uniform(0.15, 0.25)) for n in self.shape]
        high = [int(n * rng.uniform(0.75, 0.85)) for n in self.shape]
        labels[tuple(map(slice, low, high))] = 1
        if 2 in self.values:
            labels[tuple(slice((3 * a + b) // 4 + 1, (a + 3 * b) // 4) for a, b in zip(low, high, strict=True))] = 2
        if "ignore" in self.labels:
            labels[:, :2] = self.labels["ignore"]
        return labels

    def _write(self, path: Path, voxels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(tuple(reversed(self.spacing_mm)))
        sitk.WriteImage(image, str(path))


REGIONS: Mapping[str, int | list[int]] = {"background": 0, "whole": [1, 2], "core": 2}
WITH_IGNORE: Mapping[str, int | list[int]] = {**PLAIN_LABELS, "ignore": 3}
ONE_LABEL: Mapping[str, int | list[int]] = {"background": 0, "organ": 1}
ANISOTROPIC = {
    "shape": (12, 64, 64),
    "spacing_mm": (6.5, 0.8, 0.8),
    "strides": ((1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2)),
    "kernels": ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
}
FLAT = {
    "configuration": "2d",
    "strides": ((1, 1), (2, 2), (2, 2), (2, 2)),
    "kernels": ((3, 3),) * 4,
}
CASCADE = {
    "shape": (96, 96, 96),
    "planner": ("-gpu_memory_target", "0.25"),
    # The second stage's cases too: nnU-Net's validation of the first one waits for them forever.
    "preprocessed": ("3d_lowres", "3d_fullres"),
}
ROWS = {
    "isotropic": Row(),
    "anisotropic": Row(**ANISOTROPIC),
    "2d": Row(**FLAT),
    "3d_lowres": Row(**CASCADE, configuration="3d_lowres"),
    "3d_cascade_fullres": Row(**CASCADE, configuration="3d_cascade_fullres", first_stage="3d_lowres"),
    "four channels": Row(channels=4),
    "regions": Row(labels=REGIONS),
    "ignore label": Row(labels=WITH_IGNORE),
    "one label": Row(labels=ONE_LABEL),
    "three stages": Row(shape=(20, 20, 20), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)), kernels=((3, 3, 3),) * 3),
    "ResEnc M": Row(planner=("-pl", "nnUNetPlannerResEncM"), plans="nnUNetResEncUNetMPlans"),
    "ResEnc L": Row(planner=("-pl", "nnUNetPlannerResEncL"), plans="nnUNetResEncUNetLPlans"),
    "non-cubic": Row(
        shape=(16, 40, 72), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 2, 2)), kernels=((3, 3, 3),) * 4
    ),
}
# Every pair of what these rows are made of need not be tried each time; these two are.
PAIRS = {
    "anisotropic, four channels, regions": Row(**ANISOTROPIC, channels=4, labels=REGIONS),
    "2d, one label with ignored voxels": Row(**FLAT, labels={**ONE_LABEL, "ignore": 2}),
}
