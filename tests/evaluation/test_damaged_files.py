"""Files with any bytes changed give a result or one line, within seconds, and nothing else."""

import gzip
import time
import zipfile

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from skimage.io import imsave

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.evaluation import TASKS, Scoring
from nnunet_hypersegnas.evaluation.nifti import check_whole, read_values
from nnunet_hypersegnas.evaluation.scoring import Pair, score_pair
from nnunet_hypersegnas.evaluation.submission import check
from nnunet_hypersegnas.evaluation.unreadable import UnreadableImageError
from tests.mutations import FEW, MANY, bytes_mutated

MOST_SECONDS = 5  # of this process, for one file
ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha", ".gipl", ".tif", ".png", ".bmp")


def labels():
    values = np.zeros((6, 7, 8), np.uint8)
    values[1:4, 2:5, 3:6], values[4:, 5:, :2] = 1, 2
    return values


def write(path):
    ending = "".join(path.suffixes)
    if ending in (".png", ".bmp"):
        imsave(str(path), labels()[2], check_contrast=False)
    elif ending == ".tif":
        tifffile.imwrite(path, labels(), photometric="minisblack", compression="zlib")
    elif ending == ".nii":
        nib.save(nib.Nifti2Image(labels().T, np.diag([1, 1.5, 2, 1])), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(labels()), str(path), True)


def within_time(call, *args):
    start = time.process_time()
    try:
        return call(*args)
    finally:
        assert time.process_time() - start < MOST_SECONDS


def check_image(folder, ending, content):
    """Hold a damaged prediction against the whole reference, and look at it as a submission's file."""
    path = folder / f"damaged{ending}"
    path.write_bytes(content)
    pair = Pair(case="a", prediction=path, reference=folder / f"whole{ending}")
    spacing = None if ending == ".tif" else 1.0
    scores, faults = within_time(score_pair, pair, Scoring(labels=None, tolerance_mm=spacing))
    assert bool(scores) != bool(faults) or not scores
    assert all("\n" not in fault and len(fault) < 1000 for fault in faults)
    assert all(np.isnan(score.dsc) or 0 <= score.dsc <= 1 for score in scores)
    for look in (check_whole, lambda file: read_values(file, 1000)) if ".nii" in ending else ():
        try:
            within_time(look, path)
        except UnreadableImageError as error:
            assert "\n" not in str(error)


def damaged(ending, folder, data):
    """Draw a file's bytes after changes; of a packed file, also after changes of what is in it."""
    content = (folder / f"whole{ending}").read_bytes()
    if ending.endswith(".gz") and data.draw(st.booleans()):
        return gzip.compress(data.draw(bytes_mutated(gzip.decompress(content))))
    return data.draw(bytes_mutated(content))


@pytest.fixture
def whole(tmp_path):
    for ending in ENDINGS:
        write(tmp_path / f"whole{ending}")
    return tmp_path


@pytest.mark.parametrize("ending", ENDINGS)
def test_images(whole, ending):
    @FEW
    @given(st.data())
    def holds(data):
        check_image(whole, ending, damaged(ending, whole, data))

    holds()


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("ending", ENDINGS)
def test_many_images(whole, ending):
    @MANY
    @given(st.data())
    def holds(data):
        check_image(whole, ending, damaged(ending, whole, data))

    holds()


@pytest.fixture
def zipped(tmp_path):
    """A zip with three files of each task."""
    write(tmp_path / "a.nii.gz")
    path = tmp_path / "whole.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for task in TASKS:
            for case in sorted(task.scored)[:3]:
                archive.write(tmp_path / "a.nii.gz", f"{task.folder}/{case}.nii.gz")
    return path


def check_zip(path, content):
    damaged = path.with_name("damaged.zip")
    damaged.write_bytes(content)
    with pytest.raises(HyperSegNASError) as error:  # most cases of all tasks are missing at the least
        within_time(check, damaged, None, 1, lambda: None)
    faults = getattr(error.value, "faults", [str(error.value)])
    assert faults and all(len(fault) < 1000 for fault in faults)


def test_zips(zipped):
    content = zipped.read_bytes()

    @FEW
    @given(bytes_mutated(content))
    def holds(changed):
        check_zip(zipped, changed)

    holds()


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_zips(zipped):
    @MANY
    @given(bytes_mutated(zipped.read_bytes()))
    def holds(changed):
        check_zip(zipped, changed)

    holds()
