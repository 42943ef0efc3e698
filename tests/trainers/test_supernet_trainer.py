"""The super-net trainer through the real nnU-Net, on the demo's preprocessed data."""

import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import nnunet_hypersegnas.trainers as trainers
from nnunet_hypersegnas.atomic import temporary_name, written_atomically
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
from nnunet_hypersegnas.nnunet.settings import SettingsError
from nnunet_hypersegnas.nnunet.supernet_checkpoint import CheckpointError
from nnunet_hypersegnas.nnunet.variants import VARIANTS
from tests.awake import awake, saturated
from tests.conftest import run
from tests.trainers.conftest import BLOCK

NAME = "HyperSegNASSupernetTrainer"


def _record_steps(trainer, stop_at=None):
    """Note (architecture, lambda, learning rates) of every training step; stop as if interrupted."""
    steps = []
    original = type(trainer).train_step

    def train_step(batch):
        if stop_at is not None and trainer.iteration == stop_at:
            raise KeyboardInterrupt
        result = original(trainer, batch)
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        steps.append((trainer.iteration - 1, trainer.network.architecture.id, trainer.network.annealing, rates))
        return result

    trainer.train_step = train_step
    return steps


def _final_checkpoint(trainer):
    return torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)


def test_a_continued_run_takes_the_same_steps(make_trainer):
    whole = make_trainer()
    expected = _record_steps(whole)
    whole.run_training()
    assert [step[0] for step in expected] == list(range(12))
    finished = _final_checkpoint(whole)
    shutil.rmtree(whole.output_folder)

    interrupted = make_trainer()
    before = _record_steps(interrupted, stop_at=10)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run_training()
    continued = make_trainer(resume=True)
    assert continued.validation_patches == interrupted.validation_patches >= 1  # so that the log goes on as it was
    after = _record_steps(continued)
    continued.run_training()
    assert before == expected[:10]
    assert after == expected[8:]  # the broken epoch is run again
    assert len(continued.logger.local_logger.my_fantastic_logging["hsnas_lambda"]) == 3
    again = _final_checkpoint(continued)
    for name, value in finished["network_weights"].items():
        assert torch.equal(value, again["network_weights"][name]), name  # to the last bit
    for kind, states in finished["optimizer_state"].items():
        assert states["state"]
        for key, state in states["state"].items():
            for name, value in state.items():
                assert torch.equal(value, again["optimizer_state"][kind]["state"][key][name])


def test_checkpoints_that_a_killed_training_was_writing_are_removed(make_trainer):
    trainer = make_trainer()
    folder = Path(trainer.output_folder)
    left = temporary_name(folder / "checkpoint_latest.pth")
    left.write_bytes(b"half")
    with written_atomically(folder / "checkpoint_best.pth") as living:
        trainer.on_train_start()
        assert living.exists() and not left.exists()


def test_the_schedule_is_followed_step_by_step(make_trainer):
    trainer = make_trainer()
    steps = _record_steps(trainer)
    trainer.run_training()
    lambdas = [step[2] for step in steps]
    assert lambdas == pytest.approx([1] * 2 + [0] * 4 + [1 / 3, 2 / 3] + [1] * 4)
    rates = [step[3] for step in steps]
    # MAN has its own, which ends with its influence.
    assert all(man == pytest.approx(network / 3 * (1 - at)) for (network, man), at in zip(rates, lambdas, strict=True))
    assert rates[0][0] == 0.003 and rates[6][0] == pytest.approx(0.0015) and rates[-1][0] > 0.00015
    assert len({step[1] for step in steps}) > 6
    full = [trainer.architecture_of(i).n_edges == 2 * 4 for i in range(3)]
    assert full[:2] == [True, True]  # warm-up: every edge


