"""Preprocessed cases whose files are damaged: the message names the case."""

import pytest

from nnunet_hypersegnas.nnunet.dataset import DatasetError, PreprocessedDataset
from nnunet_hypersegnas.nnunet.validation_crops import keep_validation_crops, scoring_cases


@pytest.fixture
def dataset(demo_environment):
    return PreprocessedDataset.find("999", "HyperSegNASDemoSupernet", "3d_fullres")


@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".pkl"])
@pytest.mark.parametrize("share", [0.0, 0.5], ids=["empty", "cut"])
def test_a_damaged_case_is_named(dataset, tmp_path, ending, share):
    (case, *_) = scoring_cases(dataset, 0, 1)
    path = dataset.data_folder / f"{case}{ending}"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    try:
        with pytest.raises(DatasetError, match=rf"preprocessed case {case} in .* cannot be read .*nnUNetv2_preprocess"):
            keep_validation_crops(tmp_path / "crops", dataset, 0, 1)
    finally:
        path.write_bytes(content)
    assert list(tmp_path.iterdir()) == []
    assert [crop.case for crop in keep_validation_crops(tmp_path / "crops", dataset, 0, 1)] == [case]
