"""Folders of small segmentations."""

import json

import numpy as np
import pytest
import SimpleITK as sitk


def write_image(path, array, spacing=(1.0, 1.5, 2.0), origin=(3.0, 0.0, -7.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def two_boxes(shift=0):
    labels = np.zeros((12, 14, 16), np.uint8)
    labels[2:8, 3:9, 2 + shift : 8 + shift] = 1
    labels[4:10, 9:12, 4:12] = 2
    return labels


@pytest.fixture
def folders(tmp_path):
    """Four cases whose first label is predicted 0 to 3 voxels beside its place; the last case has no second label."""
    predictions, references = tmp_path / "predictions", tmp_path / "data" / "labelsTr"
    for shift in range(4):
        truth, guess = two_boxes(), two_boxes(shift)
        if shift == 3:
            truth[truth == 2] = 0
        write_image(references / f"case_{shift}.nii.gz", truth)
        write_image(predictions / f"case_{shift}.nii.gz", guess)
    labels = {"background": 0, "first": 1, "second": 2}
    (predictions / "dataset.json").write_text(json.dumps({"labels": labels}))
    return predictions, references
