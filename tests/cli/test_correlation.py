"""hsnas_correlation on the demo's super-net, with networks trained by nnU-Net's own commands in a few iterations."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from nnunet_hypersegnas.cli.correlation import main
from nnunet_hypersegnas.nnunet.correlation.from_scratch import FromScratch
from nnunet_hypersegnas.nnunet.fine_tuning import FineTuner
from nnunet_hypersegnas.nnunet.plans import PROVENANCE
from nnunet_hypersegnas.nnunet.scoring import CropScorer

PLANS = "HyperSegNASDemoSupernet"
TRAINER = "nnUNetTrainer_Matrix"


class Correlation:
    """A folder of results with copies of the demo's super-net, and the command's words."""

    def __init__(self, demo, results):
        self.preprocessed, self.results = demo.preprocessed, results / demo.preprocessed.name
        self.original = demo.supernet_fold / "checkpoint_final.pth"
        self.add_super_net(PLANS)

    def checkpoint(self, plans):
        return self.results / f"HyperSegNASSupernetTrainer__{plans}__3d_fullres" / "fold_0" / "checkpoint_final.pth"

    def add_super_net(self, plans, scale=1.0, **record):
        """Add a super-net with weights of another size, under other plans."""
        content = torch.load(self.original, weights_only=False)
        content["hypersegnas"] |= record
        content["network_weights"] = {k: scale * v for k, v in content["network_weights"].items()}
        self.checkpoint(plans).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, self.checkpoint(plans))

    @property
    def output(self):
        return self.results / "hsnas_correlation" / f"{PLANS}_3d_fullres_fold_0"

    def networks(self):
        return sorted(self.results.glob(f"{TRAINER}__{PLANS}_net_*__3d_fullres/fold_0"))

    def words(self, *more):
        sizes = ["--architectures", "3", "--validation-cases", "1", "--finetune-iterations", "2", "--device", "cpu"]
        return ["999", "3d_fullres", "0", "-p", PLANS, "--trainer", TRAINER, *sizes, *more]


@pytest.fixture
def correlation(demo_environment, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(__file__).parents[1] / "matrix" / "short_trainer"))
    yield Correlation(demo_environment, tmp_path)
    for path in demo_environment.preprocessed.glob(f"{PLANS}_net_*.json"):
        path.unlink()


@pytest.fixture
def counted(monkeypatch):
    """How often the super-nets' sub-nets are scored and fine-tuned; the iterations of each fine-tuning."""
    calls = {"scored": 0, "fine-tuned": []}
    score, fine_tune = CropScorer.score, FineTuner.fine_tune

    def counted_score(self, network):
        calls["scored"] += 1
        if calls["scored"] == calls.get("interrupt at"):
            raise KeyboardInterrupt
        return score(self, network)

    def counted_tuning(self, network, *, iterations, **more):
        calls["fine-tuned"].append(iterations)
        fine_tune(self, network, iterations=iterations, **more)

    monkeypatch.setattr(CropScorer, "score", counted_score)
    monkeypatch.setattr(FineTuner, "fine_tune", counted_tuning)
    return calls


def commands(text):
    return [shlex.split(line.removeprefix("$ ")) for line in text.splitlines() if "nnUNetv2_train Dataset" in line]


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_dry_run_names_what_is_missing_and_writes_nothing(correlation, capsys):
    assert main(correlation.words("--dry-run")) == 0
    found = commands(capsys.readouterr().out)
    assert [c[:4] for c in found] == [["nnUNetv2_train", "Dataset999_Synthetic", "3d_fullres", "0"]] * 3
    assert all(c[4:6] == ["-tr", TRAINER] and c[-2:] == ["-device", "cpu"] and "--npz" not in c for c in found)
    names = [c[c.index("-p") + 1] for c in found]
    assert len(set(names)) == 3 and all(name.startswith(f"{PLANS}_net_") for name in names)
    assert not list(correlation.preprocessed.glob(f"{PLANS}_net_*")) and not correlation.output.exists()
    assert main(correlation.words("--dry-run")) == 0
    assert commands(capsys.readouterr().out) == found  # always the same ones

    def left(number, *files):
        fold = correlation.results / f"{TRAINER}__{names[number]}__3d_fullres" / "fold_0"
        (fold / "validation").mkdir(parents=True)
        for name in files:
            torch.save({}, fold / name)

    left(0, "checkpoint_latest.pth")
    left(1, "checkpoint_final.pth")  # nnU-Net's validation did not end
    assert main(correlation.words("--dry-run")) == 0
    more = [(names[0], "--c"), (names[1], "--val"), (names[2], "cpu")]
    assert [(c[c.index("-p") + 1], c[-1]) for c in commands(capsys.readouterr().out)] == more


