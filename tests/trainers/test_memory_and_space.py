"""What a super-net's training says of its space and budgets, which sub-nets it takes, and what a full GPU does."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_hypersegnas.cost import Quantity, format_bytes
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_limit import MemoryLimit
from nnunet_hypersegnas.nnunet.skipped_steps import SkippedStepsError
from nnunet_hypersegnas.nnunet.space_costs import SpaceCosts
from nnunet_hypersegnas.nnunet.super_net_loading import load_super_net
from nnunet_hypersegnas.nnunet.super_net_memory import MemoryLimitError
from nnunet_hypersegnas.nnunet.supernet_checkpoint import CheckpointError
from nnunet_hypersegnas.search import BudgetError
from nnunet_hypersegnas.space import to_codes
from tests.trainers.conftest import BLOCK

SHORT = {**BLOCK, "man": "none", "epochs": 2, "annealing_epochs": 0.5, "warmup_epochs": 0.5}
OPEN = {key: value for key, value in SHORT.items() if key not in ("layers", "channels")}
CPU = torch.device("cpu")
PLANS = "SupernetTrainerTest"


def log_of(trainer):
    return Path(trainer.log_file).read_text()


def checkpoint_of(trainer, name="checkpoint_final.pth"):
    return Path(trainer.output_folder) / name


@pytest.fixture
def middle(make_trainer):
    """A memory limit that half of the sub-nets drawn meet."""
    trainer = make_trainer(SHORT)
    settings = replace(trainer.settings, memory_limit="9GB")
    memory = MemoryLimit.at_start(trainer._dataset(), trainer.space, settings, CPU).memory
    return f"{round(memory.drawn_quantiles(0.5)[0] / 1e3)}KB"


# -- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_says_what_networks_need_beside_nnunets_own(make_trainer):
    trainer = make_trainer(SHORT)
    costs = SpaceCosts.of(trainer._dataset(), trainer.space, "cpu")
    trainer.on_train_start()
    log = log_of(trainer)
    memory = costs.ranges[Quantity.MEMORY]
    assert f"need {format_bytes(round(memory.low))} to {format_bytes(round(memory.high))} of training memory" in log
    assert f"own network in these plans (PlainConvUNet) needs {format_bytes(costs.own.memory_bytes)}, more than" in log
    assert "Memory of the super-net's training is not limited" in log and "Budget" not in log and "budget " not in log


def test_the_log_says_where_budgets_lie_and_warns_of_those_that_lie_badly(make_trainer):
    trainer = make_trainer(SHORT)
    memory = SpaceCosts.of(trainer._dataset(), trainer.space, "cpu").drawn.memory_bytes
    low, middle = (f"{round(size / 1e3)}KB" for size in np.quantile(memory, [0.02, 0.5]))
    trainer = make_trainer({**SHORT, "memory": ["own", middle, low]})
    trainer.on_train_start()
    log = log_of(trainer)
    assert re.search(rf"Budget {middle} is more than [45]\d% of the networks drawn need", log)
    assert re.search(rf"WARNING: budget {low} is more than [1-4]% of the networks drawn need", log)
    assert re.search(
        r"WARNING: budget own cannot be met: no architecture has memory .* in this search space it is", log
    )


def test_budgets_of_which_none_can_be_met_are_refused_before_training(make_trainer):
    trainer = make_trainer({**SHORT, "memory": ["own", "50GB"]})
    with pytest.raises(
        BudgetError, match=r"plans name budgets that no network of this search space meets.*hsnas_space"
    ):
        trainer.on_train_start()


# -- the memory limit ------------------------------------------------------------------------------------------------


def drawn(trainer, count=8):
    return [trainer.architecture_of(i) for i in range(count)]


def test_only_sub_nets_within_the_limit_are_trained(make_trainer, middle):
    free, limited = make_trainer(SHORT), make_trainer({**SHORT, "memory_limit": middle})
    for trainer in (free, limited):
        trainer.initialize()
    fits = limited.memory_limit.fits
    assert fits(to_codes(drawn(limited))).all() and not fits(to_codes(drawn(free))).all()
    assert any(a == b for a, b in zip(drawn(free), drawn(limited), strict=True))  # those that fit stay
    started = make_trainer({**SHORT, "memory_limit": middle})  # as nnUNetv2_train does, which initialises it on the way
    started.on_train_start()
    assert f"Memory limit {format_bytes(round(limited.memory_limit.limit_bytes))} (memory_limit of" in log_of(started)


def test_a_continued_training_keeps_its_limit(make_trainer, middle):
    block = {**SHORT, "memory_limit": middle}
    first = make_trainer(block)
    first.on_epoch_end, original = lambda: (original(), 1 / 0), first.on_epoch_end
    with pytest.raises(ZeroDivisionError):
        first.run_training()
    record = torch.load(checkpoint_of(first, "checkpoint_latest.pth"), weights_only=False)["hypersegnas"]
    assert record["memory_limit"]["limit_bytes"] == first.memory_limit.limit_bytes
    continued = make_trainer(block, resume=True)
    assert continued.memory_limit.to_json() == first.memory_limit.to_json()
    assert drawn(continued) == drawn(first)
    with pytest.raises(CheckpointError, match=r"other settings \(memory_limit"):
        make_trainer(SHORT, resume=True)


def test_a_checkpoint_of_an_earlier_version_goes_on_without_a_limit(make_trainer):
    first = make_trainer(SHORT)
    first.run_training()
    path = checkpoint_of(first)
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["hypersegnas"]["memory_limit"]
    for key in ("memory", "memory_limit", "full_resolution"):
        del checkpoint["hypersegnas"]["settings"][key]
    torch.save(checkpoint, path)
    continued = make_trainer(SHORT, resume=True)
    assert continued.memory_limit.fits is None and drawn(continued) == drawn(first)


def test_a_limit_that_hardly_any_sub_net_meets_is_refused_before_training(make_trainer):
    with pytest.raises(MemoryLimitError, match="only 0% of the sub-nets drawn can be trained"):
        make_trainer({**SHORT, "memory_limit": "1KB"}).on_train_start()


# -- a GPU that is full ----------------------------------------------------------------------------------------------


def full_at(trainer, *iterations):
    """Let the network's forward pass run out of memory in some training iterations."""
    trainer.initialize()
    forward = trainer.network.forward

    def out_of_memory(*args, **kwargs):
        if trainer.network.training and trainer.iteration in iterations:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(*args, **kwargs)

    trainer.network.forward = out_of_memory
    return trainer


