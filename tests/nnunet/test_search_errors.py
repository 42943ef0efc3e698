"""What a user can get wrong with `hsnas_search`: one line, a non-zero exit code, and nothing touched."""

import errno
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from nnunet_hypersegnas import atomic
from nnunet_hypersegnas.cli.search import main
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.super_net_loading import load_super_net

PLANS = "HyperSegNASDemoSupernet"


@pytest.fixture
def search(demo_environment, capsys):
    """Run the command in this process and return its one line of error."""

    def files():
        roots = demo_environment.preprocessed, demo_environment.folder / "nnUNet_results"
        return {
            p: p.stat().st_mtime_ns for root in roots for p in root.rglob("*") if p.is_file() and p.name != "led.lock"
        }

    def run(*arguments, dataset="999", configuration="3d_fullres", fold="0", memory="1GB", plans=PLANS):
        before = files()
        sizes = ["--candidates", "2", "--finalists", "1", "--finetune-iterations", "1", "--validation-cases", "1"]
        words = [dataset, configuration, fold, "-p", plans, "--device", "cpu", *sizes]
        words += ["--memory", memory] if memory else []
        words += ["--tolerance", memory] if memory == "1GB" else []  # a budget that everything meets
        words += ["--run", "in_error", *arguments]  # a name that no other test takes
        assert main(words) == 1
        captured = capsys.readouterr()
        (line,) = [line for line in captured.err.splitlines() if line.startswith("hsnas_search: error:")]
        assert "Traceback" not in captured.err
        assert files() == before
        return line

    return run


@pytest.fixture
def edited(demo_environment):
    """Edit a JSON file of the data set for one test."""
    originals = {}

    def edit(name, change):
        path = demo_environment.preprocessed / name
        originals.setdefault(path, path.read_bytes())
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    yield edit
    for path, content in originals.items():
        path.write_bytes(content)


def test_unknown_data_set(search):
    assert "no data set '998'" in search(dataset="998")


def test_data_set_that_is_not_preprocessed(search, demo_environment):
    folder = demo_environment.preprocessed.parent / "Dataset997_Empty"
    folder.mkdir()
    try:
        line = search(dataset="997")
        assert "is not preprocessed" in line and "nnUNetv2_plan_and_preprocess -d 997 -c 3d_fullres" in line
    finally:
        folder.rmdir()


def test_configuration_without_data(search, edited):
    assert "have no configuration '3d_lowres'" in search(configuration="3d_lowres")
    edited(f"{PLANS}.json", lambda p: p["configurations"]["3d_fullres"].update(data_identifier="gone"))
    assert "configuration 3d_fullres is not preprocessed" in search()


def test_unknown_plans_are_answered_with_the_known_ones(search):
    line = search(plans="Nope")
    assert "no plans Nope" in line and "nnUNetPlans" in line


def test_plans_of_another_data_set(search, edited):
    edited(f"{PLANS}.json", lambda p: p.update(dataset_name="Dataset004_Hippocampus"))
    assert "are those of Dataset004_Hippocampus, not of Dataset999_Synthetic" in search()


def test_no_super_net(search):
    line = search(fold="1")
    assert "no super-net at" in line and "-tr HyperSegNASSupernetTrainer" in line


def test_checkpoint_of_another_trainer(search, demo_environment):
    plans = demo_environment.summary["networks"][0]["plans"]
    line = search("-tr", demo_environment.summary["settings"]["final_trainer"], plans=plans)
    assert "not by a HyperSegNAS super-net trainer" in line


@pytest.fixture
def copied_super_net(demo_environment, tmp_path, monkeypatch):
    """A copy of the trained super-net that a test may spoil; returns its final checkpoint."""
    relative = demo_environment.supernet_fold.relative_to(demo_environment.folder / "nnUNet_results")
    (tmp_path / relative).mkdir(parents=True)
    target = tmp_path / relative / "checkpoint_final.pth"
    shutil.copy(demo_environment.supernet_fold / "checkpoint_final.pth", target)
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return target


def test_unfinished_annealing(search, copied_super_net):
    checkpoint = torch.load(copied_super_net, weights_only=False)
    checkpoint["hypersegnas"]["annealing_lambda"] = 0.5
    checkpoint["hypersegnas"]["settings"]["man"] = "image and architecture"
    torch.save(checkpoint, copied_super_net)
    line = search()
    assert "MAN is not annealed away" in line and "lambda 0.500" in line and "--c" in line


def test_weights_of_another_version(search, copied_super_net):
    checkpoint = torch.load(copied_super_net, weights_only=False)
    weights = checkpoint["network_weights"]
    name = next(name for name in weights if name.startswith("super_net.stems"))
    weights[name] = weights[name][:1]
    torch.save(checkpoint, copied_super_net)
    line = search()
    assert "do not fit the super-net of this version" in line and "nnunet_hypersegnas" in line


