"""Tables of models: each has a name of its own, and every count is of what was counted."""

import math

import pytest

from nnunet_hypersegnas.evaluation import Score
from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.model_reports import ModelReport, describe_model, difference_note, footnotes, short_names
from nnunet_hypersegnas.nnunet.network_costs import NetworkCosts
from nnunet_hypersegnas.nnunet.plans import PROVENANCE


@pytest.fixture(autouse=True)
def results(monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))


def report(plans, trainer, dsc):
    """One that was scored on fold 0, which chose its architecture; NaN where a case has nothing that counts."""
    dataset = PreprocessedDataset(
        name="Dataset998_Some",
        plans={"plans_name": plans, PROVENANCE: {"selected_on_fold": 0}},
        configuration_name="3d_fullres",
        dataset_json={},
    )
    scores = [
        Score(fold=0, case=f"case_{i}", structure="a", dsc=v, nsd=math.nan, reference_ml=1, predicted_ml=1)
        for i, v in enumerate(dsc)
    ]
    costs = NetworkCosts(
        name=plans,
        network_class="Network",
        patch_size=(8, 8, 8),
        batch_size=2,
        parameters=1,
        multiply_adds=1,
        memory_bytes=1,
        weight_bytes=1,
        activation_bytes=1,
    )
    return ModelReport(
        model=CrossValidation(dataset=dataset, trainer=trainer),
        folds=(0,),
        scores=tuple(scores),
        costs=costs,
        measured_memory_bytes=None,
        seconds_per_case=None,
    )


def test_models_of_the_same_plans_have_names_of_their_own():
    reports = [report("P", "One", [0.5]), report("P", "Two", [0.6]), report("Q", "One", [0.7])]
    names = short_names(reports)
    assert names == ["One__P__3d_fullres", "Two__P__3d_fullres", "Q"]
    rows = [describe_model(r, name)["model"] for r, name in zip(reports, names, strict=True)]
    assert rows == [f"{name}*" for name in names]
    assert [note.split(":")[0] for note in footnotes(reports, cuda=False)[1:]] == [f"* {name}" for name in names]
    assert difference_note(reports).startswith("Differences are from One__P__3d_fullres, over 1 cases")


def test_cases_are_counted_that_are_compared():
    first, other = report("P", "One", [0.5, math.nan, 0.7, 0.2]), report("Q", "One", [0.5, 0.6, math.nan, 0.1])
    assert "over 2 cases" in difference_note([first, other])
