"""hsnas_ablation, by nnU-Net's own commands, on the demo's data at the smallest sizes."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nnunet_hypersegnas.cli.ablation import main
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.supernet_checkpoint import SuperNetRecord

BLOCK = {
    "layers": 3,
    "channels": [4, 6],
    "epochs": 2,
    "annealing_epochs": 1,
    "iterations_per_epoch": 3,
    "save_every": 1,
}
PLANS = "AblationTest"


class Ablation:
    """Plans with a small block, a folder for results, and the command's words."""

    def __init__(self, preprocessed, results):
        self.preprocessed, self.results = preprocessed, results / preprocessed.name
        self.write()

    def write(self, **block):
        plans = json.loads((self.preprocessed / "HyperSegNASDemoSupernet.json").read_text())
        plans["plans_name"] = PLANS
        plans["configurations"]["3d_fullres"] |= {
            **{"hypersegnas": {**BLOCK, **block}, "patch_size": [16, 16, 16], "batch_size": 1}
        }
        (self.preprocessed / f"{PLANS}.json").write_text(json.dumps(plans))

    @property
    def output(self):
        return self.results / "hsnas_ablation" / f"{PLANS}_3d_fullres_fold_0"

    def fold(self, trainer, plans=PLANS):
        return self.results / f"HyperSegNASSupernetTrainer{trainer}__{plans}__3d_fullres" / "fold_0"

    def words(self, *more):
        sizes = ["--architectures", "4", "--validation-cases", "1", "--device", "cpu"]
        return ["999", "3d_fullres", "0", "-p", PLANS, *sizes, *more]


@pytest.fixture
def ablation(demo_environment, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    yield Ablation(demo_environment.preprocessed, tmp_path)
    for path in demo_environment.preprocessed.glob(f"{PLANS}*.json"):
        path.unlink()


def commands(capsys):
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines() if "nnUNetv2_train" in line]


def lines_of(path):
    return path.read_text().splitlines()


def test_only_missing_trainings_are_named(ablation, capsys):
    assert main(ablation.words("--dry-run", "--longer-vanilla", "1.5")) == 0
    found = commands(capsys)
    by_model = [(c[c.index("-tr") + 1].removeprefix("HyperSegNASSupernetTrainer"), c[c.index("-p") + 1]) for c in found]
    trainers = ["Vanilla", "ImageOnly", "KeepMAN", "AnnealMAN"]  # D is C's training
    expected = [(trainer, plans) for plans in (PLANS, f"{PLANS}_seed1", f"{PLANS}_seed2") for trainer in trainers]
    expected[1:1] = [("Vanilla", f"{PLANS}_seed0_3epochs")]
    expected[6:6] = [("Vanilla", f"{PLANS}_seed1_3epochs")]
    expected[11:11] = [("Vanilla", f"{PLANS}_seed2_3epochs")]
    assert by_model == expected
    assert all(word[-2:] == ["-device", "cpu"] and "HSNAS_NO_VALIDATION=1" in word for word in found)
    assert not list(ablation.preprocessed.glob(f"{PLANS}_*")) and not ablation.output.exists()  # nothing was written


def test_what_the_plans_say_of_man_stands_below_the_variants(ablation, capsys):
    assert main(ablation.words("--dry-run")) == 0
    expected = commands(capsys)
    ablation.write(man="image", annealing="none")
    assert main(ablation.words("--dry-run")) == 0
    assert commands(capsys) == expected and len(expected) == 12


def test_variants_of_settings_have_plans_of_their_own(ablation, capsys):
    words = ablation.words("--dry-run", "--variants", "vanilla", "--seeds", "0", "3")
    assert (
        main(
            [*words, "--vary", "sandwich", "sandwich_every=2", "--vary", "input", "man=image", "scalar_position=input"]
        )
        == 0
    )
    found = [
        (c[c.index("-tr") + 1].removeprefix("HyperSegNASSupernetTrainer"), c[c.index("-p") + 1])
        for c in commands(capsys)
    ]
    assert found == [
        ("Vanilla", PLANS),
        ("", f"{PLANS}_seed0_sandwich"),
        ("", f"{PLANS}_seed0_input"),
        ("Vanilla", f"{PLANS}_seed3"),
        ("", f"{PLANS}_seed3_sandwich"),
        ("", f"{PLANS}_seed3_input"),
    ]


