"""`hsnas_evaluate` on folders, and on what nnU-Net's validation left behind."""

import csv
import json

import pytest

from nnunet_hypersegnas.cli.evaluate import main
from nnunet_hypersegnas.nnunet.plans import PROVENANCE


def test_folders(folders, capsys):
    predictions, references = folders
    assert main([str(predictions), str(references), "--tolerance", "1", "-np", "1"]) == 0
    printed = capsys.readouterr().out
    assert "NSD at a tolerance of 1 mm." in printed
    assert "1 scores are left out, of structures that their cases do not have, whatever was predicted there" in printed
    first = next(line.split() for line in printed.splitlines() if line.startswith("first"))
    assert first[1:4] == ["4", "0", "0.7500"]
    lines = list(csv.DictReader((predictions / "hsnas_evaluation.csv").open()))
    assert {line["structure"] for line in lines} == {"first", "second"} and len(lines) == 8
    assert json.loads((predictions / "hsnas_evaluation.json").read_text())["nsd_tolerance_mm"] == 1


def test_the_tolerance_of_a_task(folders, capsys):
    words = [*map(str, folders), "-np", "1"]
    assert main(words) == 0
    assert "No NSD: no tolerance is known" in capsys.readouterr().out
    assert main([*words, "--task", "7"]) == 0
    assert "NSD at a tolerance of 5 mm." in capsys.readouterr().out
    assert main([*words, "--task", "Task11_Brain"]) == 1
    assert "'Task11_Brain' is no task of the challenge; its tasks are Task01_BrainTumour" in capsys.readouterr().err
    named = folders[1].parent.rename(folders[1].parent.with_name("Task04_Hippocampus"))
    assert main([words[0], str(named / "labelsTr"), "-np", "1"]) == 0
    assert "NSD at a tolerance of 1 mm." in capsys.readouterr().out


def test_faults_are_printed_line_by_line_and_nothing_is_written(folders, capsys):
    predictions, references = folders
    for case in (0, 1):
        (predictions / f"case_{case}.nii.gz").write_bytes(b"no image")
    assert main([str(predictions), str(references), "-np", "1"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-3:-2] == ["hsnas_evaluate: error: 2 of 4 cases cannot be scored:"]
    assert all(line.startswith("  case_") and "it cannot be read" in line for line in lines[-2:])
    assert not list(predictions.glob("hsnas_*"))


@pytest.mark.parametrize("words", [[], ["a"], ["a", "b", "-d", "4"]])
def test_either_folders_or_a_data_set(words, capsys):
    assert main(words) == 1
    assert "give either two folders, PREDICTIONS and REFERENCES, or a data set with -d" in capsys.readouterr().err


def test_labels_that_are_none(folders, tmp_path, capsys):
    (tmp_path / "labels.json").write_text("{}")
    assert main([*map(str, folders), "--labels", str(tmp_path / "labels.json")]) == 1
    assert "labels.json is no dataset.json with labels" in capsys.readouterr().err


def test_a_cross_validation(demo_environment, capsys, tmp_path):
    """The demo's final training is of fold 0, which chose its architecture."""
    plans = next(
        path.stem for path in demo_environment.preprocessed.glob("*.json") if PROVENANCE in json.loads(path.read_text())
    )
    trainer = next((demo_environment.folder / "nnUNet_results").glob(f"*/*__{plans}__3d_fullres")).name.split("__")[0]
    words = ["-d", "999", "-p", plans, "-tr", trainer, "-np", "1", "-o", str(tmp_path), "--tolerance", "1"]
    assert main([*words, "-f", "0"]) == 0
    printed = capsys.readouterr().out
    assert "* this fold's validation cases chose the architecture" in printed and "\n0*" in printed
    written = json.loads((tmp_path / "hsnas_evaluation_folds_0.json").read_text())
    summary = next(demo_environment.folder.glob(f"nnUNet_results/*/{trainer}__{plans}__3d_fullres/fold_0/validation"))
    expected = json.loads((summary / "summary.json").read_text())["mean"]
    for label, found in zip(("1", "2"), written["summary"], strict=False):
        assert found["dsc"]["mean"] == pytest.approx(expected[label]["Dice"])
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "not trained and validated: fold 1, 2, 3, 4" in message and f"-p {plans} --npz" in message
