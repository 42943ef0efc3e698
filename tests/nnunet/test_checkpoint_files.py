"""Reading checkpoints runs nothing that is in them; what nnU-Net and we write can be read."""

import contextlib
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_hypersegnas.cli.crossval import main as crossval
from nnunet_hypersegnas.nnunet.checkpoint_files import CheckpointError, load_checkpoint
from nnunet_hypersegnas.nnunet.fold_training import check_weights
from nnunet_hypersegnas.nnunet.supernet_checkpoint import SuperNetRecord
from tests.mutations import FEW, MANY, bytes_mutated


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def touched(tmp_path):
    return tmp_path / "touched"


def as_zip(path, touched):
    torch.save({"network_weights": {"a": torch.ones(2)}, "logging": Touch(touched)}, path)


def as_old_format(path, touched):
    torch.save({"network_weights": Touch(touched)}, path, _use_new_zipfile_serialization=False)


def as_pickle(path, touched):
    path.write_bytes(pickle.dumps({"network_weights": Touch(touched)}, protocol=2))


def as_new_pickle(path, touched):
    path.write_bytes(pickle.dumps({"network_weights": Touch(touched)}, protocol=5))


FORMS = [as_zip, as_old_format, as_pickle, as_new_pickle]


@pytest.mark.parametrize("write", FORMS)
def test_the_file_would_run_something(write, tmp_path, touched):
    write(tmp_path / "a.pth", touched)
    with contextlib.suppress(pickle.UnpicklingError, TypeError, RuntimeError):  # since it is no checkpoint
        torch.load(tmp_path / "a.pth", weights_only=False)
    assert touched.exists()


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize(
    "read",
    [
        load_checkpoint,
        lambda path: load_checkpoint(path, mmap=True),
        SuperNetRecord.read,
        lambda path: check_weights(path, [0]),
    ],
)
def test_nothing_in_a_file_is_run(write, read, tmp_path, touched):
    path = tmp_path / "a.pth"
    write(path, touched)
    with pytest.raises(CheckpointError) as error:
        read(path)
    assert not touched.exists()
    line = str(error.value)
    assert str(path) in line and "\n" not in line
    assert ("holds 'io.open', which" in line and "could run code" in line) or write is as_new_pickle


def test_crossval_does_not_run_what_is_in_weights(finished_demo, demo_environment, tmp_path, touched, capsys):
    as_zip(tmp_path / "a.pth", touched)
    arguments = ["999", "3d_fullres", "--dry-run", "--folds", "0", "--device", "cpu"]
    assert crossval([*arguments, "-p", "nnUNetPlans", "-pretrained_weights", str(tmp_path / "a.pth")]) == 1
    assert "could run code" in capsys.readouterr().err and not touched.exists()


def test_checkpoints_of_nnunet_and_of_ours_are_read(finished_demo):
    files = list(finished_demo.folder.rglob("*.pth"))
    kinds = {name for name in ("checkpoint_final.pth", "weights", "finalists") if any(name in str(f) for f in files)}
    assert kinds == {"checkpoint_final.pth", "weights", "finalists"}
    trainers = set()
    for path in files:
        content = load_checkpoint(path)
        expected = torch.load(path, map_location="cpu", weights_only=False)
        assert list(content) == list(expected)
        trainers.add(content.get("trainer_name"))
        if "logging" in content:
            np.testing.assert_equal(content["logging"], expected["logging"])  # NaN is NaN
            assert content["init_args"] == expected["init_args"]
            assert any(isinstance(value, np.floating) for values in content["logging"].values() for value in values)
        for key, weight in expected.get("network_weights", {}).items():
            assert torch.equal(content["network_weights"][key], weight)
    assert any("HyperSegNAS" in str(name) for name in trainers) and any(
        "nnUNetTrainer" in str(name) for name in trainers
    )


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64, np.int32, np.bool_])
def test_numbers_of_numpy_are_read(kind, tmp_path):
    torch.save(OrderedDict(a=[kind(1)]), tmp_path / "a.pth")
    assert load_checkpoint(tmp_path / "a.pth")["a"][0] == 1


def test_numbers_of_numpy_1_are_read(tmp_path):
    torch.save({"a": np.float64(1.5)}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert load_checkpoint(tmp_path / "old.pth") == {"a": 1.5}


def test_other_objects_of_numpy_are_not(tmp_path):
    torch.save({"a": np.array([Touch(tmp_path / "touched")], dtype=object)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"which is neither a tensor.*could run code"):
        load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("value", [np.uint8(3), np.int16(-3), np.arange(4.0), np.array([True])])
def test_numbers_of_any_kind_and_arrays_of_them_are(tmp_path, value):
    torch.save({"a": value}, tmp_path / "a.pth")
    assert np.array_equal(load_checkpoint(tmp_path / "a.pth")["a"], value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read as a checkpoint"), (b"nothing", "cannot be read"), (b"PK\x03\x04" * 9, "cannot be read")],
)
def test_what_is_no_checkpoint_is_one_line(content, message, tmp_path):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(tmp_path / "a.pth")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_what_is_missing_or_no_dictionary_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*a\.pth; see"):
        load_checkpoint(tmp_path / "a.pth")
    torch.save(torch.ones(2), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds a Tensor, a checkpoint is a dictionary"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.pth"
    torch.save({"network_weights": {"a": torch.arange(9.0)}, "logging": {"losses": [np.float64(1)]}}, path)
    return path.read_bytes()


def check_damaged(path, content):
    path.write_bytes(content)
    try:
        assert isinstance(load_checkpoint(path), dict)
    except CheckpointError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)


@FEW
@given(st.data())
def test_a_damaged_one_is_read_or_is_one_line(whole, tmp_path, data):
    check_damaged(tmp_path / "a.pth", data.draw(bytes_mutated(whole)))


@pytest.mark.slow
@MANY
@given(st.data())
def test_many_damaged_ones_are_read_or_are_one_line(whole, tmp_path, data):
    check_damaged(tmp_path / "a.pth", data.draw(bytes_mutated(whole)))