def test_a_super_net_whose_man_is_gone_is_searched_whatever_man_it_had(demo_environment, copied_super_net):
    checkpoint = torch.load(copied_super_net, weights_only=False)
    checkpoint["network_weights"] |= {"man.of_another_version": torch.zeros(1)}
    checkpoint["hypersegnas"]["settings"]["man"] = "image and architecture"
    torch.save(checkpoint, copied_super_net)
    dataset = PreprocessedDataset.find("999", PLANS, "3d_fullres")
    _, network = load_super_net(dataset, copied_super_net)
    assert network.man is None


def test_truncated_checkpoint(search, copied_super_net):
    copied_super_net.write_bytes(copied_super_net.read_bytes()[:1000])
    assert "cannot be read as a checkpoint" in search()


def test_checkpoint_of_another_search_space(search, edited):
    edited(f"{PLANS}.json", lambda p: p["configurations"]["3d_fullres"]["hypersegnas"].update(channels=[4, 6, 10]))
    line = search()
    assert "was trained with search space" in line and "restore the plans" in line


def test_plans_whose_data_changed_since_the_training(search, edited):
    change = {"spacing": [2.0, 1.0, 1.0], "normalization_schemes": ["CTNormalization"]}
    edited(f"{PLANS}.json", lambda p: p["configurations"]["3d_fullres"].update(change))
    line = search()
    assert "was trained with other data: the plans' spacing [" in line
    assert "now; the plans' normalization_schemes ['ZScoreNormalization'] then, ['CTNormalization'] now" in line


def test_faults_of_the_block(search, edited):
    edited(f"{PLANS}.json", lambda p: p["configurations"]["3d_fullres"]["hypersegnas"].update(layers=0, seed="x"))
    line = search()
    assert "layers is 0" in line and "seed is 'x'" in line


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"organ": 1}, "Background label not declared"),
        ({"background": 0}, "there is no foreground label"),
        ({"background": 0, "organ": [1, 2], "lesion": 2}, "has a label set that nnU-Net does not know"),
        (
            {"background": 0, "organ": 1, "lesion": 2, "third": 3},
            "was trained with other data: labels {'background': 0,",
        ),
    ],
)
def test_unknown_label_sets(search, edited, labels, message):
    edited("dataset.json", lambda d: d.update(labels=labels))
    assert message in search()


def test_a_budget_that_no_candidate_meets(search):
    line = search(memory="10KB")
    assert "no architecture has memory" in line and "in this search space it is" in line


def test_an_impossible_budget_is_refused_before_the_super_net_is_loaded(search, monkeypatch):
    def load(self):
        raise AssertionError("loaded")

    monkeypatch.setattr("nnunet_hypersegnas.nnunet.search_run.SuperNetSearch.load_super_net", load)
    line = search(memory="10KB")
    assert "budget 10KB: no architecture has memory" in line and "hsnas_space DATASET CONFIGURATION --memory" in line
    with pytest.raises(AssertionError, match="loaded"):
        search(memory="9MB")


@pytest.mark.parametrize("words", [["own"], []])
def test_what_nnunets_own_network_takes_is_no_budget_for_so_small_a_space(search, words):
    """Without a budget the plans' own network's memory is searched, and half of it."""
    line = search(*(f"--memory={word}" for word in words), memory=None)
    assert "budget own: no architecture has memory" in line and ("budget 50pct: no" in line) == (not words)


def test_budgets_of_the_block_are_searched_where_none_is_asked_for(search, edited):
    edited(f"{PLANS}.json", lambda p: p["configurations"]["3d_fullres"]["hypersegnas"].update(memory=["11KB", "200%"]))
    line = search(memory=None)
    assert "budget 11KB: no architecture has memory" in line and "budget 200pct: no architecture" in line


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("5", "write a size with its unit"),
        ("-3GB", "write a size with its unit"),
        ("0%", "write a percentage above 0"),
        ("many", "no plans many"),
    ],
)
def test_a_budget_that_is_none(search, budget, message):
    assert message in search(f"--memory={budget}")


def test_budgets_of_one_name(search):
    assert "would have one name in the plans" in search("--memory", "own", "OWN")


def test_own_is_no_budget_for_plans_of_a_searched_network(search, edited):
    network = {"network_class_name": "nnunet_hypersegnas.architectures.SearchedNet"}
    edited(f"{PLANS}.json", lambda p: p["configurations"]["3d_fullres"]["architecture"].update(network))
    line = search(memory="50%")
    assert "the budget 'own' is what nnU-Net's own network takes, but the network of plans" in line


def test_plans_that_exist_are_not_overwritten(search, demo_environment):
    network = demo_environment.summary["networks"][0]
    line = search("--plans", "HyperSegNASDemo", "--run", "another", memory=network["budget"])
    assert f"{network['plans']}.json exist already" in line and "--overwrite" in line


def test_a_run_folder_of_a_search_with_other_arguments(search, demo_environment):
    line = search("--run", "HyperSegNASDemo", "--seed", "3")
    assert "HyperSegNASDemo holds a search with other arguments (" in line and "choose another --run" in line
    assert "candidates 4 then, 2 now" in line and "seed 0 then, 3 now" in line and "1GB" in line


