"""Folds as interruptions leave them; see `tests/cli/test_crossval.py` for the command."""

import io
import re

import pytest
import torch

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.nnunet.cross_validation import ChangedPlansError, CrossValidation
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fold_training import FoldsError, FoldState, missing_jobs, run_jobs


def plans_with(channels):
    network = {"network_class_name": "some.Network", "arch_kwargs": {"channels": channels}, "_kw_requires_import": []}
    return {"dataset_name": "D", "plans_name": "Plans", "configurations": {"3d_fullres": {"architecture": network}}}


def model_with(channels):
    dataset = PreprocessedDataset(
        name="Dataset998_Some", plans=plans_with(channels), configuration_name="3d_fullres", dataset_json={}
    )
    return CrossValidation(dataset=dataset, trainer="nnUNetTrainer")


@pytest.fixture
def model(monkeypatch, tmp_path):
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return model_with(4)


def test_a_checkpoint_that_was_cut_off_is_removed_by_who_goes_on(model):
    """torch.save is killed: in the last checkpoint, in one of several, in the only one; not while another trains."""
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(5000)}, buffer)
    whole = buffer.getvalue()
    for fold, files in ((1, ("final", "best")), (2, ("latest",)), (3, ("best",))):
        folder = model.fold_folder(fold)
        folder.mkdir(parents=True)
        for name in files:
            (folder / f"checkpoint_{name}.pth").write_bytes(whole)
    for fold, name in ((1, "final"), (2, "final"), (3, "best")):
        (model.fold_folder(fold) / f"checkpoint_{name}.pth").write_bytes(whole[: len(whole) // 2])
    jobs = missing_jobs(model, [1, 2, 3], "cpu", None)
    assert [job.state for job in jobs] == [FoldState.BEGUN, FoldState.BEGUN, FoldState.NEW]
    assert len(list(model.folder.glob("fold_*/checkpoint_*.pth"))) == 5  # looking changes nothing
    for job in jobs:
        job.command[:] = ["python", "-c", "pass"]
    run_jobs(jobs, model, [{}], lambda *_: None)
    left = sorted(str(path.relative_to(model.folder)) for path in model.folder.glob("fold_*/checkpoint_*.pth"))
    assert left == ["fold_1/checkpoint_best.pth", "fold_2/checkpoint_latest.pth"]


def test_a_fold_that_was_trained_meanwhile_is_not_trained_again(model):
    jobs = missing_jobs(model, [1], "cpu", None)
    model.fold_folder(1).mkdir(parents=True)
    torch.save({}, model.fold_folder(1) / "checkpoint_final.pth")
    with pytest.raises(FoldsError, match="another process went on with fold 1"):
        run_jobs(jobs, model, [{}], lambda *_: None)


def test_folds_of_another_network_are_refused_by_name(model):
    """As after hsnas_search --overwrite: the folder is named after the plans, whatever network they describe."""
    write_json(model.folder / "plans.json", plans_with(4))
    assert len(missing_jobs(model_with(5), [0], "cpu", None)) == 1  # nothing was trained so far
    write_json(model.fold_folder(0) / "validation" / "summary.json", {})
    assert missing_jobs(model, [0], "cpu", None) == []
    message = (
        rf"{re.escape(str(model.folder))} holds folds of another network \(Network \w+\) than the plans Plans .*move"
    )
    for call in (lambda m: missing_jobs(m, [0], "cpu", None), lambda m: m.pairs([0])):
        with pytest.raises(ChangedPlansError, match=message):
            call(model_with(5))
