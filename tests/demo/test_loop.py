"""The whole loop by real commands: what `hsnas_demo` leaves behind, and stock nnU-Net going on with it."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_hypersegnas.architectures import SearchedNet
from nnunet_hypersegnas.cli.demo import main
from nnunet_hypersegnas.demo.loop import Commands, DemoError, DemoSettings
from nnunet_hypersegnas.nnunet.run_folder import RunFolder
from nnunet_hypersegnas.nnunet.stock_commands import CommandError
from nnunet_hypersegnas.nnunet.supernet_checkpoint import SuperNetRecord
from nnunet_hypersegnas.search import open_storage, open_study
from tests.conftest import run


def test_the_demo_prints_a_table_and_writes_the_same_into_summary_json(finished_demo):
    networks = finished_demo.summary["networks"]
    assert len(networks) == 2
    for network in networks:
        assert network["plans"] in finished_demo.stdout
        assert f"{network['predicted_memory_bytes'] / 1e6:.1f} MB" in finished_demo.stdout
        assert set(network["dsc_validation"]) == set(network["dsc_test"]) == {"mean", "1", "2"}
    assert networks[0]["predicted_memory_bytes"] <= networks[1]["predicted_memory_bytes"]
    assert "selection-biased" in finished_demo.stdout


def test_only_real_commands_ran(finished_demo):
    commands = [line.split()[1] for line in finished_demo.stdout.splitlines() if line.startswith("$ ")]
    assert commands[:4] == [
        "nnUNetv2_convert_MSD_dataset",
        "nnUNetv2_plan_and_preprocess",
        "nnUNetv2_train",
        "hsnas_search",
    ]
    assert commands[4:] == ["nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_evaluate_simple"] * 2


def test_started_again_the_demo_skips_what_is_done(finished_demo):
    again = run("hsnas_demo", "--folder", finished_demo.folder, "--device", "cpu")
    assert again.returncode == 1
    assert "holds another demo (candidates 4 there, 12 now; channels [4, 6, 8] there, [8, 16, 32] now;" in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "5"], "'5' is no memory budget"),
        (["--memory", "20MB", "20 MB"], "would have one name in the plans"),
        (["--msd-folder", "nowhere"], "is no task of the Medical Segmentation Decathlon"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(tmp_path, capsys, words, message):
    assert main(["--folder", str(tmp_path / "demo"), "--device", "cpu", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "demo").exists()


def test_sizes_that_are_no_sizes_leave_nothing_behind(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--folder", str(tmp_path / "demo"), "--device", "cpu", "--layers", "0"])
    assert exit_.value.code == 2 and not (tmp_path / "demo").exists()
    assert "--layers: '0' is not a whole number from 1" in capsys.readouterr().err
    with pytest.raises(DemoError, match=r"--layers 0, --channels \(4, -1\): positive numbers are needed"):
        DemoSettings(layers=0, channels=(4, -1))


def test_a_folder_that_is_something_else(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--folder", str(tmp_path / "file"), "--device", "cpu"]) == 1
    assert main(["--folder", str(tmp_path), "--device", "cpu"]) == 1
    file, folder = capsys.readouterr().err.splitlines()
    assert "is a file; choose another --folder" in file and "is not empty and holds no demo" in folder


def test_a_step_counts_as_done_when_it_was_finished_alone(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored after the test, whatever Commands sets
    commands = Commands(tmp_path, "cuda", tmp_path)
    with pytest.raises(CommandError, match="exit code"):
        commands.run("a step", "false")
    assert not commands.has_run("a step")
    commands.run("a step", "true")
    assert commands.has_run("a step") and Commands(tmp_path, "cuda", tmp_path).has_run("a step")


def test_the_super_net_is_trained_to_its_end(finished_demo):
    record = SuperNetRecord.read(finished_demo.supernet_fold / "checkpoint_final.pth")
    assert record.iteration == 18 and record.settings.man == "none"
    assert record.settings.channels == (4, 6, 8)
    assert not list(finished_demo.supernet_fold.glob("*.tmp"))


def test_reference_sub_nets_are_in_the_log_and_in_nnunets_logger(finished_demo):
    (log,) = finished_demo.supernet_fold.glob("training_log*.txt")
    text = log.read_text()
    assert text.count("Pseudo dice of sub-nets: largest 0.") == 3 and "MAN's scalars" not in text
    logged = torch.load(finished_demo.supernet_fold / "checkpoint_final.pth", weights_only=False)["logging"]
    for name in ("largest", "smallest", "unet", "random0", "random1", "random2"):
        assert len(logged[f"hsnas_dsc_{name}"]) == 3
    assert (finished_demo.supernet_fold / "progress_supernet.png").stat().st_size > 10_000


def test_nnunets_own_validation_ran_on_the_super_net(finished_demo):
    summary = json.loads((finished_demo.supernet_fold / "validation" / "summary.json").read_text())
    assert "foreground_mean" in summary


def test_the_record_holds_every_candidate(finished_demo):
    for network in finished_demo.summary["networks"]:
        record = json.loads((finished_demo.run_folder / f"{network['plans']}.json").read_text())
        low, high = record["limits"]["memory"]
        assert record["memory_metric"] == "predicted"
        assert record["distribution"]["candidates"] == len(record["candidates"])
        assert record["selected_on_fold"] == 0 and "selection-biased" in record["note"]
        assert 1 <= len(record["candidates"]) <= 4 + 2  # with neighbours of the finalists
        for candidate in record["candidates"]:
            assert low <= candidate["predicted_memory_bytes"] <= high
            assert candidate["measured_memory_bytes"] is None  # there is no GPU to measure on
            assert 0 <= candidate["dsc_by_rung"]["patches 2"] <= 1
        climbed = [c for c in record["candidates"] if c["shared"]]
        fitting = {named["id"] for named in record["named"].values() if named["place"]}
        assert fitting and fitting <= {candidate["architecture"]["id"] for candidate in climbed}
        assert min(2, len(record["candidates"])) <= len(climbed) <= 2 + len(fitting) + 2
        assert all(c["shared"]["dsc_by_label"].keys() == {"organ", "lesion"} for c in climbed)
        assert all(len(c["shared"]["dsc_by_case"]) == 2 for c in climbed)
        tuned = [c["fine_tuned"]["dsc"] for c in record["candidates"] if c["fine_tuned"]]
        assert len(tuned) == len(climbed)  # three iterations are too few for a short fine-tuning before
        assert (
            tuned[0] == max(tuned) <= record["winner"]["fine_tuned"]["dsc"]
        )  # that of a smaller budget, where it is better
        assert record["winner"]["predicted_memory_bytes"] <= high


def test_plans_differ_from_the_super_nets_in_name_network_and_provenance_alone(finished_demo):
    before = json.loads((finished_demo.preprocessed / "HyperSegNASDemoSupernet.json").read_text())
    for network in finished_demo.summary["networks"]:
        after = json.loads((finished_demo.preprocessed / f"{network['plans']}.json").read_text())
        assert after.pop("hypersegnas_search")["selected_on_fold"] == 0
        assert after.pop("plans_name") == network["plans"]
        found = after["configurations"]["3d_fullres"].pop("architecture")
        assert found["network_class_name"] == "nnunet_hypersegnas.architectures.SearchedNet"
        original = json.loads(json.dumps(before))
        original.pop("plans_name")
        original["configurations"]["3d_fullres"].pop("architecture")
        assert after == original


def test_inherited_weights_are_marked_and_fit_the_network(finished_demo):
    for network in finished_demo.summary["networks"]:
        plans = json.loads((finished_demo.preprocessed / f"{network['plans']}.json").read_text())
        weights = torch.load(plans["hypersegnas_search"]["inherited_weights"], weights_only=False)
        assert weights["hypersegnas"]["fold"] == 0
        assert "fold 0 only" in plans["hypersegnas_search"]["inherited_weights_note"]
        kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        SearchedNet(1, 3, **kwargs).load_state_dict(weights["network_weights"])
        log = (finished_demo.folder / "logs" / f"train_{network['plans']}.log").read_text()
        assert "Loading pretrained weights from file" in log


def test_predictions_have_the_images_geometry(finished_demo):
    images = sorted((finished_demo.folder / "Task999_Synthetic" / "imagesTs").glob("*.nii.gz"))
    for network in finished_demo.summary["networks"]:
        for file in images:
            image = sitk.ReadImage(str(file))
            prediction = sitk.ReadImage(f"{network['predictions']}/{file.name}")
            assert prediction.GetSize() == image.GetSize()
            assert np.allclose(prediction.GetSpacing(), image.GetSpacing())
            assert np.allclose(prediction.GetDirection(), image.GetDirection())


def test_a_search_called_again_goes_on_and_changes_nothing(demo_environment):
    plans = demo_environment.preprocessed / f"{demo_environment.summary['networks'][0]['plans']}.json"

    def contents():
        study = open_study(
            open_storage(RunFolder(demo_environment.run_folder).storage_url(None)),
            RunFolder(demo_environment.run_folder).read().study,
        )
        return plans.read_text(), [trial.datetime_complete for trial in study.get_trials()]

    before = contents()
    command = next(line for line in demo_environment.stdout.splitlines() if line.startswith("$ hsnas_search"))
    again = run(*command.split()[1:])
    assert again.returncode == 0, again.stderr
    assert contents() == before
    assert "hsnas_search" not in again.stderr  # no error line; bars only


def test_stock_nnunet_goes_on_with_no_variable_set(demo_environment, tmp_path):
    """find_best_configuration, export and import of the model zip, and prediction with the imported model."""
    plans = demo_environment.summary["networks"][0]["plans"]
    trainer = demo_environment.summary["settings"]["final_trainer"]
    model = ("-c", "3d_fullres", "-f", "0", "-tr", trainer, "-p", plans)
    best = run("nnUNetv2_find_best_configuration", "999", *model, "--disable_ensembling")
    assert best.returncode == 0, best.stderr
    assert (
        f"nnUNetv2_predict -d Dataset999_Synthetic -i INPUT_FOLDER -o OUTPUT_FOLDER -f  0 -tr {trainer}" in best.stdout
    )

    exported = run("nnUNetv2_export_model_to_zip", "-d", "999", "-o", tmp_path / "model.zip", *model)
    assert exported.returncode == 0, exported.stderr
    elsewhere = {"nnUNet_results": str(tmp_path / "results")}
    imported = run("nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip", **elsewhere)
    assert imported.returncode == 0, imported.stderr
    images = demo_environment.folder / "nnUNet_raw" / "Dataset999_Synthetic" / "imagesTs"
    predicted = run(
        *("nnUNetv2_predict", "-d", "999", "-i", images, "-o", tmp_path / "out", *model),
        *("-device", "cpu", "-npp", "0", "-nps", "0"),
        **elsewhere,
    )
    assert predicted.returncode == 0, predicted.stderr
    for file in (tmp_path / "out").glob("*.nii.gz"):
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        before = f"{demo_environment.summary['networks'][0]['predictions']}/{file.name}"
        assert np.array_equal(ours, sitk.GetArrayFromImage(sitk.ReadImage(before)))
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3
