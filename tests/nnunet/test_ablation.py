"""What an ablation compares, and the tables that come of it."""

import csv
import json

import numpy as np
import pytest

from nnunet_hypersegnas.cost import CostModel, TrainingSetup
from nnunet_hypersegnas.evaluation.ablation import ScoredSuperNet
from nnunet_hypersegnas.nnunet.ablation.errors import AblationError
from nnunet_hypersegnas.nnunet.ablation.folder import AblationFolder, AblationRecord
from nnunet_hypersegnas.nnunet.ablation.results import AblationResults
from nnunet_hypersegnas.nnunet.ablation.sub_nets import spread_sub_nets
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.variants import MAIN, VANILLA, VARIANTS, longer_vanilla
from nnunet_hypersegnas.report.ablation_figure import AblationDrawing, plot_ablation
from nnunet_hypersegnas.space import count_architectures, sample_codes
from tests.spaces import FULL_RESOLUTION, TINY

COSTS = CostModel(
    FULL_RESOLUTION, TrainingSetup(patch_size=(16, 24, 16), batch_size=2, input_channels=1, num_classes=3)
)
SUB_NETS = spread_sub_nets(FULL_RESOLUTION, COSTS.predict, 6)


def record(**changes):
    values = {"dataset": "Dataset001_Some", "configuration": "3d_fullres", "plans": "Plans", "fold": 0}
    values |= {"device": "cpu", "validation_cases": None, "sub_nets": SUB_NETS}
    return AblationRecord(**{**values, **changes})


def results(*keys, seeds=(0, 1)):
    rng = np.random.default_rng(0)
    nets = [
        ScoredSuperNet(
            variant=key,
            seed=seed,
            dsc_by_label=rng.uniform(0.2, 0.6, (6, 2)) + 0.2 * (key == "main"),
            seconds_per_volume=np.full(6, 0.5),
            seconds_per_iteration={"main": 0.3, "vanilla": 0.2}.get(key, 0.25),
        )
        for seed in seeds
        for key in keys
    ]
    variants = [*VARIANTS.values(), longer_vanilla(1.5, SuperNetSettings())]
    return AblationResults.of(record(), variants, 100, ["organ", "lesion"], nets)


def table(found, heading):
    return next(one for one in found.tables() if one.heading.startswith(heading))


def test_sub_nets_are_distinct_spread_and_always_the_same():
    again = spread_sub_nets(FULL_RESOLUTION, COSTS.predict, 25)
    assert again == spread_sub_nets(FULL_RESOLUTION, COSTS.predict, 25)
    assert len({net.architecture for net in again}) == 25
    memory = [net.memory_bytes for net in again]
    assert memory == sorted(memory)
    codes = sample_codes(FULL_RESOLUTION, 2000, np.random.default_rng(1))
    share = np.searchsorted(np.sort(COSTS.predict(codes).memory_bytes), memory) / 2000
    assert np.abs(share - (np.arange(25) + 0.5) / 25).max() < 0.1  # one of each part of what training draws


def test_a_space_without_so_many_sub_nets_is_refused():
    costs = CostModel(TINY, TrainingSetup(patch_size=(8, 8, 8), batch_size=1, input_channels=1, num_classes=2))
    with pytest.raises(AblationError, match=r"gave .* sub-nets; ask for as many"):
        spread_sub_nets(TINY, costs.predict, count_architectures(TINY) + 1)


def test_a_folder_holds_one_ablation(tmp_path):
    folder = AblationFolder(tmp_path / "ablation")
    folder.begin(record())
    folder.begin(record())  # goes on
    with pytest.raises(
        AblationError, match=r"other arguments \(plans Plans then, Other now; other sub-nets \(6 then, 2"
    ):
        folder.begin(record(plans="Other", sub_nets=SUB_NETS[:2]))


def test_table_1_and_the_published_rows_beside_it():
    found = results("vanilla", "keep-man", "no-anneal", "main")
    first = table(found, "Ways to train")
    assert [row["variant"][:2] for row in first.rows] == ["A:", "C:", "D:", "Hy"]
    assert set(first.rows[0]) == {
        *("variant", "seeds", "DSC organ", "DSC lesion", "DSC mean", "sd over seeds", "s/volume", "s/iteration")
    }
    assert first.rows[3]["s/iteration"] == "0.300" and first.rows[3]["seeds"] == "0 1"
    assert "--longer-vanilla 1.50" in first.notes[-1] and "C and D are one training" in first.notes[-2]
    published = table(found, "Published")
    assert [row["DSC mean"] for row in published.rows] == ["0.5292", "0.6013", "0.3016", "0.5915"]
    assert all("[published]" in row["variant"] for row in published.rows) and "Table 1" in published.notes[0]


def test_differences_to_vanilla_at_equal_iterations_and_at_equal_time():
    found = results("vanilla", "main", "longer-vanilla")
    headings = [one.heading for one in found.tables()]
    assert f"Difference to {VANILLA.title}, paired" in headings
    assert "Difference to A, 1.5 times the iterations, paired" in headings
    rows = table(found, "Difference to A: vanilla").rows
    assert [row["sub-nets"] for row in rows] == ["all (6)", "smaller half (3)", "larger half (3)"]
    assert {row["variant"] for row in rows} == {MAIN.title}  # a vanilla is no variant of MAN
    means = [net.dsc.mean() for net in found.scores.super_nets if net.variant in ("main", "vanilla")]
    expected = (means[1] - means[0] + means[3] - means[2]) / 2
    assert rows[0]["DSC difference"].startswith(f"{expected:+.4f} (")
    assert rows[0]["by seed"] == f"0: {means[1] - means[0]:+.4f} 1: {means[3] - means[2]:+.4f}"


def test_what_is_there_of_an_ablation_that_is_not_complete():
    found = results("keep-man", seeds=(0,))
    assert [one.heading for one in found.tables()] == [
        *("Ways to train a super-net (Table 1)", "Published, for comparison", "Rank agreement")
    ]
    assert table(found, "Rank agreement").rows[0]["between seeds"] == "-"


def test_every_number_is_written(tmp_path):
    folder, found = AblationFolder(tmp_path), results("vanilla", "main")
    found.scores.super_nets[0].dsc_by_label[2] = np.nan
    found.write(folder)
    content = json.loads(folder.json.read_text())
    assert len(content["scores"]) == 24 and content["scores"][2]["dsc_mean"] is None
    assert content["differences"][0]["test"]["difference"]["mean"] > 0
    assert [net["id"] for net in content["record"]["sub_nets"]] == [net.architecture.id for net in SUB_NETS]
    rows = list(csv.DictReader(folder.csv.open()))
    assert len(rows) == 24 and rows[7]["variant"] == "main" and rows[7]["half"] == "smaller half"
    net = found.scores.super_nets[1]
    assert float(rows[7]["dsc_lesion"]) == net.dsc_by_label[1, 1] and float(rows[7]["dsc_mean"]) == net.dsc[1]


def test_the_figure_goes_from_small_to_large(tmp_path):
    drawing = AblationDrawing(
        memory_bytes=[3e6, 1e6, 2e6],
        dsc={"A": {0: [0.3, 0.1, 0.2], 1: [0.5, 0.3, 0.4]}, "B": {0: [0, 0, float("nan")]}},
    )
    assert drawing.order == [1, 2, 0] and drawing.means("A") == pytest.approx([0.2, 0.3, 0.4])
    plot_ablation(drawing, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