def test_from_super_nets_to_tables_through_interruptions(correlation, counted, capfd, monkeypatch):
    """Ctrl-C while sub-nets are fine-tuned, and before the last network trains; then a second super-net."""
    counted["interrupt at"] = 3 + 2
    assert main(correlation.words()) == 130
    log = correlation.output / "scores" / f"HyperSegNASSupernetTrainer__{PLANS}.jsonl"
    assert len(log.read_text().splitlines()) == 3 + 1
    assert not correlation.networks()

    announced, jobs = [], FromScratch.jobs

    def interrupted(self, device):
        if len(announced) == 2:
            raise KeyboardInterrupt
        announced.append(self.net.architecture.id)
        return jobs(self, device)

    monkeypatch.setattr(FromScratch, "jobs", interrupted)
    del counted["interrupt at"], counted["fine-tuned"][:]
    counted["scored"] = 0
    assert main(correlation.words()) == 130
    assert counted == {"scored": 2, "fine-tuned": [2] * 2}
    assert len(correlation.networks()) == 2
    trained = [row for row in rows_of(correlation.output / "scores.csv") if row["dsc_trained_mean"]]
    assert {row["architecture"] for row in trained} == set(announced)  # there is something to look at
    assert "2 of 3 networks are trained" in (correlation.output / "tables.md").read_text()
    monkeypatch.setattr(FromScratch, "jobs", jobs)
    capfd.readouterr()

    assert main(correlation.words()) == 0
    printed = capfd.readouterr().out
    assert len(commands(printed)) == 1 and counted["scored"] == 2
    assert "Rank correlation with training from scratch, all sub-nets:" in printed
    assert "Within windows of memory" in printed and "[published]" in printed and "flatters" in printed
    fold = correlation.networks()[0]
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    content = results_of(correlation.output)
    by_id = {row["architecture"]: row for row in content["scores"]}
    row = by_id[fold.parent.name.split("__")[1].removeprefix(f"{PLANS}_net_")]
    assert row["dsc_trained_mean"] == pytest.approx(summary["foreground_mean"]["Dice"])
    assert len(by_id) == 3 and [row["window"] for row in content["scores"]] == ["smaller half", *["larger half"] * 2]
    judged = {(one["super_net"], one["title"]): one["correlations"] for one in content["correlations"]}
    assert list(judged) == [
        (PLANS, "DSC, shared weights"),
        (PLANS, "DSC after 2 iterations"),
        *(("-", f"{name} (control)") for name in ("parameters", "multiply-adds", "training memory")),
    ]
    for found in judged.values():
        assert [one["group"] for one in found] == ["all", "within windows", "smaller half", "larger half"]
        assert found[0]["networks"] == 3
        assert found[2]["kendall"]["value"] is None  # two networks are no ranking
    assert content["published"]["fine-tuned weights"] == {"kendall": 0.55, "spearman": 0.7}
    assert (correlation.output / "correlation.png").stat().st_size > 10_000
    assert not list((correlation.output / "fine_tuning").rglob("*.pth"))
    plans = json.loads((correlation.preprocessed / f"{PLANS}_net_{row['architecture']}.json").read_text())
    assert plans[PROVENANCE]["supernet_plans"] == PLANS and "selected_on_fold" not in plans[PROVENANCE]

    # Another super-net of the same space is judged against the same networks; nothing is trained again.
    correlation.add_super_net("OtherSeed", scale=1.5)
    counted["scored"] = 0
    words = correlation.words("--supernet-plans", PLANS, "OtherSeed", "--finetune-iterations", "0")
    assert main(words) == 0
    printed = capfd.readouterr().out
    assert not commands(printed) and counted["scored"] == 3
    content = results_of(correlation.output)
    assert [one["super_net"] for one in content["correlations"]] == [PLANS, "OtherSeed", "mean of 2", "-", "-", "-"]
    mine, other, mean = (one["correlations"][0]["kendall"] for one in content["correlations"][:3])
    if mean["value"] is not None:  # so short trainings may leave nothing to rank
        assert mean["value"] == pytest.approx((mine["value"] + other["value"]) / 2)
    assert mean["p"] is None
    assert "DSC shared (OtherSeed)" in printed and "sd of tau over super-nets" in printed
    assert len(content["scores"]) == 6 and "dsc_fine_tuned_mean" not in content["scores"][0]

    # A super-net that was trained anew is scored anew.
    correlation.add_super_net("OtherSeed", scale=0.5)
    assert main(words) == 0 and counted["scored"] == 6

    # Other arguments are refused, damaged files and plans that are in the way are named.
    assert main([*words, "--validation-cases", "2"]) == 1
    assert "holds a correlation with other arguments (validation_cases 1 then, 2 now)" in capfd.readouterr().err
    (fold / "validation" / "summary.json").write_text("{}")
    assert main(words) == 1
    assert "summary.json holds no DSC of every label (KeyError: 'mean'); delete it" in capfd.readouterr().err


