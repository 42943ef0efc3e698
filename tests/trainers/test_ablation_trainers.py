"""The trainers of the paper's ablation, through the real nnU-Net: what they share, and what becomes of MAN in each."""

import math
from pathlib import Path

import pytest
import torch

import nnunet_hypersegnas.trainers as trainers
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.sub_net_evaluator import FinalistFiles, SubNetEvaluator
from nnunet_hypersegnas.nnunet.super_net_loading import load_super_net, load_trained, load_with_man
from nnunet_hypersegnas.nnunet.supernet_checkpoint import CheckpointError
from nnunet_hypersegnas.nnunet.variants import IMAGE_ONLY, KEEP_MAN, MAIN, NO_ANNEAL, VANILLA, VARIANTS
from nnunet_hypersegnas.search import SearchSettings
from nnunet_hypersegnas.space import largest, rng_for, sample
from tests.awake import awake
from tests.trainers.conftest import BLOCK

SHORT = {**BLOCK, "epochs": 2, "annealing_epochs": 1, "iterations_per_epoch": 3}


def train(trainer):
    """Run a whole training, and return what each step got: sub-net, lambda, learning rate, and sums of the batch."""
    steps, original = [], type(trainer).train_step

    def train_step(batch):
        sums = float(batch["data"].double().sum()), float(batch["target"][0].double().sum())
        result = original(trainer, batch)
        rate = trainer.optimizer.param_groups[0]["lr"]
        steps.append((trainer.network.architecture.id, trainer.network.annealing, rate, sums))
        return result

    trainer.initialize()
    start = {name: value.clone() for name, value in trainer.network.super_net.state_dict().items()}
    trainer.train_step = train_step
    trainer.run_training()
    return start, steps


def weights(trainer):
    return torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)["network_weights"]


def logged(trainer, key):
    return trainer.logger.local_logger.my_fantastic_logging[f"hsnas_{key}"]


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_each_variant_has_a_trainer_of_its_name(variant):
    assert {variant.trainer, variant.trained_as} <= set(trainers.__all__)
    assert getattr(trainers, variant.trainer).variant is variant


def test_all_variants_train_on_the_same_sub_nets_and_batches(make_trainer):
    """Equal iterations: with one seed they differ in MAN alone, from the first weight to the last batch."""
    made = {key: make_trainer(SHORT, name=variant.trainer) for key, variant in VARIANTS.items()}
    done = {key: train(trainer) for key, trainer in made.items()}
    expected_start, expected = done["main"]
    assert len(expected) == 6 and len({step[0] for step in expected}) > 3 and len({step[3] for step in expected}) == 6
    for key, (start, steps) in done.items():
        assert all(torch.equal(start[name], value) for name, value in expected_start.items()), key
        assert [(s[0], s[2], s[3]) for s in steps] == [(s[0], s[2], s[3]) for s in expected], key
    lambdas = {key: [step[1] for step in steps] for key, (_, steps) in done.items()}
    assert lambdas["main"] == pytest.approx([1, 1, 0, 2 / 3, 1, 1])  # the first two steps are warm-up
    assert lambdas["vanilla"] == [1] * 6
    assert lambdas["image-only"] == lambdas["keep-man"] == lambdas["no-anneal"] == [1, 1, 0, 0, 0, 0]

    # No MAN was built, so none is in the checkpoint, and there is nothing to log of it.
    assert made["vanilla"].network.man is None and not [name for name in weights(made["vanilla"]) if "man." in name]
    assert all(math.isnan(value) for value in logged(made["vanilla"], "spread_images"))
    assert "no MAN" in Path(made["vanilla"].log_file).read_text()
    assert "WARNING" not in Path(made["vanilla"].log_file).read_text()
    # C and D are one training.
    kept, removed = weights(made["keep-man"]), weights(made["no-anneal"])
    assert all(torch.equal(value, removed[name]) for name, value in kept.items())
    # B's MAN is not told the architecture; that it does not depend on it is no collapse.
    image_only = made["image-only"]
    assert logged(image_only, "spread_architectures") == [0, 0] and logged(image_only, "spread_images")[-1] > 0
    assert "hardly depend on architectures" not in Path(image_only.log_file).read_text()
    for trainer in made.values():
        seconds = logged(trainer, "training_seconds")
        assert len(seconds) == 2 and min(seconds) > 0


@pytest.mark.parametrize("variant", [VANILLA, IMAGE_ONLY, KEEP_MAN], ids=lambda variant: variant.key)
def test_an_interrupted_variant_goes_on(make_trainer, variant):
    whole = make_trainer(SHORT, name=variant.trainer)
    whole.run_training()
    expected = weights(whole)
    (Path(whole.output_folder) / "checkpoint_final.pth").unlink()
    interrupted = make_trainer(SHORT, name=variant.trainer)
    interrupted.on_epoch_end, original = lambda: (original(), 1 / 0), interrupted.on_epoch_end
    with pytest.raises(ZeroDivisionError):
        interrupted.run_training()
    continued = make_trainer(SHORT, name=variant.trainer, resume=True)
    assert continued.current_epoch == 1
    continued.run_training()
    assert all(torch.equal(value, expected[name]) for name, value in weights(continued).items())


