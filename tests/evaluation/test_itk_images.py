"""NRRD and MetaImage files whose header promises what the file does not hold."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_hypersegnas.evaluation.itk_images import read_labels
from nnunet_hypersegnas.evaluation.unreadable import CutOffError, UnreadableImageError

LABELS = np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 3


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_labels_are_read(tmp_path, ending, packed):
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(tmp_path / f"a{ending}"), packed)
    labels, geometry = read_labels(tmp_path / f"a{ending}")
    assert (labels == LABELS).all() and geometry.shape == (5, 4, 3)


@pytest.mark.parametrize("name", ["secret.bin", "/etc/passwd", "LIST"])
def test_a_metaimage_reads_no_other_file(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(tmp_path / "a.mha"))
    (tmp_path / "secret.bin").write_bytes(bytes(60))
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(content.replace(b"ElementDataFile = LOCAL", b"ElementDataFile = " + name.encode()))
    with pytest.raises(UnreadableImageError, match="its voxels lie in another file"):
        read_labels(tmp_path / "a.mha")


def test_an_nrrd_reads_no_other_file(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(tmp_path / "a.nrrd"))
    header, _, voxels = (tmp_path / "a.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / "secret.bin").write_bytes(voxels)
    (tmp_path / "a.nrrd").write_bytes(header + b"\ndata file: secret.bin\n\n")
    with pytest.raises(UnreadableImageError, match="its voxels lie in another file"):
        read_labels(tmp_path / "a.nrrd")


def test_a_header_that_promises_gigabytes_is_refused_before_anything_is_read(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(tmp_path / "a.mha"))
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(content.replace(b"DimSize = 5 4 3", b"DimSize = 1200 1200 1200"))
    with pytest.raises(CutOffError):
        read_labels(tmp_path / "a.mha")