def test_from_plans_to_tables_through_an_interruption(ablation, capfd, monkeypatch):
    """Ctrl-C while sub-nets are scored: what was scored stays, and nothing is trained twice."""
    words = ablation.words("--seeds", "5", "--variants", "vanilla", "no-anneal")
    score, scored = CropScorer.score, []

    def interrupted(self, network):
        scored.append((network.architecture.id, network.annealing))
        if len(scored) == 4:  # one that warms up, then two
            raise KeyboardInterrupt
        return score(self, network)

    monkeypatch.setattr(CropScorer, "score", interrupted)
    assert main(words) == 130
    log = ablation.output / "scores" / "vanilla_seed5.jsonl"
    assert len(lines_of(log)) == 2
    log.write_text(log.read_text() + '{"stage": "cut o')  # as a kill may leave it
    assert commands(capfd) and not ablation.fold("KeepMAN", f"{PLANS}_seed5").exists()

    monkeypatch.setattr(CropScorer, "score", lambda self, n: (scored.append(n.annealing), score(self, n))[1])
    del scored[:]
    assert main(words) == 0
    printed = capfd.readouterr().out
    (command,) = [line for line in printed.splitlines() if "nnUNetv2_train" in line and line.startswith("$")]
    assert "HyperSegNASSupernetTrainerKeepMAN" in command and f"-p {PLANS}_seed5" in command
    assert len(scored) == (1 + 2) + (1 + 4) and set(scored) == {1}  # D predicts without MAN
    assert "Difference to A: vanilla one-shot, paired" in printed and "[published]" in printed
    content = json.loads((ablation.output / "results.json").read_text())
    assert len(content["scores"]) == 8 and {row["seed"] for row in content["scores"]} == {5}
    assert all(net["seconds_per_iteration"] > 0 for net in content["super_nets"])
    assert "## Rank agreement" in (ablation.output / "tables.md").read_text()
    assert (ablation.output / "dsc_over_memory.png").exists() and len(lines_of(ablation.output / "scores.csv")) == 9
    fold = ablation.fold("KeepMAN", f"{PLANS}_seed5")
    assert SuperNetRecord.read(fold / "checkpoint_final.pth").settings.seed == 5
    assert not (fold / "validation").exists()

    # C is D's training with MAN kept; nothing else is left to do.
    del scored[:]
    assert main([*words, "keep-man"]) == 0
    assert not commands(capfd) and scored == [0] * 5

    # What was trained with other settings is refused by name, before anything is done.
    ablation.write(initial_lr=0.02)
    assert main(words) == 1
    error = capfd.readouterr().err
    assert f"{PLANS}_seed5.json is there already and is not the ablation's copy" in error
    (ablation.preprocessed / f"{PLANS}_seed5.json").unlink()
    assert main(words) == 1
    error = capfd.readouterr().err
    assert f"{fold / 'checkpoint_final.pth'}: the checkpoint was trained with other settings" in error
    assert "initial_lr None -> 0.02" in error and "Vanilla__" in error
    ablation.write()
    assert main([*words, "--validation-cases", "2"]) == 1
    assert "holds an ablation with other arguments (validation_cases 1 then, 2 now)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "block", "message"),
    [
        (["--variants", "best"], {}, "invalid choice: 'best'"),
        (["--seeds", "-1"], {}, "-1"),
        (["--architectures", "0"], {}, "'0' is not a whole number from 1"),
        ([], {"layers": 0}, "layers is 0"),
        (["-p", "No"], {}, "no plans No"),
        (["--longer-vanilla", "0.01"], {}, "epochs is 0"),
        (["--vary", "main", "man=none"], {}, "a variant cannot be called 'main'"),
        (["--vary", "a/b", "man=none"], {}, "a variant cannot be called 'a/b'"),
        (["--vary", "other"], {}, "--vary other changes nothing"),
        (["--vary", "other", "man"], {}, "--vary other: 'man' is no SETTING=VALUE"),
        (["--vary", "other", "seed=3"], {}, "seeds are given by --seeds"),
        (["--vary", "other", "colour=blue"], {}, "unknown keys ['colour']"),
        (["--vary", "other", "sandwich_every=-1"], {}, "sandwich_every is -1"),
        (["--vary", "other", "man=none", "--vary", "other", "man=image"], {}, "two variants of --vary have one name"),
    ],
)
def test_bad_arguments(ablation, words, block, message, capsys):
    ablation.write(**block)
    try:
        code = main(ablation.words("--dry-run", *words))
    except SystemExit as usage:
        code = usage.code
    assert code in (1, 2)
    assert message in capsys.readouterr().err


def test_an_unknown_fold(ablation, capsys):
    words = ablation.words("--dry-run")
    words[2] = "7"
    assert main(words) == 1
    assert "no fold 7; the data set has 0, 1, 2, 3, 4" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_while_it_trains_and_called_again(ablation):
    """All variants and two seeds; the first training is killed after its first checkpoint."""
    ablation.write(epochs=4, iterations_per_epoch=8)
    words = ablation.words("--seeds", "0", "1", "--longer-vanilla", "1.5")
    command = [Path(sys.executable).parent / "hsnas_ablation", *words]
    started = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
    latest = ablation.fold("Vanilla") / "checkpoint_latest.pth"
    until = time.monotonic() + 300
    while not latest.exists():
        assert started.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGINT)  # it ends its training, too
    assert started.wait(60) == 130
    if not (latest.parent / "checkpoint_final.pth").exists():
        done = subprocess.run([*command, "--dry-run"], capture_output=True, text=True)
        assert done.stdout.splitlines()[0].endswith("--c")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((ablation.output / "results.json").read_text())
    assert len(content["scores"]) == 6 * 2 * 4
    weights = torch.load(ablation.fold("Vanilla") / "checkpoint_final.pth", weights_only=False)
    assert weights["hypersegnas"]["iteration"] == 32
    assert "Difference to A, 1.5 times the iterations" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and "nnUNetv2_train Dataset" not in again.stdout
