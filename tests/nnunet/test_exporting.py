"""Exported networks against nnU-Net's, on the networks that the demo trained."""

import hashlib
import json
import shutil
import sys

import pytest
import torch

from nnunet_hypersegnas.cli import export as command
from nnunet_hypersegnas.nnunet import exporting
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
from nnunet_hypersegnas.nnunet.exporting import TrainedNetwork


@pytest.fixture
def words(demo_environment):
    summary = demo_environment.summary
    plans, trainer = summary["networks"][-1]["plans"], summary["settings"]["final_trainer"]
    return ["-d", "999", "-c", "3d_fullres", "-p", plans, "-tr", trainer]


def test_both_formats_give_what_nnunet_gives(words, tmp_path, capsys):
    assert command.main([*words, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    name = f"{words[5]}_3d_fullres_fold0"
    about = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert set(about["files"]) == set(command.FORMATS) == set(exporting.FORMATS)
    trained = TrainedNetwork.load(
        PreprocessedDataset.find("999", words[5], "3d_fullres"), words[7], 0, "checkpoint_final.pth"
    )
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "out" / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    program = torch.export.load(tmp_path / "out" / f"{name}.pt2").module()
    for batch in (1, 3):  # of any size
        image = torch.randn(batch, *about["input"]["shape"][1:])
        with torch.no_grad():
            expected = trained.network(image)
            assert list(expected.shape[1:]) == about["output"]["shape"][1:]
            # Rounding goes with the largest logit, which is about 30 here: 17 ulp of it.
            torch.testing.assert_close(program(image), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
        (found,) = session.run(["logits"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)
    for file in about["files"].values():
        content = (tmp_path / "out" / file["file"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["max_abs_difference_of_logits"] < 1e-3 and file["voxels"] > 30_000
        assert f"{file['voxels_with_another_label']} of {file['voxels']:,}" in printed
    assert about["labels"] == {"background": 0, "organ": 1, "lesion": 2} and about["patch_size"] == [32, 32, 32]
    assert about["channels"][0]["normalization"] == "ZScoreNormalization" and len(about["spacing_mm"]) == 3

    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(before) == 3
    assert command.main([*words, "-o", str(tmp_path / "out")]) == 1
    assert "exist already; choose another folder with -o" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_file_that_gives_something_else_is_not_left_behind(words, tmp_path, capsys, monkeypatch):
    def write(program, path):
        path.write_text("wrong")
        return lambda image: program.module()(image) + 0.5

    monkeypatch.setattr(exporting, "FORMATS", {"program": (".pt2", write)})
    assert command.main([*words, "-o", str(tmp_path), "--formats", "program"]) == 1
    assert "would give other logits than nnU-Net" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "write_json", _full_disk)
    assert command.main([*words, "-o", str(tmp_path), "--formats", "program"]) == 1
    assert "no space left on the disk" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def _full_disk(path, value):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("channels", [{"channel_names": {"T1": "MRI"}}, {"modality": {"0": "MRI"}}])
def test_channels_are_named_as_nnunet_orders_them(words, tmp_path, demo_environment, channels):
    """nnU-Net counts channels and takes their order; it does not look at their keys."""
    path = demo_environment.preprocessed / "dataset.json"
    before = path.read_text()
    content = json.loads(before)
    del content["channel_names"]
    path.write_text(json.dumps(content | channels))
    try:
        assert command.main([*words, "-o", str(tmp_path), "--formats", "program"]) == 0
    finally:
        path.write_text(before)
    (about,) = tmp_path.glob("*.json")
    assert [channel["name"] for channel in json.loads(about.read_text())["channels"]] == ["MRI"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-f", "3"], "fold_3/checkpoint_final.pth; train it first with `nnUNetv2_train Dataset999_Synthetic"),
        (["-chk", "checkpoint_gone.pth"], "checkpoint_gone.pth; train it first"),
        (["--case", "nobody"], "no preprocessed case 'nobody'"),
        (
            ["-p", "HyperSegNASDemoSupernet", "-tr", "HyperSegNASSupernetTrainer"],
            "HyperSegNASSupernetTrainer trains a super-net; search it",
        ),
    ],
)
def test_bad_input(words, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.setenv("nnUNet_extTrainer", str(external_trainer_folder()))
    assert command.main([*words, "-o", str(tmp_path / "out"), *more]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_onnx_the_other_format_is_left(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert command.main([*words, "-o", str(tmp_path), "--formats", "onnx"]) == 1
    assert "pip install 'nnunet_hypersegnas[onnx]'; or choose --formats program" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert command.main([*words, "-o", str(tmp_path), "--formats", "program"]) == 0


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_that_comes_with_a_training_is_run(words, demo_environment, tmp_path, monkeypatch, capsys):
    name = f"{words[7]}__{words[5]}__3d_fullres"
    results = tmp_path / "results" / "Dataset999_Synthetic"
    training = shutil.copytree(demo_environment.folder / "nnUNet_results" / results.name / name, results / name)
    monkeypatch.setenv("nnUNet_results", str(results.parent))

    def refusal(*more):
        assert command.main([*words, "-o", str(tmp_path / "out"), *more]) == 1
        assert not (tmp_path / "touched").exists() and not (tmp_path / "out").exists()
        return capsys.readouterr().err

    checkpoint, plans_file = training / "fold_0" / "checkpoint_final.pth", training / "plans.json"
    content, plans = torch.load(checkpoint, weights_only=False), json.loads(plans_file.read_text())
    torch.save({**content, "logging": Touch(tmp_path / "touched")}, checkpoint)
    assert "holds 'io.open', which is neither a tensor nor plain data and could run code" in refusal()
    torch.save({**content, "init_args": {**content["init_args"], "configuration": "other"}}, checkpoint)
    assert "was trained with configuration 'other', its folder says 3d_fullres" in refusal()
    torch.save(content, checkpoint)
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "os.system"
    plans_file.write_text(json.dumps(plans))
    assert "name 'os.system' as network_class_name" in refusal()
    assert "nnU-Net cannot load" in refusal("--trust-plans")  # os.system takes no such arguments