def test_a_run_folder_that_is_none(search, demo_environment):
    folder = demo_environment.supernet_fold / "search" / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    line = search("--run", "mine")
    assert "mine is there and holds no search" in line and (folder / "notes.txt").exists()
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["a/b", "..", "-x"])
def test_run_names_that_are_no_folders(search, name):
    assert "is no name of a folder" in search(f"--run={name}")


@pytest.fixture
def edited_run(demo_environment):
    """Edit the record of the finished search for one test."""
    path = demo_environment.run_folder / "run.json"
    original = path.read_bytes()

    def edit(**values):
        path.write_text(json.dumps({**json.loads(original), **values}))

    yield edit
    path.write_bytes(original)


def test_a_run_folder_of_a_newer_version(search, edited_run):
    edited_run(format=99, package_version="99.0")
    line = search("--run", "HyperSegNASDemo")
    assert "was made by the newer version 99.0 of nnunet_hypersegnas" in line and "update, or choose another" in line


def test_a_record_that_cannot_be_read(search, edited_run):
    edited_run(settings={"candidates": 3, "colour": "blue"})
    assert "which this one cannot read" in search("--run", "HyperSegNASDemo")


def test_an_unreachable_storage(search, demo_environment):
    budget = demo_environment.summary["networks"][-1]["budget"]
    line = search("--storage", "postgresql://me:secret@127.0.0.1:1/none", memory=budget)
    assert "storage postgresql://me@127.0.0.1:1/none cannot be used" in line and "secret" not in line


def test_plans_of_nnunet_itself_are_not_overwritten(search, demo_environment):
    taken = demo_environment.preprocessed / "nnUNetPlans_1GB.json"
    shutil.copy(demo_environment.preprocessed / "nnUNetPlans.json", taken)
    try:
        assert "nnUNetPlans_1GB.json exist already" in search("--plans", "nnUNetPlans")
    finally:
        taken.unlink()


@pytest.mark.parametrize("name", ["a__b", "_a", "a_", "a b", "../a"])
def test_plans_names_that_nnunet_cannot_use(search, name):
    assert "does not work in nnU-Net" in search(f"--plans={name}")


def test_a_fold_that_does_not_exist(search, copied_super_net):
    other = copied_super_net.parent.parent / "fold_7"
    other.mkdir()
    shutil.copy(copied_super_net, other)
    assert "fold 7 does not exist" in search(fold="7")


def test_a_full_disk_damages_nothing(demo_environment, capsys, monkeypatch):
    """The plans' temporary file leads to /dev/full, which answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    budget = demo_environment.summary["networks"][-1]["budget"]
    plans = demo_environment.preprocessed / f"FullDisk_{budget}.json"
    words = ["999", "3d_fullres", "0", "--memory", budget, "-p", PLANS, "--device", "cpu", "--plans", "FullDisk"]
    words += ["--candidates", "2", "--finalists", "1", "--finetune-iterations", "1", "--validation-cases", "1"]
    written_atomically = atomic.written_atomically

    @contextmanager
    def on_a_full_disk(path):
        with written_atomically(path) as temporary:
            if path == plans:
                temporary.unlink()
                temporary.symlink_to("/dev/full")
            yield temporary

    with monkeypatch.context() as full:
        full.setattr(atomic, "written_atomically", on_a_full_disk)
        assert main(words) == 1
    assert "no space left on the disk" in capsys.readouterr().err
    assert not list(plans.parent.glob(f"{plans.name}*"))
    assert main(words) == 0  # with room again, the same command goes on
    assert json.loads(plans.read_text())["plans_name"] == plans.stem
    plans.unlink()


def test_a_folder_for_plans_that_cannot_be_written_to(search, demo_environment, monkeypatch, tmp_path):
    """Noticed before anything is done, also by those whom a file's mode does not stop."""
    make_file = atomic._make_file

    def read_only(path):
        if path.parent == demo_environment.preprocessed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return make_file(path)

    monkeypatch.setattr(atomic, "_make_file", read_only)
    line = search("--plans", "ReadOnly")
    assert f"plans cannot be written to {demo_environment.preprocessed} (Permission denied)" in line
    assert "name another folder with --plans-folder, and copy them to" in line
    (tmp_path / "file").touch()
    line = search("--plans", "ReadOnly", "--plans-folder", str(tmp_path / "file"))
    assert "plans cannot be written to" in line and "(File exists)" in line
    assert "give them a name with --plans" in search("--plans-folder", str(tmp_path))


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["4", "3d_fullres", "0", "--memory", "5GB", "--finalists", "0"])
    assert exit_.value.code == 2


def test_a_checkpoint_that_another_version_wrote(search, copied_super_net):
    checkpoint = torch.load(copied_super_net, weights_only=False)
    checkpoint["hypersegnas"]["settings"]["momentum"] = 0.9
    checkpoint["hypersegnas"]["package_version"] = "99.0"
    torch.save(checkpoint, copied_super_net)
    line = search()
    assert "was written by version 99.0" in line and "momentum" in line and "train anew" in line
