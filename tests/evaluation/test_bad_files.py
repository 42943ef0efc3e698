"""Files that are no label maps, each of which is one line, and none of which takes long or much memory."""

import gzip
import os
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from skimage.io import imsave

from nnunet_hypersegnas.cli.evaluate import main
from nnunet_hypersegnas.errors import FaultsError
from nnunet_hypersegnas.evaluation import Scoring, score_pairs
from nnunet_hypersegnas.evaluation.folders import pairs_in
from nnunet_hypersegnas.evaluation.images import ENDINGS, read_segmentation
from nnunet_hypersegnas.evaluation.nifti import check_whole
from nnunet_hypersegnas.evaluation.pool import PoolError, in_processes
from nnunet_hypersegnas.evaluation.unreadable import CutOffError, UnreadableImageError
from tests.evaluation.conftest import two_boxes, write_image

DIM, DATATYPE, PIXDIM, OFFSET, SLOPE, QFORM_CODE, QUATERN, SFORM = 40, 70, 76, 108, 112, 252, 256, 280


@pytest.fixture
def content(tmp_path):
    """The bytes of a NIfTI file without gzip, of 16 x 14 x 12 voxels."""
    write_image(tmp_path / "whole.nii", two_boxes())
    return (tmp_path / "whole.nii").read_bytes()


def with_values(content, at, form, *values):
    return content[:at] + struct.pack(f"<{form}", *values) + content[at + struct.calcsize(form) :]


def what_is_said_of(path):
    with pytest.raises(UnreadableImageError) as error:
        read_segmentation(path)
    message = str(error.value)
    assert "\n" not in message and len(message) < 300
    return message


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_file(tmp_path, ending):
    """Reading of a pipe would wait for a writer for good."""
    path = tmp_path / f"a{ending}"
    assert what_is_said_of(path) == "it is not there"
    path.mkdir()
    assert what_is_said_of(path) == "it is a folder"
    path.rmdir()
    os.mkfifo(path)
    assert what_is_said_of(path) == "it is no file but a pipe, a socket or a device"
    path.unlink()
    path.write_bytes(b"")
    assert "it cannot be read" in what_is_said_of(path)
    path.write_bytes(b"My notes of Tuesday")
    assert "it cannot be read" in what_is_said_of(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_cut_at_any_byte(tmp_path, content, pack):
    """The first bytes tell that it is a NIfTI file, or gzip's; of fewer, nobody knows what they were."""
    packed, path = pack(content), tmp_path / "a.nii.gz"
    path.write_bytes(packed)
    check_whole(path)
    for size in [*range(400), *range(400, len(packed), 97)][: len(packed)]:
        path.write_bytes(packed[:size])
        for read in (read_segmentation, check_whole):
            with pytest.raises(CutOffError if size == 0 or size > 3 else UnreadableImageError):
                read(path)


def test_a_flipped_bit_is_no_cut(tmp_path, content):
    """The check sum tells it, so the file is not taken for one that can be made again."""
    packed, path = bytearray(gzip.compress(content)), tmp_path / "a.nii.gz"
    packed[-6] ^= 1
    path.write_bytes(packed)
    assert "CRC check failed" in what_is_said_of(path)
    with pytest.raises(UnreadableImageError) as error:
        read_segmentation(path)
    assert not isinstance(error.value, CutOffError)


@pytest.mark.parametrize(
    ("at", "form", "values", "message"),
    [
        (DIM, "4h", (3, -16, 14, 12), "its header promises voxels of shape"),
        (DIM, "4h", (3, 0, 14, 12), "its header promises voxels of shape"),
        (DIM, "h", (0,), "cannot be read|promises"),
        (DIM, "h", (9,), "cannot be read|promises"),
        (DIM, "4h", (3, 30000, 30000, 30000), "it is cut off"),
        (DIM, "8h", (7, *[32767] * 7), "it is cut off"),
        (DIM, "5h", (4, 16, 14, 6, 2), "it has 4 axes"),
        (DIM, "6h", (5, 16, 14, 6, 1, 2), "it has 5 axes"),
        (DATATYPE, "2h", (128, 24), "its values are of type"),
        (DATATYPE, "2h", (32, 64), "its values are of type complex64"),
        (DATATYPE, "2h", (9999, 8), "9999, which NIfTI does not know"),
        (DATATYPE, "2h", (0, 8), "its values are of type|cannot be read"),
        (OFFSET, "f", (np.nan,), "cannot be read"),
        (OFFSET, "f", (1e30,), "cannot be read"),
        (OFFSET, "f", (1e12,), "it is cut off"),
        (SFORM, "f", (np.nan,), "no numbers"),
        (SFORM + 12, "f", (np.inf,), "no numbers"),
        (SFORM, "4f", (0, 0, 0, 0), "axis without length"),
        (SFORM, "f", (1e30,), "its voxel size is"),
        (QUATERN, "f", (np.nan,), "no numbers"),
        (0, "i", (0,), "it is no NIfTI file"),
        (344, "4s", (b"\0" * 4,), "it is no NIfTI file of one part"),
    ],
)
def test_headers(tmp_path, content, at, form, values, message):
    (tmp_path / "a.nii").write_bytes(with_values(content, at, form, *values) + bytes(1 << 16))
    tracemalloc.start()
    said = what_is_said_of(tmp_path / "a.nii")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    assert any(part in said for part in message.split("|")), said


@pytest.mark.parametrize("slope", [np.nan, np.inf, 0.0])
def test_a_factor_that_is_none(tmp_path, content, slope):
    """ITK and nibabel leave values as they are."""
    (tmp_path / "a.nii").write_bytes(with_values(content, SLOPE, "f", slope))
    try:
        assert np.array_equal(read_segmentation(tmp_path / "a.nii").labels, two_boxes())
    except UnreadableImageError:
        assert np.isinf(slope)


def test_more_values_than_one(tmp_path):
    pair = sitk.GetImageFromArray(np.zeros((3, 4, 5, 2), np.uint8), isVector=True)
    for ending in (".nrrd", ".mha"):
        sitk.WriteImage(pair, str(tmp_path / f"a{ending}"))
        assert "it has 2 values for each voxel" in what_is_said_of(tmp_path / f"a{ending}")
    sitk.WriteImage(pair, str(tmp_path / "a.nii.gz"))
    assert "it has 5 axes (5 x 4 x 3 x 1 x 2)" in what_is_said_of(tmp_path / "a.nii.gz")
    for ending in (".png", ".bmp"):
        imsave(str(tmp_path / f"a{ending}"), np.arange(48, dtype=np.uint8).reshape(4, 4, 3), check_contrast=False)
        assert "it has 3 values for each pixel" in what_is_said_of(tmp_path / f"a{ending}")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack")
    assert "it has 4 axes" in what_is_said_of(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4, 5), np.complex64), photometric="minisblack")
    assert "its values are of type complex64" in what_is_said_of(tmp_path / "a.tif")