def test_a_step_without_memory_is_skipped_and_the_training_goes_on(make_trainer):
    trainer = full_at(make_trainer(SHORT), 1, 2, 6)
    trainer.run_training()
    log = log_of(trainer)
    for iteration in (1, 2, 6):
        sub_net = trainer.architecture_of(iteration)
        assert f"WARNING: out of memory in iteration {iteration} with sub-net {sub_net.id} (" in log
    assert log.count("WARNING: out of memory") == 3 and trainer.out_of_memory.in_a_row == 0
    assert torch.load(checkpoint_of(trainer), weights_only=False)["hypersegnas"]["iteration"] == 8
    losses = trainer.logger.local_logger.my_fantastic_logging["train_losses"]
    assert len(losses) == 2 and all(loss == loss for loss in losses)  # none is nan


def test_a_skipped_step_leaves_the_weights_alone(make_trainer):
    trainer = full_at(make_trainer(SHORT), 0)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    before = [p.clone() for p in trainer.network.parameters()]
    assert trainer.train_step(next(trainer.dataloader_train)) == {"loss": None}
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(), before, strict=True))
    assert all(p.grad is None for p in trainer.network.parameters()) and trainer.iteration == 1
    assert trainer.train_step(next(trainer.dataloader_train))["loss"] is not None


def test_an_epoch_without_a_single_step_ends_too(make_trainer):
    trainer = full_at(make_trainer(SHORT), 0, 1, 2, 3)
    trainer.run_training()
    assert log_of(trainer).count("WARNING: out of memory") == 4


def test_five_steps_in_a_row_without_memory_end_the_run(make_trainer):
    trainer = full_at(make_trainer(SHORT), *range(1, 8))
    with pytest.raises(SkippedStepsError, match=r"out of memory in 5 steps in a row.*set memory_limit"):
        trainer.run_training()
    assert trainer.iteration == 5 and log_of(trainer).count("WARNING: out of memory") == 4


# -- a loss that is not finite ---------------------------------------------------------------------------------------


def not_finite_at(trainer, *iterations):
    """Let the network answer with NaN in some training iterations."""
    trainer.initialize()
    forward = trainer.network.forward

    def forward_or_nan(*args, **kwargs):
        output = forward(*args, **kwargs)
        if trainer.network.training and trainer.iteration in iterations:
            return [head * float("nan") for head in output]
        return output

    trainer.network.forward = forward_or_nan
    return trainer


def test_a_step_without_a_finite_loss_leaves_the_weights_alone(make_trainer):
    trainer = not_finite_at(make_trainer(SHORT), 0)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    before = [p.clone() for p in trainer.network.parameters()]
    assert trainer.train_step(next(trainer.dataloader_train)) == {"loss": None}
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(), before, strict=True))
    assert trainer.train_step(next(trainer.dataloader_train))["loss"] is not None


