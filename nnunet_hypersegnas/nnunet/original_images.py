"""From the preprocessed grid back to the image that a case came from: nnU-Net's way of exporting, for any values.

nnU-Net's own export turns logits into labels on the way, and its writers know labels alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from nnunet_hypersegnas.atomic import temporary_folder
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset


def preprocessed_spacing_mm(dataset: PreprocessedDataset, properties: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the voxel size of a preprocessed case, three values; a 2D configuration keeps that of the first axis."""
    original = [properties["spacing"][i] for i in dataset.plans_manager.transpose_forward]
    spacing = list(dataset.configuration.spacing)
    return (*original[: len(original) - len(spacing)], *spacing)


def on_original_grid(values: np.ndarray, dataset: PreprocessedDataset, properties: Mapping[str, Any]) -> np.ndarray:
    """Undo nnU-Net's resampling, crop and transposition, as its export does.

    Args:
        values: shape (X, Y, Z), float32, on the grid of the preprocessed case.
        dataset: whose configuration preprocessed it.
        properties: that nnU-Net keeps beside the case.

    Returns:
        float32, in the axis order of nnU-Net's reader; 0 outside of the crop.
    """
    plans = dataset.plans_manager
    resampled = dataset.configuration.resampling_fn_probabilities(
        values[None],
        properties["shape_after_cropping_and_before_resampling"],
        preprocessed_spacing_mm(dataset, properties),
        [properties["spacing"][i] for i in plans.transpose_forward],
    )
    whole = np.zeros(properties["shape_before_cropping"], np.float32)
    whole = insert_crop_into_image(whole, np.asarray(resampled)[0], properties["bbox_used_for_cropping"])
    return whole.transpose(plans.transpose_backward)


def write_on_original(values: np.ndarray, properties: Mapping[str, Any], path: Path) -> None:
    """Write values in the geometry of the image that a case came from.

    Args:
        values: shape (Z, Y, X), as `on_original_grid` gives them.
        properties: that nnU-Net keeps beside the case; they hold what its reader saw of the geometry.
        path: of a .nii.gz file.
    """
    with temporary_folder(path) as folder:
        whole = folder / path.name  # libraries go by the ending, which a temporary file's name has not
        if "nibabel_stuff" in properties:
            nib.save(_nibabel_image(values, properties["nibabel_stuff"]), whole)
        else:
            sitk.WriteImage(_itk_image(values, properties), str(whole), useCompression=True)
        os.replace(whole, path)


def _nibabel_image(values: np.ndarray, stuff: Mapping[str, Any]) -> nib.Nifti1Image:
    """Return the image as NibabelIO and NibabelIOWithReorient make theirs: any affine is right, sheared ones too."""
    original = stuff["original_affine"]
    voxels = np.ascontiguousarray(values.transpose(2, 1, 0), np.float32)
    image = nib.Nifti1Image(voxels, stuff.get("reoriented_affine", original))
    if "reoriented_affine" in stuff:
        image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), io_orientation(original)))
    return image


def _itk_image(values: np.ndarray, properties: Mapping[str, Any]) -> sitk.Image:
    orientation = None
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        size, orientation = len(stuff["spacing"]), stuff.get("original_orientation")
        n = min(3, size)  # of a four-dimensional file, whose last axis are channels, the spatial ones
        spacing, origin = stuff["spacing"][:n], stuff["origin"][:n]
        direction = np.array(stuff["direction"]).reshape(size, size)[:n, :n]
    else:  # pictures and stacks of them have a voxel size at most
        spacing, origin, direction, n = properties["spacing"][::-1], (0.0,) * 3, np.eye(3), 3
    image = sitk.GetImageFromArray(np.ascontiguousarray(values[0] if n == 2 else values, np.float32))
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin([float(value) for value in origin])
    image.SetDirection(direction.ravel().tolist())
    return image if orientation is None else sitk.DICOMOrient(image, orientation)
