"""A small synthetic segmentation task in the folder format of the Medical Segmentation Decathlon.

Label 1 is an organ, a smooth deformed ellipsoid; label 2 one or two lesions inside it. Tissue is textured and noisy
with a bias field, and look-alikes of both labels lie outside the organ, so that no threshold solves the task.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space import rng_for

LABELS = {"0": "background", "1": "organ", "2": "lesion"}
SPACING_MM = (1.0, 1.0, 1.2)  # x, y, z as SimpleITK has it
TISSUE, ORGAN, LESION = 100.0, 135.0, 175.0
TEXTURE, NOISE = 12.0, 14.0  # standard deviations


def write_synthetic_task(folder: Path, *, n_training: int, n_test: int, seed: int) -> Path:
    """Write the task and return its folder; the test cases' labels go into `labelsTs`, which MSD itself keeps back.

    A case follows from the seed and its own number alone.

    Raises:
        HyperSegNASError: the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise HyperSegNASError(f"{folder} is not empty; a synthetic task needs a folder of its own")
    name = folder.name.partition("_")[2] or folder.name
    training, test = [], []
    for number in range(1, n_training + n_test + 1):
        subset = "Tr" if number <= n_training else "Ts"
        file = f"{name.lower()}_{number:03d}.nii.gz"
        image, labels = synthetic_case(rng_for(seed, "synthetic case", number))
        _write(folder / f"images{subset}" / file, image)
        _write(folder / f"labels{subset}" / file, labels)
        if subset == "Tr":
            training.append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
        else:
            test.append(f"./imagesTs/{file}")
    write_json(  # last, so that a folder with this file is complete
        folder / "dataset.json",
        {
            "name": name,
            "description": "Synthetic organ and lesion",
            "reference": "nnunet_hypersegnas",
            "licence": "CC0",
            "release": "1.0",
            "tensorImageSize": "3D",
            "modality": {"0": "MRI"},
            "labels": LABELS,
            "numTraining": len(training),
            "numTest": len(test),
            "training": training,
            "test": test,
        },
    )
    return folder


def synthetic_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (float32) and its labels (uint8), both of shape (Z, Y, X), 36 to 52 voxels a side."""
    shape = tuple(int(n) for n in rng.integers(36, 53, size=3))
    warp = np.stack([_smooth_noise(shape, 5, rng) for _ in range(3)])
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))

    center = np.array(shape) / 2 + rng.uniform(-3, 3, 3)
    radii = rng.uniform(0.24, 0.32, 3) * np.array(shape)
    organ = _ellipsoid(grid + 2.5 * warp, center, radii)
    lesions = np.zeros(shape, bool)
    for _ in range(int(rng.integers(1, 3))):
        offset = rng.uniform(-0.5, 0.5, 3) * radii
        lesions |= _ellipsoid(grid + 1.5 * warp, center + offset, rng.uniform(6.0, 9.0, 3))
    lesions &= organ

    image = np.full(shape, TISSUE, np.float32)
    for intensity in (ORGAN, LESION, LESION):  # look-alikes outside the organ
        where = rng.uniform(0, 1, 3) * np.array(shape)
        image[_ellipsoid(grid + warp, where, rng.uniform(2.5, 6.0, 3))] = intensity
    image[organ] = ORGAN
    image[lesions] = LESION
    image += TEXTURE * _smooth_noise(shape, 2, rng) + NOISE * rng.standard_normal(shape).astype(np.float32)
    image *= 1 + 0.1 * _smooth_noise(shape, 16, rng)
    return image.astype(np.float32), (organ.astype(np.uint8) + lesions.astype(np.uint8))


def _ellipsoid(grid: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    scaled = (grid - center.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)
    return (scaled**2).sum(0) < 1


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian noise of unit variance, smooth over `sigma` voxels, by a filter in the frequency domain."""
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    damping = np.exp(-2 * (np.pi * sigma) ** 2 * sum(f**2 for f in frequencies))
    noise = np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape)) * damping).real
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _write(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(SPACING_MM)
    image.SetOrigin((-12.5, 8.0, 40.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
