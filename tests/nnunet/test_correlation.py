"""What a correlation compares, and the tables that come of it; see `tests/cli/test_correlation.py` for the command."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.evaluation.evaluate_predictions import save_summary_json

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.cost import CostModel, Quantity, TrainingSetup, parse_bytes
from nnunet_hypersegnas.nnunet.correlation.errors import CorrelationError
from nnunet_hypersegnas.nnunet.correlation.folder import CorrelationFolder, CorrelationRecord
from nnunet_hypersegnas.nnunet.correlation.from_scratch import FromScratch
from nnunet_hypersegnas.nnunet.correlation.results import CorrelationResults
from nnunet_hypersegnas.nnunet.correlation.running import in_order
from nnunet_hypersegnas.nnunet.correlation.sub_nets import ranked_nets
from nnunet_hypersegnas.nnunet.correlation.super_nets import JudgedSuperNet, SuperNetPredictions
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fold_training import FoldState
from nnunet_hypersegnas.search import BudgetError, Score, SearchSettings, budgets_of
from tests.spaces import FULL_RESOLUTION

COSTS = CostModel(
    FULL_RESOLUTION, TrainingSetup(patch_size=(16, 24, 16), batch_size=2, input_channels=1, num_classes=3)
)
NETS = ranked_nets(COSTS, 9, [])
SETTINGS = SearchSettings(finetune_iterations=1500)
LABELS = {"background": 0, "organ": [1, 2], "lesion": 2}


def dataset():
    network = {"network_class_name": "U-Net", "arch_kwargs": {}, "_kw_requires_import": []}
    plans = {
        "dataset_name": "Dataset998_Some",
        "plans_name": "Plans",
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": {"architecture": network, "hypersegnas": {"seed": 0}}},
    }
    labels = {"labels": LABELS, "regions_class_order": [1, 2]}
    return PreprocessedDataset(
        name="Dataset998_Some", plans=plans, configuration_name="3d_fullres", dataset_json=labels
    )


@pytest.fixture
def network(monkeypatch, tmp_path):
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "nnUNet_preprocessed" / "Dataset998_Some").mkdir(parents=True)
    return FromScratch.of(dataset(), FULL_RESOLUTION, NETS[0], "nnUNetTrainer", 2)


def test_without_budgets_halves_by_memory_are_the_windows():
    assert ranked_nets(COSTS, 9, []) == NETS
    memory = [net.memory_bytes for net in NETS]
    assert memory == sorted(memory)
    assert [net.window for net in NETS] == ["smaller half"] * 4 + ["larger half"] * 5
    costs = COSTS.predict_all([net.architecture for net in NETS])
    assert [net.multiply_adds for net in NETS] == costs.multiply_adds.tolist()
    assert [net.parameters for net in NETS] == costs.parameters.tolist()


def test_budgets_give_as_many_each_within_their_windows():
    budgets = budgets_of(["3.2MB", "2.1MB"], {}, tolerance="0.2MB")
    nets = ranked_nets(COSTS, 7, budgets)
    assert nets == ranked_nets(COSTS, 7, budgets) and len({net.architecture for net in nets}) == 14
    assert [net.window for net in nets] == ["3p2MB"] * 7 + ["2p1MB"] * 7
    for budget, found in zip(budgets, (nets[:7], nets[7:]), strict=True):
        assert all(net.memory_bytes in budget.limits.intervals[Quantity.MEMORY] for net in found)
        assert np.ptp([net.memory_bytes for net in found]) > parse_bytes("0.1MB")  # spread over the window


def test_budgets_that_cannot_be_windows():
    with pytest.raises(CorrelationError, match=r"budgets 2p1MB and 2p2MB overlap"):
        ranked_nets(COSTS, 7, budgets_of(["2.2MB", "2.1MB"], {}, tolerance="0.2MB"))
    with pytest.raises(BudgetError, match="no architecture has memory"):
        ranked_nets(COSTS, 7, budgets_of(["1GB"], {}, tolerance="1MB"))


def test_trainings_come_in_an_order_of_their_own(network):
    networks = [FromScratch.of(dataset(), FULL_RESOLUTION, net, "nnUNetTrainer", 2) for net in NETS]
    order = in_order(networks)
    assert order == in_order(networks) and order != networks
    assert {one.plans_file for one in order} == {one.plans_file for one in networks}


def test_plans_of_that_name_are_taken_where_they_train_the_same(network):
    assert network.faults(dataset()) == []
    network.write_plans(dataset())
    plans = json.loads(network.plans_file.read_text())
    assert plans["plans_name"] == f"Plans_net_{NETS[0].architecture.id}" == network.plans_file.stem
    assert network.faults(dataset()) == []
    plans["configurations"]["3d_fullres"]["hypersegnas"]["seed"] = 7  # the super-net's matter
    plans["hypersegnas_search"]["package_version"] = "0.0"
    write_json(network.plans_file, plans)
    assert network.faults(dataset()) == []
    plans["configurations"]["3d_fullres"]["batch_size"] = 3
    write_json(network.plans_file, plans)
    (fault,) = network.faults(dataset())
    assert f"{network.plans_file} is there already and does not train sub-net {NETS[0].architecture.id}" in fault
    network.write_plans(dataset())
    assert json.loads(network.plans_file.read_text()) == plans  # never replaced


def test_folds_of_another_network_are_refused(network):
    other = FromScratch.of(dataset(), FULL_RESOLUTION, NETS[1], "nnUNetTrainer", 2)
    fold = network.model.fold_folder(2)
    fold.mkdir(parents=True)
    torch.save({}, fold / "checkpoint_latest.pth")
    write_json(network.model.folder / "plans.json", dict(other.model.dataset.plans))
    (fault,) = network.faults(dataset())
    assert "holds folds of another network" in fault


def test_the_truth_is_nnunets_own_of_regions_too(network):
    assert network.truth() is None and network.state is FoldState.NEW
    folder = network.summary_file.parent
    folder.mkdir(parents=True)
    summary = {
        "mean": {(1, 2): {"Dice": 0.8, "IoU": 0.6}, 2: {"Dice": float("nan"), "IoU": 0.3}},
        "foreground_mean": {"Dice": float("nan")},
        "metric_per_case": [],
    }
    save_summary_json(summary, str(network.summary_file))
    truth = network.truth()
    assert truth.dsc_by_label["organ"] == 0.8 and math.isnan(truth.dsc_by_label["lesion"]) and truth.dsc == 0.8
    network.summary_file.write_text('{"mean": {"(1, 2)": {"Dice": 0.8')  # as a full disk may leave it
    with pytest.raises(CorrelationError, match=r"holds no DSC of every label .* delete it"):
        network.truth()


def scores(values):
    return tuple(Score(dsc_by_label={"organ": v, "lesion": v}) for v in values)


def results(*plans, trained=9, fine_tuned=True):
    rng = np.random.default_rng(0)
    truth = np.linspace(0.5, 0.8, 9)
    predictions = [
        SuperNetPredictions(
            super_net=JudgedSuperNet(plans=name, trainer="Trainer", checkpoint=Path(__file__)),
            shared=scores(truth + rng.normal(0, 0.2, 9)),
            fine_tuned=scores(truth + 0.1) if fine_tuned else None,
        )
        for name in plans
    ]
    record = CorrelationRecord(
        dataset="Dataset001_Some",
        configuration="3d_fullres",
        plans="Plans",
        fold=0,
        trainer="nnUNetTrainer_5epochs",
        device="cpu",
        validation_cases=None,
        sub_nets=NETS,
    )
    known = {net.architecture.id: scores([dsc])[0] for net, dsc in list(zip(NETS, truth, strict=True))[:trained]}
    return CorrelationResults(
        record=record, settings=SETTINGS, labels=("organ", "lesion"), super_nets=tuple(predictions), truth=known
    )


def table(found, heading):
    return next(one for one in found.tables() if one.heading.startswith(heading))


def test_tables_of_one_super_net(tmp_path):
    found = results("Plans")
    overall, within = table(found, "Rank correlation"), table(found, "Within windows")
    titles = ["DSC, shared weights", "DSC after 1,500 iterations", *(row["predicted by"] for row in overall.rows[2:])]
    assert [row["predicted by"] for row in overall.rows] == titles and titles[-1] == "training memory (control)"
    assert [row["super-net"] for row in overall.rows] == ["Plans", "Plans", "-", "-", "-"]
    assert overall.rows[1]["Kendall's tau (95%)"] == "+1.00 (+1.00 to +1.00)" and overall.rows[1]["networks"] == "9"
    assert overall.rows[-1]["Spearman's rho (95%)"].startswith("+1.00")  # truth rises with memory here
    assert "sd of tau over super-nets" not in overall.rows[0] and "Spearman's rho (95%)" not in within.rows[0]
    assert any("flatters" in note for note in overall.notes)
    assert len(table(found, "Each window").rows) == 2 * 5
    published = table(found, "Published")
    assert [row["Kendall's tau"] for row in published.rows] == ["0.22", "0.55"] and "Figure 4" in published.notes[0]
    assert "9 of 9 networks are trained" in table(found, "Networks").notes[0]

    folder = CorrelationFolder(tmp_path)
    found.write(folder)
    with folder.csv.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and float(rows[0]["dsc_trained_organ"]) == 0.5
    content = json.loads(folder.json.read_text())
    assert content["super_nets"][0]["checkpoint"] == found.super_nets[0].super_net.digest
    assert content["correlations"][1]["correlations"][0]["kendall"]["value"] == 1


def test_what_is_not_trained_yet_is_left_out(tmp_path):
    for trained in (0, 2, 5):
        found = results("Plans", trained=trained, fine_tuned=False)
        overall = table(found, "Rank correlation")
        assert [row["networks"] for row in overall.rows] == [str(trained)] * 4
        assert (overall.rows[-1]["Kendall's tau (95%)"] == "-") == (trained < 3)
        assert [row["DSC trained"] for row in table(found, "Networks").rows][trained:] == ["-"] * (9 - trained)
        found.write(CorrelationFolder(tmp_path))
    assert json.loads((tmp_path / "results.json").read_text())["scores"][-1]["dsc_trained_mean"] is None


def test_tables_of_several_super_nets_name_each_and_their_mean():
    found = results("Short", "Long", "Longest")
    rows = table(found, "Rank correlation").rows
    assert [row["super-net"] for row in rows] == [*(["Short", "Long", "Longest", "mean of 3"] * 2), "-", "-", "-"]
    assert [row["sd of tau over super-nets"] == "-" for row in rows] == [True] * 3 + [False] + [True] * 3 + [False] + [
        True
    ] * 3
    assert rows[3]["p"] == "-" and rows[0]["p"] != "-"
    assert {"DSC shared (Short)", "DSC fine-tuned (Longest)"} <= set(table(found, "Networks").rows[0])
    assert set(found.panels()) == {one.title for one in found.predictions}
    assert list(found.panels()["DSC, shared weights"]) == ["Short", "Long", "Longest"]


def test_a_folder_of_another_correlation_is_refused(tmp_path):
    folder, record = CorrelationFolder(tmp_path), results("Plans").record
    folder.begin(record)
    folder.begin(record)
    other = CorrelationRecord(**{**vars(record), "trainer": "nnUNetTrainer", "sub_nets": NETS[:3]})
    with pytest.raises(
        CorrelationError, match=r"trainer nnUNetTrainer_5epochs then, nnUNetTrainer now; other sub-nets"
    ):
        folder.begin(other)