def test_steps_without_a_finite_loss_are_named_and_the_training_goes_on(make_trainer):
    trainer = not_finite_at(make_trainer(SHORT), 1, 2, 6)
    trainer.run_training()
    log = log_of(trainer)
    for iteration in (1, 2, 6):
        sub_net = trainer.architecture_of(iteration)
        assert f"WARNING: loss that is not finite in iteration {iteration} with sub-net {sub_net.id} (" in log
    weights = torch.load(checkpoint_of(trainer), weights_only=False)["network_weights"]
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_twenty_steps_in_a_row_without_a_finite_loss_end_the_run(make_trainer):
    trainer = not_finite_at(make_trainer({**SHORT, "iterations_per_epoch": 30}), *range(1, 30))
    with pytest.raises(SkippedStepsError, match=r"not finite in 20 steps in a row.*look for NaN"):
        trainer.run_training()
    assert trainer.iteration == 20 and log_of(trainer).count("WARNING: loss that is not finite") == 19


@pytest.fixture
def label_nowhere(demo_environment):
    """A data set whose dataset.json has a label that no case has."""
    path = demo_environment.preprocessed / "dataset.json"
    before = path.read_text()
    content = json.loads(before)
    content["labels"]["nowhere"] = 1 + max(content["labels"].values())
    path.write_text(json.dumps(content))
    yield
    path.write_text(before)


def test_a_training_takes_a_label_that_no_case_has(make_trainer, label_nowhere):
    trainer = make_trainer(SHORT)
    trainer.run_training()
    assert all(np.isfinite(trainer.logger.local_logger.my_fantastic_logging["train_losses"]))


def test_other_errors_are_no_full_gpu(make_trainer):
    trainer = make_trainer(SHORT)
    trainer.on_train_start()
    trainer.on_train_epoch_start()

    def broken(*args):
        raise RuntimeError("a bug")

    trainer.network.forward = broken
    with pytest.raises(RuntimeError, match="a bug"):
        trainer.train_step(next(trainer.dataloader_train))


# -- the space that a checkpoint has ---------------------------------------------------------------------------------


def test_the_plans_beside_the_checkpoints_name_the_space(make_trainer):
    trainer = make_trainer({**OPEN, "epochs": 1, "annealing_epochs": 0.25})
    assert trainer.space.channels == (32, 64, 128, 256) and trainer.space.finest_is_full_resolution
    trainer.on_train_start()
    kept = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    block = kept["configurations"]["3d_fullres"]["hypersegnas"]
    assert block["layers"] == 12 and block["channels"] == [32, 64, 128, 256] and block["full_resolution"] is True
    assert block["iterations_per_epoch"] == 4


def as_of_an_earlier_default(path):
    """Let a checkpoint say that its space was its version's default: no size of it is in its settings."""
    checkpoint = torch.load(path, weights_only=False)
    settings = checkpoint["hypersegnas"]["settings"]
    settings |= {"channels": None, "scales": None}
    for key in ("memory", "memory_limit", "full_resolution"):
        settings.pop(key, None)
    checkpoint["hypersegnas"].pop("memory_limit", None)
    block = checkpoint["init_args"]["plans"]["configurations"]["3d_fullres"]["hypersegnas"]
    for key in ("channels", "full_resolution"):
        block.pop(key, None)
    torch.save(checkpoint, path)


def test_a_super_net_of_an_earlier_default_space_is_continued_and_searched_in_its_own(make_trainer):
    """Its plans leave the space open, and would give another one now."""
    first = make_trainer(SHORT)
    first.on_epoch_end, original = lambda: (original(), 1 / 0), first.on_epoch_end
    with pytest.raises(ZeroDivisionError):
        first.run_training()
    as_of_an_earlier_default(checkpoint_of(first, "checkpoint_latest.pth"))
    left_open = {key: value for key, value in SHORT.items() if key != "channels"}
    assert make_trainer(left_open).space != first.space
    with pytest.raises(CheckpointError, match=r"trained with search space .* restore the plans"):
        make_trainer({**left_open, "full_resolution": True}, resume=True)  # which says otherwise
    continued = make_trainer(left_open, resume=True)
    assert continued.space == first.space and drawn(continued) == drawn(first)
    continued.run_training()
    as_of_an_earlier_default(checkpoint_of(continued))
    dataset = PreprocessedDataset.find("999", PLANS, "3d_fullres")
    space, network = load_super_net(dataset, checkpoint_of(continued))
    assert space == first.space and network.super_net.space == first.space
    make_trainer({**SHORT, "channels": [4, 8]})  # plans that name a space are held to it
    changed = PreprocessedDataset.find("999", PLANS, "3d_fullres")
    with pytest.raises(CheckpointError, match=r"was trained with search space .* now give another one; restore"):
        load_super_net(changed, checkpoint_of(continued))


def test_a_super_net_of_the_papers_recipe_of_an_earlier_version_is_continued(make_trainer):
    """Its settings did not name the channels that the recipe names now."""
    block = {**OPEN, "recipe": "paper", "epochs": 1, "annealing_epochs": 0.25, "layers": 2}
    del block["man"]
    first = make_trainer({**block, "channels": [32, 64, 128, 256]})
    first.run_training()
    path = checkpoint_of(first)
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["hypersegnas"]["settings"]["channels"] = None
    torch.save(checkpoint, path)
    assert make_trainer(block, resume=True).space == first.space
