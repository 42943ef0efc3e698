"""Predictions that nnU-Net wrote with any of its readers, scored in the voxel order and voxel size of the file."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient

from nnunet_hypersegnas.evaluation import Scoring, surface_dice
from nnunet_hypersegnas.evaluation.images import read_segmentation
from nnunet_hypersegnas.evaluation.scoring import Pair, score_pair

TOLERANCE_MM = 1.0
SPACING_MM = (0.7, 0.9, 3.1)  # x, y, z


def affine(rotation, origin=(-31.5, 18.25, 70.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * SPACING_MM
    matrix[:3, 3] = origin
    return matrix


a = np.radians(20)
TILTED = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
TURNED = TILTED @ np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])
SHEARED = TILTED + np.array([[0, 0.06, 0], [0, 0, 0], [0, 0, 0]])
PLACES = {"straight": affine(np.eye(3)), "tilted": affine(TILTED), "turned": affine(TURNED), "sheared": affine(SHEARED)}
READERS = (SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient)


def box(shift=0):
    """Labels (X, Y, Z), another size along each axis, `shift` voxels along x from their place."""
    labels = np.zeros((12, 10, 8), np.uint8)
    labels[3 + shift : 8 + shift, 2:6, 3:6] = 1
    return labels


def write(path, labels, sform, qform=None, codes=(2, 1), unit="mm"):
    image = nib.Nifti1Image(labels, sform)
    image.header.set_xyzt_units(unit)
    image.set_sform(sform, codes[0])
    image.set_qform(sform if qform is None else qform, codes[1])
    nib.save(image, path)


def predicted(reader, folder, sform, **forms):
    """Return a pair whose prediction a reader of nnU-Net wrote, in the geometry that it had read."""
    for name, shift in (("truth", 0), ("guess", 2)):
        write(folder / f"{name}.nii.gz", box(shift), sform, **forms)
    _, properties = reader().read_images((str(folder / "truth.nii.gz"),))
    labels, _ = reader().read_seg(str(folder / "guess.nii.gz"))
    reader().write_seg(labels[0], str(folder / "prediction.nii.gz"), properties)
    return Pair(case="a", prediction=folder / "prediction.nii.gz", reference=folder / "truth.nii.gz")


def check(pair, spacing_mm=SPACING_MM):
    (score,), faults = score_pair(pair, Scoring(labels=None, tolerance_mm=TOLERANCE_MM))
    assert not faults
    truth, guess = box().T == 1, box(2).T == 1
    assert score.dsc == pytest.approx(3 / 5)
    assert score.nsd == pytest.approx(surface_dice(truth, guess, spacing_mm[::-1], TOLERANCE_MM), abs=1e-6)
    assert score.reference_ml == pytest.approx(60 * np.prod(spacing_mm) / 1000, rel=1e-5)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("place", ["straight", "tilted", "turned"])
def test_each_reader(tmp_path, reader, place):
    check(predicted(reader, tmp_path, PLACES[place]))


@pytest.mark.parametrize("reader", [NibabelIO, NibabelIOWithReorient])
def test_axes_that_are_not_at_right_angles(tmp_path, reader):
    pair = predicted(reader, tmp_path, PLACES["sheared"], qform=PLACES["tilted"], codes=(2, 0))
    assert determine_reader_writer_from_file_ending(".nii.gz", str(pair.reference), verbose=False) is NibabelIO
    check(pair, np.linalg.norm(PLACES["sheared"][:3, :3], axis=0))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 0), (0, 1), (0, 0)])
def test_a_file_that_states_two_places_or_none(tmp_path, reader, codes):
    """ITK and nibabel take different ones, and hand on what they took."""
    check(predicted(reader, tmp_path, PLACES["tilted"], qform=affine(np.eye(3), (1.0, 2.0, 3.0)), codes=codes))


@pytest.mark.parametrize(("reader", "mm"), [(SimpleITKIO, 1e-3), (NibabelIO, 1)])
def test_micrometres(tmp_path, reader, mm):
    """ITK turns them into mm, and nibabel takes them for mm."""
    in_micrometres = PLACES["tilted"] * ([[1000]] * 3 + [[1]])
    check(predicted(reader, tmp_path, in_micrometres, unit="micron"), np.multiply(SPACING_MM, 1000 * mm))


@pytest.mark.parametrize("place", list(PLACES))
def test_another_place_is_a_fault(tmp_path, place):
    write(tmp_path / "truth.nii.gz", box(), PLACES[place])
    moved = PLACES[place].copy()
    moved[0, 3] += 2
    write(tmp_path / "prediction.nii.gz", box(), moved)
    pair = Pair(case="a", prediction=tmp_path / "prediction.nii.gz", reference=tmp_path / "truth.nii.gz")
    _, faults = score_pair(pair, Scoring(labels=None, tolerance_mm=None))
    assert len(faults) == 1 and "has origin" in faults[0]


def test_formats_agree(tmp_path):
    """The same image by ITK in each of its formats, and by nibabel."""
    write(tmp_path / "a.nii", box(), PLACES["tilted"])
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    expected = read_segmentation(tmp_path / "a.nii")
    for ending in (".nii.gz", ".nrrd", ".mha"):
        sitk.WriteImage(image, str(tmp_path / f"b{ending}"), True)
        found = read_segmentation(tmp_path / f"b{ending}")
        assert np.array_equal(found.labels, expected.labels)
        assert expected.geometry.differences(found.geometry) == []
    assert np.array_equal(expected.labels, box().T)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_kind_of_nifti(tmp_path, kind, order, dtype):
    header = kind.header_class(endianness=order)
    image = kind(box()[..., None].astype(dtype), PLACES["turned"], header)
    image.set_data_dtype(dtype)
    nib.save(image, tmp_path / "a.nii.gz")
    found = read_segmentation(tmp_path / "a.nii.gz")  # with a fourth axis of one
    assert np.array_equal(found.labels, box().T) and found.labels.dtype == dtype and found.labels.dtype.isnative


def test_scaled_values(tmp_path):
    image = nib.Nifti1Image(box() * 2.0 + 4, np.eye(4))
    image.set_data_dtype(np.uint8)
    image.header.set_slope_inter(2, 4)
    nib.save(image, tmp_path / "a.nii.gz")
    found = read_segmentation(tmp_path / "a.nii.gz").labels
    assert len(np.unique(found)) == 2 and np.array_equal(found.T, nib.load(tmp_path / "a.nii.gz").get_fdata())
    assert np.array_equal(found, sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))))


def test_one_slice(tmp_path):
    """As ITK writes it in two dimensions, and in pictures."""
    labels = box()[..., 4].T
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((0.5, 0.25))
    image.SetDirection((0.0, -1.0, 1.0, 0.0))
    found = []
    for ending in (".nii.gz", ".nrrd", ".mha"):
        sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
        found.append(read_segmentation(tmp_path / f"a{ending}"))
        assert np.array_equal(found[-1].labels, labels[None])
        assert found[0].geometry.differences(found[-1].geometry) == []
    for ending in (".png", ".bmp"):
        NaturalImage2DIO().write_seg(labels[None], str(tmp_path / f"a{ending}"), {})
        picture = read_segmentation(tmp_path / f"a{ending}")
        expected, _ = NaturalImage2DIO().read_seg(str(tmp_path / f"a{ending}"))
        assert np.array_equal(picture.labels, expected[0])
        assert picture.geometry.shape == (*labels.shape[::-1], 1)