def test_what_is_not_sampled_is_not_touched(make_trainer):
    """Neither weight decay nor momentum moves an operation that an iteration did not use."""
    trainer = make_trainer({**BLOCK, "warmup_epochs": 0, "epochs": 1, "annealing_epochs": 0.25})
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    architecture = trainer.architecture_of(0)
    before = {name: p.clone() for name, p in trainer.network.named_parameters()}
    trainer.train_step(next(trainer.dataloader_train))
    used = {f"{edge.source}to{edge.target}_{op.name.lower()}" for _, _, edge, op in architecture.active()}
    rows = {f"layer{layer}_edge{column}_{op.name.lower()}" for layer, column, _, op in architecture.active()}
    changed = {name for name, p in trainer.network.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("man.encoder") for name in changed)
    for name in before:
        if name.startswith("super_net.layers"):
            layer, operation = name.split(".")[2:4]
            active = any(
                int(layer) == at and operation == f"{e.source}to{e.target}_{op.name.lower()}"
                for at, _, e, op in architecture.active()
            )
            assert (name in changed) == active, name
        if ".rows." in name and name.split(".")[3] not in rows:
            assert name not in changed
    assert used


def test_recomputed_layers_train_the_same_weights(make_trainer):
    weights = []
    for recompute in (False, True):
        trainer = make_trainer({**BLOCK, "recompute": recompute})
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        for _ in range(3):
            trainer.train_step(next(trainer.dataloader_train))
        assert trainer.network.super_net.recompute is recompute
        weights.append([parameter.clone() for parameter in trainer.network.parameters()])
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_validation_patches_are_the_same_in_every_run(make_trainer):
    patches = []
    for _ in range(2):
        trainer = make_trainer()
        trainer.initialize()
        patches.append(trainer.get_dataloaders()[1].patches)
    assert len(patches[0]) == 16
    for a, b in zip(*patches, strict=True):
        assert torch.equal(a["data"], b["data"])
        assert all(torch.equal(x, y) for x, y in zip(a["target"], b["target"], strict=True))
    foreground = sum(bool((p["target"][0] > 0).any()) for p in patches[0])
    assert foreground >= 4  # nnU-Net oversamples it


@pytest.mark.parametrize(("suffix", "epochs"), [("_1epoch", 1), ("_5epochs", 5), ("_50epochs", 50)])
def test_short_variants_anneal_too(make_trainer, suffix, epochs):
    trainer = make_trainer(name=NAME + suffix)
    assert trainer.num_epochs == epochs
    assert trainer.schedule.annealing == 2 * epochs  # half of the epochs, as in the block
    assert trainer.schedule.annealing_lambda(4 * epochs - 1) == 1


def test_every_exported_trainer_is_named_for_its_epochs():
    of_the_ablation = {variant.trainer for variant in VARIANTS.values()}
    for name in trainers.__all__:
        trainer = getattr(trainers, name)
        assert trainer.__name__ == name
        suffix = "" if name in of_the_ablation else name.removeprefix(NAME)
        epochs = suffix.strip("_").removesuffix("s").removesuffix("epoch")
        assert trainer.total_epochs == (int(epochs) if epochs else None)


def test_faults_of_the_block_are_named_on_start(make_trainer):
    with pytest.raises(SettingsError, match=r"layers is 0.*optimizer is 'Adam'|layers is 0"):
        make_trainer({**BLOCK, "layers": 0})