@pytest.mark.parametrize("axes", ["99999999", "93", "-1", ""])
def test_itk_is_not_asked_about_more_axes_than_it_has_room_for(tmp_path, axes):
    """The process would be dead."""
    sitk.WriteImage(sitk.GetImageFromArray(two_boxes()), str(tmp_path / "a.mha"))
    whole = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(whole.replace(b"NDims = 3", f"NDims = {axes}".encode()))
    assert "axes; a label map has 2 or 3" in what_is_said_of(tmp_path / "a.mha")


def test_pages_that_refer_to_each_other(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, two_boxes()[0])
    whole = bytearray(path.read_bytes())
    first = struct.unpack("<I", whole[4:8])[0]
    after = first + 2 + 12 * struct.unpack("<H", whole[first : first + 2])[0]
    whole[after : after + 4] = struct.pack("<I", first)
    path.write_bytes(whole)
    assert "its pages do not end" in what_is_said_of(path)


def test_a_tiff_that_promises_too_much(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[name].overwrite(40000)
    assert "it is cut off" in what_is_said_of(path)


def test_an_image_is_no_label_map(folders):
    """Of as many labels as an image has values, scoring would go on for days."""
    values = np.arange(12 * 14 * 16, dtype=np.int16).reshape(12, 14, 16)
    for folder in folders:
        for case in range(4):
            write_image(folder / f"case_{case}.nii.gz", values)
    with pytest.raises(FaultsError, match=r"has 2,688 labels; 1,000 are possible"):
        score_pairs(pairs_in(*folders), Scoring(labels=None, tolerance_mm=None), 1)


def test_nothing_about_places_that_are_no_numbers_is_scored(folders, capsys):
    predictions, references = folders
    for folder in folders:
        path = folder / "case_0.nii.gz"
        path.write_bytes(gzip.compress(with_values(gzip.decompress(path.read_bytes()), SFORM + 12, "f", np.nan)))
    assert main([str(predictions), str(references), "-np", "1"]) == 1
    assert capsys.readouterr().err.count("values that are no numbers") == 2


def _end(job):
    os._exit(9)


def test_a_process_that_the_system_ends_is_one_line():
    with pytest.raises(PoolError, match="take fewer of them with -np"):
        in_processes(_end, [1, 2], 2, lambda: None)


def test_a_sheared_image_is_scored(tmp_path, capsys):
    affine = np.eye(4)
    affine[0, 1] = 0.06
    for name in ("predictions", "references"):
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(two_boxes(), affine), tmp_path / name / "a.nii.gz")
    words = [str(tmp_path / name) for name in ("predictions", "references")]
    assert main([*words, "--tolerance", "1", "-np", "1"]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert row[2] == "1.0000" and row[6] == "1.0000"