def test_windows_of_budgets(correlation, capsys):
    words = correlation.words("--dry-run", "--architectures", "3", "--memory", "8.4MB", "9MB", "--tolerance", "0.4MB")
    assert main(words) == 0
    found = commands(capsys.readouterr().out)
    assert len({c[c.index("-p") + 1] for c in found}) == 6


def test_plans_that_are_in_the_way(correlation, capsys):
    assert main(correlation.words("--dry-run")) == 0
    name = commands(capsys.readouterr().out)[0][-3]
    path = correlation.preprocessed / f"{name}.json"
    shutil.copy(correlation.preprocessed / f"{PLANS}.json", path)
    assert main(correlation.words()) == 1
    assert f"{path} is there already and does not train sub-net {name[-10:]}" in capsys.readouterr().err
    assert not correlation.output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--architectures", "0"], "'0' is not a whole number from 1"),
        (["--finetune-iterations", "-1"], "'-1' is not a whole number"),
        (["--memory", "much"], "no plans much"),
        (["--memory", "0%"], "write a percentage above 0"),
        (["--memory", "20MB", "22MB", "--tolerance", "5MB"], "the budgets 20MB and 22MB overlap"),
        (["--memory", "1GB", "--tolerance", "1MB"], "no architecture has memory"),
        (["--trainer", "NoTrainer"], "nnU-Net finds no trainer 'NoTrainer'"),
        (["--trainer", "HyperSegNASSupernetTrainer"], "trains super-nets"),
        (["-tr", "HyperSegNASSupernetTrainerVanilla"], "-tr HyperSegNASSupernetTrainerVanilla -p"),
        (["--supernet-plans", "No"], "no super-net at"),
        (["-p", "No"], "no plans No"),
    ],
)
def test_bad_arguments(correlation, words, message, capsys):
    try:
        code = main(correlation.words("--dry-run", *words))
    except SystemExit as usage:
        code = usage.code
    assert code in (1, 2)
    assert message in capsys.readouterr().err


def test_an_unknown_fold(correlation, capsys):
    words = correlation.words("--dry-run")
    words[2] = "7"
    assert main(words) == 1
    assert "no fold 7; the data set has 0, 1, 2, 3, 4" in capsys.readouterr().err


def test_super_nets_that_cannot_be_compared(correlation, capsys):
    space = torch.load(correlation.original, weights_only=False)["hypersegnas"]["space"]
    correlation.add_super_net("Wider", space={**space, "channels": [2 * c for c in space["channels"]]})
    assert main(correlation.words("--dry-run", "--supernet-plans", PLANS, "Wider")) == 1
    error = capsys.readouterr().err
    assert "the super-net of plans Wider spans search space" in error and "all have to span the same one" in error
    correlation.add_super_net("Unfinished", annealing_lambda=0.5)
    assert main(correlation.words("--dry-run", "--supernet-plans", "Unfinished")) == 1
    assert "MAN is not annealed away" in capsys.readouterr().err