def test_the_trainer_stands_above_the_plans_and_checkpoints_remember(make_trainer):
    block = {**SHORT, "man": "image", "annealing": "at once"}
    assert make_trainer(block).settings.man == "image"  # it does as the plans say
    trainer = make_trainer(block, name=KEEP_MAN.trainer)
    assert (trainer.settings.man, trainer.settings.annealing) == ("image and architecture", "none")
    trainer.run_training()
    path = Path(trainer.output_folder) / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    record = checkpoint["hypersegnas"]["settings"]
    assert (record["man"], record["annealing"]) == ("image and architecture", "none")
    checkpoint["hypersegnas"]["settings"] = {**record, "annealing": "linear"}
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match="other settings \\(annealing linear -> none\\)"):
        make_trainer(block, name=KEEP_MAN.trainer, resume=True)


def test_a_record_from_before_there_were_variants_goes_on(make_trainer):
    trainer = make_trainer(SHORT)
    trainer.run_training()
    path = Path(trainer.output_folder) / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    for key in ("man", "annealing"):
        del checkpoint["hypersegnas"]["settings"][key]
    del checkpoint["logging"]["hsnas_training_seconds"]
    torch.save(checkpoint, path)
    again = make_trainer(SHORT, resume=True)
    assert again.current_epoch == 2 and all(math.isnan(value) for value in logged(again, "training_seconds"))


def test_what_predicts_without_choosing_a_sub_net_has_man_where_it_is_kept(make_trainer):
    for variant, annealing in ((MAIN, 1), (VANILLA, 1), (NO_ANNEAL, 1), (KEEP_MAN, 0), (IMAGE_ONLY, 0)):
        trainer = make_trainer(SHORT, name=variant.trainer)
        # As nnU-Net's predictor does, which has the class alone.
        network = type(trainer).build_network_architecture(
            trainer.plans_manager, trainer.configuration_manager, 1, 3, enable_deep_supervision=False
        )
        assert network.annealing == annealing and (network.man is None) == (variant is VANILLA)


def test_the_search_takes_super_nets_without_man_only(make_trainer):
    for variant, searchable in ((VANILLA, True), (KEEP_MAN, False), (NO_ANNEAL, False)):
        trainer = make_trainer(SHORT, name=variant.trainer)
        trainer.run_training()
        dataset = PreprocessedDataset.find("999", "SupernetTrainerTest", "3d_fullres")
        path = Path(trainer.output_folder) / "checkpoint_final.pth"
        trained = load_trained(dataset, path)
        assert len(trained.training_seconds) == 2 and trained.record.settings.man == trainer.settings.man
        if searchable:
            assert load_super_net(dataset, path)[1].man is None
        else:
            with pytest.raises(CheckpointError, match=r"was trained with annealing .* lean on MAN"):
                load_super_net(dataset, path)


def test_the_search_keeps_a_man_that_is_told_the_architecture_alone(make_trainer, tmp_path):
    trainer = make_trainer({**SHORT, "man": "architecture", "annealing": "none"})
    trainer.run_training()
    assert "MAN (told the architecture alone) in all of them, and in predictions" in Path(trainer.log_file).read_text()
    assert logged(trainer, "spread_images") == [0, 0] and logged(trainer, "spread_architectures")[-1] > 0
    dataset = PreprocessedDataset.find("999", "SupernetTrainerTest", "3d_fullres")
    path = Path(trainer.output_folder) / "checkpoint_final.pth"
    space, network = load_super_net(dataset, path)
    evaluator = SubNetEvaluator(
        dataset, 0, network, None, FinalistFiles(tmp_path), SearchSettings(), torch.device("cpu")
    )
    image = torch.randn(1, 1, 16, 16, 16)
    awake(network)  # after so few steps, scalars are all near 1
    for architecture in (largest(space), *(sample(space, rng_for(0, "test", i)) for i in range(3))):
        network.take(architecture, evaluator.annealing)
        with_man, searched = network(image), evaluator.inherited(architecture)(image)
        torch.testing.assert_close(searched, with_man, rtol=1e-4, atol=1e-5)
    network.take(largest(space), evaluator.annealing)
    with_man = network(image)
    network.take(largest(space), 1.0)
    assert (network(image) - with_man).abs().max() > 0.01
    with pytest.raises(CheckpointError, match="told the architecture alone, so it has one set of scalars"):
        load_with_man(dataset, path)


def test_a_man_whose_scalars_act_on_the_input_is_trained_and_kept(make_trainer):
    trainer = make_trainer({**SHORT, "scalar_position": "input"}, name=KEEP_MAN.trainer)
    trainer.run_training()
    dataset = PreprocessedDataset.find("999", "SupernetTrainerTest", "3d_fullres")
    path = Path(trainer.output_folder) / "checkpoint_final.pth"
    network = load_trained(dataset, path).network
    assert network.man.scalar_position == network.super_net.scalar_position == "input"
    assert logged(trainer, "spread_images")[-1] > 0
    with pytest.raises(CheckpointError, match="other settings \\(scalar_position input -> output\\)"):
        make_trainer(SHORT, name=KEEP_MAN.trainer, resume=True)
