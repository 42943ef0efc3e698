"""What nnU-Net preprocessed comes back to where it was: an image is its own map."""

from copy import deepcopy
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from nnunet_hypersegnas.evaluation.nifti import read_header
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.original_images import on_original_grid, preprocessed_spacing_mm, write_on_original

READERS = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")
SPACING_MM, ORIGIN_MM = (0.7, 0.9, 3.1), (-31.5, 18.25, 70.0)  # x, y, z


def direction():
    """Axes swapped and turned back, and then tilted by twenty and by ten degrees."""
    a, b = np.radians((20, 10))
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_x @ about_z @ np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])


@pytest.fixture
def image_file(tmp_path):
    """Smooth, another along each axis, and empty around, so that nnU-Net crops."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (14, 30, 38)), indexing="ij")
    values = (10 + 4 * z + 6 * y**2 + 3 * np.sin(4 * x)).astype(np.float32)
    values = np.pad(values, ((1, 2), (4, 0), (0, 5)))
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING_MM)
    image.SetOrigin(ORIGIN_MM)
    image.SetDirection(direction().ravel().tolist())
    path = tmp_path / "case_0000.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


def dataset_with(demo, reader, **configuration):
    dataset = PreprocessedDataset.find("999", "nnUNetPlans", "3d_fullres")
    plans = deepcopy(dict(dataset.plans))
    plans |= {"image_reader_writer": reader, "transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]}
    plans["configurations"]["3d_fullres"] |= {"normalization_schemes": ["NoNormalization"], **configuration}
    return replace(dataset, plans=plans)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "configuration",
    [{"spacing": [1.1, 2.5, 0.8]}, {"spacing": [1.1, 0.8], "patch_size": [16, 16]}],
    ids=["3d", "2d"],
)
def test_an_image_comes_back(demo_environment, image_file, tmp_path, reader, configuration):
    dataset = dataset_with(demo_environment, reader, **configuration)
    preprocessor = DefaultPreprocessor(verbose=False)
    data, _, properties = preprocessor.run_case(
        [str(image_file)], None, dataset.plans_manager, dataset.configuration, dict(dataset.dataset_json)
    )
    original = sitk.GetArrayFromImage(sitk.ReadImage(str(image_file)))
    assert data[0].size != original.size and len(preprocessed_spacing_mm(dataset, properties)) == 3
    values = on_original_grid(data[0].astype(np.float32), dataset, properties)
    assert values.dtype == np.float32
    path = tmp_path / "map.nii.gz"
    write_on_original(values, properties, path)

    assert read_header(image_file).geometry.differences(read_header(path).geometry) == []
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkFloat32
    found = sitk.GetArrayFromImage(image)
    inside = original > 0
    assert (found[~inside] == 0).all()
    # Resampled twice, of a range of 13; any axis flipped, or swapped with another, is more than 1 off.
    assert np.abs(found - original)[inside].mean() < 0.3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["case_0000.nii.gz", "map.nii.gz"]


def test_pictures_have_a_voxel_size_alone(tmp_path):
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    write_on_original(values, {"spacing": [3.0, 2.0, 1.0]}, tmp_path / "map.nii.gz")
    geometry = read_header(tmp_path / "map.nii.gz").geometry
    assert geometry.shape == (4, 3, 2) and geometry.placements[0].spacing_mm == (1, 2, 3)


def test_one_slice_stays_two_dimensional(tmp_path):
    properties = {"sitk_stuff": {"spacing": (0.5, 0.25), "origin": (1.0, 2.0), "direction": (0.0, -1.0, 1.0, 0.0)}}
    write_on_original(np.ones((1, 3, 4), np.float32), properties, tmp_path / "map.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "map.nii.gz"))
    assert image.GetSize() == (4, 3) and image.GetSpacing() == (0.5, 0.25)


@pytest.mark.parametrize("reader", [NibabelIO, NibabelIOWithReorient])
def test_axes_that_are_not_at_right_angles_come_back(tmp_path, reader):
    """ITK refuses such a file, and nnU-Net takes nibabel."""
    affine = np.array([[0, 0.06, 2, 5], [-0.7, 0, 0.2, -9], [0, 0.9, 0, 3], [0, 0, 0, 1]])
    voxels = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "image.nii.gz")
    values, properties = reader().read_images((str(tmp_path / "image.nii.gz"),))
    write_on_original(values[0], properties, tmp_path / "map.nii.gz")
    found = nib.load(tmp_path / "map.nii.gz")
    assert np.array_equal(found.get_fdata(), voxels) and np.allclose(found.affine, affine)