def test_a_checkpoint_of_another_space_or_other_settings_is_explained(make_trainer):
    trainer = make_trainer({**BLOCK, "epochs": 1, "annealing_epochs": 0.5})
    trainer.run_training()
    with pytest.raises(CheckpointError, match=r"trained with search space .* restore the plans"):
        make_trainer({**BLOCK, "channels": [4, 8]}, resume=True)
    with pytest.raises(CheckpointError, match=r"other settings \(.*seed 0 -> 3"):
        make_trainer({**BLOCK, "seed": 3}, resume=True)

    block, path = {**BLOCK, "epochs": 1, "annealing_epochs": 0.5}, Path(trainer.output_folder) / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint["hypersegnas"]["nnunetv2_version"] == version("nnunetv2")
    labels = {"background": 0, "organ": 1, "lesion": 2}
    changed = {**checkpoint["init_args"]["dataset_json"], "labels": {"background": 0, "organ": 1}}
    torch.save({**checkpoint, "init_args": {**checkpoint["init_args"], "dataset_json": changed}}, path)
    with pytest.raises(CheckpointError, match=re.escape(f"labels {changed['labels']} then, {labels} now")):
        make_trainer(block, resume=True)
    weights = {name.replace("super_net", "net"): value for name, value in checkpoint["network_weights"].items()}
    record = {**checkpoint["hypersegnas"], "package_version": "0.0.1"}
    torch.save({**checkpoint, "network_weights": weights, "hypersegnas": record}, path)
    with pytest.raises(CheckpointError, match=r"do not fit .* was written by nnunet_hypersegnas 0.0.1 with nnunetv2"):
        make_trainer(block, resume=True)


def test_a_super_net_of_another_data_set_is_a_start(make_trainer, tmp_path):
    """By nnU-Net's own -pretrained_weights; segmentation heads stay as they were."""
    source = make_trainer({**BLOCK, "seed": 1})
    source.initialize()
    torch.save({"network_weights": source.network.state_dict()}, tmp_path / "other.pth")
    trainer = make_trainer(pretrained=str(tmp_path / "other.pth"))
    for name, value in trainer.network.state_dict().items():
        if value.ndim and value.std() > 0:  # not a bias that starts at zero, nor a count
            assert torch.equal(value, source.network.state_dict()[name]) == (".seg_layers." not in name), name
    with pytest.raises(AssertionError, match=r"not the same|missing in the pretrained"):
        make_trainer({**BLOCK, "channels": [4, 8]}, pretrained=str(tmp_path / "other.pth"))


def test_a_cascade_without_predictions_of_its_first_stage_is_refused(make_trainer, demo_environment):
    trainer = make_trainer({**BLOCK, "previous_stage": "nnUNetTrainer__Other"}, previous_stage="3d_lowres")
    with pytest.raises(HyperSegNASError, match=r"takes predictions of 3d_lowres.*nnUNetTrainer__Other__3d_lowres"):
        trainer.on_train_start()


def _validated(trainer, lambda_below_one=True):
    trainer.on_epoch_start()
    trainer.iteration = 3 if lambda_below_one else 12
    with torch.no_grad():
        trainer.validation_step(next(trainer.dataloader_val))
    return Path(trainer.log_file).read_text()


def test_a_collapsed_man_is_warned_about(make_trainer):
    trainer = make_trainer()
    trainer.on_train_start()
    assert "WARNING: MAN's scalars hardly depend on images and architectures any more" in _validated(trainer)


def test_a_saturated_man_is_warned_about_and_logged_by_layer(make_trainer):
    trainer = make_trainer()
    trainer.on_train_start()
    awake(trainer.network)
    assert "WARNING: more than" not in _validated(trainer)
    saturated(trainer.network, 1)
    log = _validated(trainer)
    assert "WARNING: more than 50% of MAN's scalars in layer 2 are saturated, near 0 or 2" in log
    assert re.search(r"by layer \(.*\) 1: [\d.]+/[\d.]+/0%/[\d./]+, 2: [\d.]+/[\d.]+/\d\d+%/", log)
    shown = log.count("WARNING")
    assert _validated(trainer, lambda_below_one=False).count("WARNING") == shown  # MAN is gone: it no longer matters


def test_stock_predict_runs_the_super_nets_u_net(demo_environment, tmp_path):
    images = demo_environment.folder / "nnUNet_raw" / "Dataset999_Synthetic" / "imagesTs"
    result = run(
        *("nnUNetv2_predict", "-d", "999", "-i", images, "-o", tmp_path, "-c", "3d_fullres", "-f", "0"),
        *("-tr", NAME, "-p", "HyperSegNASDemoSupernet", "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta"),
        nnUNet_extTrainer=str(external_trainer_folder()),
    )
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("*.nii.gz"))) == 3
