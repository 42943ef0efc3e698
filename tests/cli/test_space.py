"""`hsnas_space` on the demo's data set, and on one that is planned and no more."""

import json
import re
import shutil

import pytest

from nnunet_hypersegnas.cli.space import main
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_budgets import planned_costs
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from tests.conftest import run

PLANS = "HyperSegNASDemoSupernet"


def test_scales_follow_the_plans(planned, capsys):
    assert main(["998", "3d_fullres"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "plans nnUNetPlans: patch 12 x 96 x 80, batch 2" in lines[0]
    assert lines[3:8] == [
        "0 1 x 1 x 1 6.5 x 0.8 x 0.8 12 x 96 x 80 32 1 x 3 x 3",
        "1 1 x 2 x 2 6.5 x 1.6 x 1.6 12 x 48 x 40 64 1 x 3 x 3",
        "2 1 x 4 x 4 6.5 x 3.2 x 3.2 12 x 24 x 20 128 3 x 3 x 3",
        "3 2 x 8 x 8 13 x 6.4 x 6.4 6 x 12 x 10 256 3 x 3 x 3",
        "4 2 x 16 x 16 13 x 12.8 x 12.8 6 x 6 x 5 320 3 x 3 x 3",
    ]
    assert lines[8] == "The scales are all 5 stages of the plans, from full resolution."
    assert "12 layers of 13 edges" in lines[9] and "architectures" in lines[9]


def test_fewer_scales_than_stages_start_at_half_resolution(planned, capsys):
    """As in the paper, and in all earlier versions."""
    assert main(["998", "3d_fullres", "--channels", "32", "64", "128", "256"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[3:7] == [
        "0 1 x 2 x 2 6.5 x 1.6 x 1.6 12 x 48 x 40 32 1 x 3 x 3",
        "1 1 x 4 x 4 6.5 x 3.2 x 3.2 12 x 24 x 20 64 3 x 3 x 3",
        "2 2 x 8 x 8 13 x 6.4 x 6.4 6 x 12 x 10 128 3 x 3 x 3",
        "3 2 x 16 x 16 13 x 12.8 x 12.8 6 x 6 x 5 256 3 x 3 x 3",
    ]
    assert lines[7].startswith("The scales are 4 of the 5 stages of the plans; the stem takes the first stride")
    assert "12 layers of 10 edges" in lines[8] and "6.2 x 10^54 architectures" in lines[8]
    assert main(["998", "3d_fullres", "--channels", "4", "8", "--full-resolution"]) == 0
    printed = capsys.readouterr().out
    assert "2 of the 5 stages of the plans, from full resolution; the 3 coarsest are left out." in printed
    assert main(["998", "3d_fullres", "--layers", "4"]) == 0
    assert "the 2 coarsest are left out, since 4 layers cannot go further down and up" in capsys.readouterr().out


def test_its_ranges_are_those_that_a_search_answers_with(demo_environment, capsys):
    """What `hsnas_search` says of a budget that nothing meets."""
    from nnunet_hypersegnas.cli.search import main as search

    assert main(["999", "3d_fullres", "-p", PLANS, "--device", "cpu"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("training memory"))
    smallest, *_, largest, _ = re.split(r" {2,}", line.removeprefix("training memory").strip())
    assert search(["999", "3d_fullres", "0", "-p", PLANS, "--memory", "1KB", "--run", "none", "--device", "cpu"]) == 1
    assert f"{smallest} to {largest}" in capsys.readouterr().err


def test_the_written_plans_give_what_was_printed(planned, capsys):
    words = ["998", "3d_fullres", "--layers", "5", "--scales", "3", "--write", "Mine"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"The super-net has [0-9.]+ M parameters; each step", printed)
    assert "5 layers of 7 edges" in printed and "-tr HyperSegNASSupernetTrainer -p Mine" in printed
    assert main(["998", "3d_fullres", "-p", "Mine"]) == 0
    again = capsys.readouterr().out
    before = printed.partition("\nWritten")[0].replace(
        "(PlainConvUNet of plans nnUNetPlans)", "(PlainConvUNet of plans Mine)"
    )
    assert again.splitlines()[1:] == before.splitlines()[1:]
    written = PreprocessedDataset.find("998", "Mine", "3d_fullres", preprocessed=False)
    block = written.plans["configurations"]["3d_fullres"]["hypersegnas"]
    assert block["channels"] == [32, 64, 128] and block["full_resolution"] is False and block["epochs"] == 720
    assert SuperNetSettings.from_configuration(written.configuration.configuration).layers == 5
    before = (planned / "Mine.json").read_bytes()
    assert main(words) == 1
    assert "exists already; choose another name for --write" in capsys.readouterr().err
    assert (planned / "Mine.json").read_bytes() == before


def numbers(tmp_path, *words):
    assert main(["998", "3d_fullres", "--json", str(tmp_path / "numbers.json"), *words]) == 0
    return json.loads((tmp_path / "numbers.json").read_text())


def test_the_numbers_are_written_in_bytes(planned, tmp_path, capsys):
    found = numbers(tmp_path)
    printed = capsys.readouterr().out
    for name in ("memory_bytes", "multiply_adds", "parameters"):
        values = [found[name][key] for key in ("smallest", "q05", "q10", "q50", "q90", "q95", "largest")]
        assert values == sorted(values) and len(set(values)) == 7 and all(isinstance(v, int) for v in values)
    dataset = PreprocessedDataset.find("998", "nnUNetPlans", "3d_fullres", preprocessed=False)
    own = planned_costs(dataset, "own", "cuda")
    assert (found["own_memory_bytes"], found["own_multiply_adds"]) == (own.memory_bytes, own.multiply_adds)
    assert found["own_parameters"] == own.parameters and 0.1 <= found["own_quantile"] <= 0.9
    assert f"more memory than {found['own_quantile']:.0%} of the networks drawn" in printed
    assert [budget["budget"] for budget in found["budgets"]] == ["own", "50pct"]  # the default ones
    at_own, at_half = found["budgets"]
    assert at_own["quantile"] == pytest.approx(found["own_quantile"], abs=0.01) and at_half["quantile"] < 0.5
    assert at_own["candidates"] == at_own["candidates_asked_for"] == 500
    counting = found["counting"]
    assert at_own["highest_bytes"] == pytest.approx(counting["offset_bytes"] + counting["factor"] * own.memory_bytes)
    assert counting["estimate"] and found["space"]["channels"] == [32, 64, 128, 256, 320]
    super_net = found["super_net"]
    assert super_net["fixed_bytes"] == 12 * super_net["parameters"] < super_net["median_draw_bytes"]
    assert super_net["median_draw_bytes"] < super_net["largest_draw_bytes"] <= super_net["warmup_bytes"]


def test_on_a_cpu_memory_is_that_of_tensors(planned, tmp_path, capsys):
    found = numbers(tmp_path, "--device", "cpu", "--memory", "own")
    assert found["counting"] == {"offset_bytes": 0, "factor": 1.0, "origin": "tensors alone", "estimate": False}
    assert found["budgets"][0]["highest_bytes"] == found["own_memory_bytes"]
    assert found["budgets"][0]["quantile"] == found["own_quantile"]
    assert "Memory is that of tensors, predicted." in capsys.readouterr().out


def test_a_space_is_proposed_that_holds_budgets_and_written_with_them(planned, tmp_path, capsys):
    usual = numbers(tmp_path, "--device", "cpu")
    budgets = [f"{round(share * usual['memory_bytes']['smallest'] / 1000)}KB" for share in (0.7, 0.9)]
    capsys.readouterr()
    found = numbers(tmp_path, "--device", "cpu", "--memory", *budgets, "--write", "Mine")
    printed = capsys.readouterr().out
    assert found["budgets"][0]["candidates"] == 0
    proposed = found["proposal"]
    channels = proposed["space"]["channels"]
    assert all(0.1 <= quantile <= 0.9 for quantile in proposed["quantiles"].values())
    words = f"--layers {proposed['space']['layers']} --channels {' '.join(map(str, channels))} --full-resolution"
    assert f"Proposed: {words}" in printed and f"{', '.join(budgets)} lie outside the range of 10%" in printed
    block = json.loads((planned / "Mine.json").read_text())["configurations"]["3d_fullres"]["hypersegnas"]
    assert block["memory"] == budgets and block["channels"] == channels and block["full_resolution"] is True
    assert main(["998", "3d_fullres", "-p", "Mine", "--device", "cpu"]) == 0  # with the block's budgets
    again = capsys.readouterr().out
    assert "All budgets lie between 10% and 90% of the networks drawn" in again and budgets[0] in again


def test_budgets_too_far_apart_come_in_groups(planned, tmp_path, capsys):
    found = numbers(tmp_path, "--device", "cpu", "--memory", "2GB", "60MB", "62MB")
    assert found["proposal"] is None and found["groups"] == [["60MB", "62MB"], ["2GB"]]
    assert "train one super-net for each group: 60MB, 62MB | 2GB." in capsys.readouterr().out


def test_plans_that_name_no_network_of_nnunet_have_no_own(planned, tmp_path, capsys):
    path = planned / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "my_lab.networks.Net"
    path.write_text(json.dumps(plans))
    found = numbers(tmp_path)
    assert found["own_memory_bytes"] is None and "budgets" not in found
    assert main(["998", "3d_fullres", "--memory", "50%"]) == 1
    assert "the network of plans nnUNetPlans is a my_lab.networks.Net" in capsys.readouterr().err


def test_plans_without_features_need_channels(planned, capsys):
    path = planned / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    del plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"]
    path.write_text(json.dumps(plans))
    assert main(["998", "3d_fullres"]) == 1
    assert "names no features_per_stage" in capsys.readouterr().err
    assert main(["998", "3d_fullres", "--channels", "4", "8", "12", "16", "20"]) == 0


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
        (["--memory", "0%"], "write a percentage above 0"),
        (["--memory", "5"], "write a size with its unit"),
        (["--memory", "NoPlans"], "no plans NoPlans"),
        (["--memory", "own", "OWN"], "would have one name in the plans"),
        (["--memory", "own", "100%"], "names a size twice (own is"),
        (["--memory", "5GB", "--tolerance", "0"], "is no memory size"),
        (["--scales", "5", "--no-full-resolution"], "5 scales are asked for, the plans have 4 stages below full"),
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
