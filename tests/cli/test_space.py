"""`hsnas_space` on the demo's data set, and on one that is planned and no more."""

import json
import re
import shutil

import pytest

from nnunet_hypersegnas.cli.space import main
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from tests.conftest import run

PLANS = "HyperSegNASDemoSupernet"


def test_scales_follow_the_plans(planned, capsys):
    assert main(["998", "3d_fullres"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "plans nnUNetPlans: patch 12 x 96 x 80, batch 2" in lines[0]
    assert lines[3:7] == [
        "0 1 x 2 x 2 6.5 x 1.6 x 1.6 12 x 48 x 40 32 1 x 3 x 3",
        "1 1 x 4 x 4 6.5 x 3.2 x 3.2 12 x 24 x 20 64 3 x 3 x 3",
        "2 2 x 8 x 8 13 x 6.4 x 6.4 6 x 12 x 10 128 3 x 3 x 3",
        "3 2 x 16 x 16 13 x 12.8 x 12.8 6 x 6 x 5 256 3 x 3 x 3",
    ]
    assert "12 layers of 10 edges" in lines[7] and "6.2 x 10^54 architectures" in lines[7]


def test_its_ranges_are_those_that_a_search_answers_with(demo_environment, capsys):
    """What `hsnas_search` says of a budget that nothing meets."""
    from nnunet_hypersegnas.cli.search import main as search

    assert main(["999", "3d_fullres", "-p", PLANS, "--device", "cpu"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("training memory"))
    smallest, largest = line.removeprefix("training memory").strip().split("  ")
    assert search(["999", "3d_fullres", "0", "-p", PLANS, "--memory", "1KB", "--run", "none", "--device", "cpu"]) == 1
    assert f"{smallest} to {largest.strip()}" in capsys.readouterr().err


def test_the_written_plans_give_what_was_printed(planned, capsys):
    words = ["998", "3d_fullres", "--layers", "5", "--scales", "3", "--write", "Mine"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"The super-net has [0-9.]+ M parameters; each step", printed)
    assert "5 layers of 7 edges" in printed and "-tr HyperSegNASSupernetTrainer -p Mine" in printed
    assert main(["998", "3d_fullres", "-p", "Mine"]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[1:] == printed.split("\nWritten")[0].splitlines()[1:]
    written = PreprocessedDataset.find("998", "Mine", "3d_fullres", preprocessed=False)
    block = written.plans["configurations"]["3d_fullres"]["hypersegnas"]
    assert block["channels"] == [32, 64, 128] and block["epochs"] == 720
    assert SuperNetSettings.from_configuration(written.configuration.configuration).layers == 5
    before = (planned / "Mine.json").read_bytes()
    assert main(words) == 1
    assert "exists already; choose another name for --write" in capsys.readouterr().err
    assert (planned / "Mine.json").read_bytes() == before


def test_the_papers_recipe_can_be_preprocessed_and_trained(demo_environment, capsys):
    words = ["999", "3d_fullres", "--recipe", "paper", "--layers", "4", "--write", "PaperPlans"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert re.search(r" M parameters and MAN [0-9.]+ M; each step", printed)
    assert "patch 96 x 96 x 96, batch 8" in printed and "4 layers of 10 edges" in printed
    command = next(line.partition("first: ")[2] for line in printed.splitlines() if "preprocess at 1 mm" in line)
    result = run(*command.split(), "-np", "1", nnUNet_n_proc_DA="1")
    assert result.returncode == 0, result.stderr
    try:
        written = PreprocessedDataset.find("999", "PaperPlans", "3d_fullres")  # with its cases
        assert written.data_folder.name == "PaperPlans_3d_fullres"
        settings = SuperNetSettings.from_configuration(written.configuration.configuration)
        assert settings.recipe == "paper" and settings.layers == 4 and settings.fixed_scalar == 0.5
    finally:
        (demo_environment.preprocessed / "PaperPlans.json").unlink()
        shutil.rmtree(demo_environment.preprocessed / "PaperPlans_3d_fullres")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scales", "6"], "6 scales are asked for, the plans have 5 stages"),
        (["--channels", "8", "16", "--scales", "3"], "scales is 3, but channels names 2 scales"),
        (["--write", "a__b"], "does not work in nnU-Net"),
        (["-p", "None"], "no plans None"),
    ],
)
def test_bad_input(planned, capsys, words, message):
    assert main(["998", "3d_fullres", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_patch_that_the_scales_do_not_divide(planned, capsys):
    path = planned / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [12, 90, 80]
    path.write_text(json.dumps(plans))
    assert main(["998", "3d_fullres"]) == 1
    assert "patch size [12, 90, 80] is not divisible by [2, 16, 16]" in capsys.readouterr().err
