"""The record of a search, whatever has become of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.run_folder import RunError, RunFolder, RunRecord
from nnunet_hypersegnas.search import SearchSettings
from tests.mutations import FEW, MANY, bytes_mutated, json_mutated

RECORD = RunRecord(
    dataset="Dataset999_Synthetic",
    configuration="3d_fullres",
    fold=0,
    plans="nnUNetPlans",
    trainer="HyperSegNASSupernetTrainer",
    super_net="0123",
    device="cpu",
    memory="predicted",
    budgets={"1GB": "1 GB"},
    settings=SearchSettings(),
    crops="crops_0123",
    storage=None,
    host="elsewhere",
    study="a study",
)
CONTENT = json.loads(json.dumps(RECORD.to_json()))


def run_folder(path, content):
    folder = RunFolder(path)
    folder.path.mkdir(exist_ok=True)
    folder.record_file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def check_read_or_refused(path, content):
    try:
        record = run_folder(path, content).read()
    except HyperSegNASError as error:
        assert len(str(error)) < 1500
    else:
        assert record.digest and record.settings.candidates > 0


def test_what_is_written_is_read(tmp_path):
    assert run_folder(tmp_path / "run", CONTENT).read() == RECORD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fold": -1}, "fold is -1, needed is greater than or equal to 0"),
        ({"settings": []}, r"settings is \[\], needed is an object"),
        ({"budgets": {"1GB": 5}}, "budgets.1GB is 5, needed is text"),
        ({"format": "1"}, "which this one cannot read"),
        ({"format": 2, "package_version": "9.9"}, "made by the newer version 9.9"),
    ],
)
def test_a_record_that_is_wrong_is_refused(tmp_path, change, message):
    with pytest.raises(RunError, match=message):
        run_folder(tmp_path / "run", CONTENT | change).read()


@given(data=st.data())
@FEW
def test_any_change_is_read_or_refused(tmp_path, data):
    changes = st.one_of(json_mutated(CONTENT), bytes_mutated(json.dumps(CONTENT).encode()))
    check_read_or_refused(tmp_path / "run", data.draw(changes))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(data=st.data())
@MANY
def test_many_changes_are_read_or_refused(tmp_path, data):
    changes = st.one_of(json_mutated(CONTENT), bytes_mutated(json.dumps(CONTENT).encode()))
    check_read_or_refused(tmp_path / "run", data.draw(changes))
