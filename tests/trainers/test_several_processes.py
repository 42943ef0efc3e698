"""The super-net on several ranks is the super-net on one: gloo and two CPU processes against one process."""

from pathlib import Path

import pytest
import torch
from torch.multiprocessing import spawn

from tests.trainers.conftest import BLOCK
from tests.trainers.ranks import part_of, take_steps, train, with_momenta

STEPS = 4
# SGD, since AdamW's first steps have the size of the learning rate however small a gradient is, rounding errors too.
WITHOUT_WARMUP = {**BLOCK, "warmup_epochs": 0, "optimizer": "SGD", "man_optimizer": "SGD"}


def on_two_ranks(block, make_trainer, folder):
    """Return the trainer of one process, the batches, and what both ranks had in the end."""
    trainer = make_trainer(block, batch_size=2)
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    batches = [{k: v for k, v in next(loader).items() if k in ("data", "target")} for _ in range(STEPS)]
    torch.save(batches, folder / "batches.pt")
    spawn(take_steps, (2, trainer.plans_manager.plans_name, folder), nprocs=2)
    trainer.network.train()
    return trainer, batches, [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6, msg=name)


def test_two_ranks_train_as_one_process_with_both_samples(make_trainer, tmp_path):
    trainer, batches, ranks = on_two_ranks(WITHOUT_WARMUP, make_trainer, tmp_path)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    for batch in batches:
        trainer.train_step(batch)
    assert ranks[0]["architectures"] == ranks[1]["architectures"]
    expected = trainer.network.state_dict()
    assert sum(not torch.equal(before[name], expected[name]) for name in before) > 20
    for rank in ranks:
        assert_same_weights(rank["weights"], expected)
        # What no step used has no momentum: the optimizer was never given a gradient for it.
        assert rank["momenta"] == with_momenta(trainer)
    assert sum(map(len, ranks[0]["momenta"].values())) < len(expected)


def test_an_architecture_of_its_own_on_each_rank(make_trainer, tmp_path):
    """A gradient is the mean over the ranks that used its parameter; that is done by hand here.

    Without MAN, whose statistics of images belong to all ranks of a step together.
    """
    block = {**WITHOUT_WARMUP, "architecture_per_rank": True, "man": "none"}
    trainer, batches, ranks = on_two_ranks(block, make_trainer, tmp_path)
    assert all(a != b for a, b in zip(*(rank["architectures"] for rank in ranks), strict=True))
    parameters = list(trainer.network.parameters())
    for iteration, batch in enumerate(batches):
        gradients = []
        for rank in range(2):
            trainer.local_rank = rank
            architecture = trainer.architecture_of(iteration)
            assert architecture.id == ranks[rank]["architectures"][iteration]
            trainer.network.take(architecture, trainer.schedule.annealing_lambda(iteration))
            trainer.optimizer.zero_grad(set_to_none=True)
            part = part_of(batch, rank)
            trainer.loss(trainer.network(part["data"]), part["target"]).backward()
            gradients.append([p.grad for p in parameters])
        for parameter, pair in zip(parameters, zip(*gradients, strict=True), strict=True):
            used = [gradient for gradient in pair if gradient is not None]
            parameter.grad = sum(used) / len(used) if used else None
        trainer.lr_scheduler.step_iteration(iteration)
        torch.nn.utils.clip_grad_norm_(parameters, 12)
        trainer.optimizer.step()
    trainer.local_rank = 0
    for rank in ranks:
        assert_same_weights(rank["weights"], trainer.network.state_dict())


@pytest.mark.parametrize("man", ["image and architecture", "none"])
def test_a_whole_training_on_two_ranks(make_trainer, tmp_path, man):
    """Validation, logs and checkpoints too; one process goes on from the checkpoint."""
    block = {**BLOCK, "epochs": 2, "annealing_epochs": 1, "man": man}
    trainer = make_trainer(block, batch_size=2)
    spawn(train, (2, trainer.plans_manager.plans_name, tmp_path), nprocs=2)
    continued = make_trainer(block, batch_size=2, resume=True)
    assert continued.current_epoch == 2 and (Path(trainer.output_folder) / "progress_supernet.png").exists()
    for rank in range(2):
        weights = torch.load(tmp_path / f"rank{rank}.pt")
        for name, value in continued.network.state_dict().items():
            assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_setting_that_is_neither_true_nor_false(make_trainer, value):
    with pytest.raises(Exception, match=r"architecture_per_rank is .* true or false"):
        make_trainer({**BLOCK, "architecture_per_rank": value})
