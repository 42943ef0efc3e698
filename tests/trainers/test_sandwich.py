"""Sandwich steps through the real nnU-Net: what they train, on what, and when."""

from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_hypersegnas.space import largest, smallest
from nnunet_hypersegnas.trainers.sandwich import SandwichStep
from tests.trainers.conftest import BLOCK
from tests.trainers.ranks import with_momenta
from tests.trainers.test_several_processes import WITHOUT_WARMUP, assert_same_weights, on_two_ranks

EVERY = {**WITHOUT_WARMUP, "sandwich_every": 1}


def started(make_trainer, block):
    trainer = make_trainer(block)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer, next(trainer.dataloader_train)


def weights(trainer):
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def test_every_nth_step_after_the_warm_up_is_one(make_trainer, monkeypatch):
    trainer = make_trainer({**BLOCK, "sandwich_every": 3})  # two steps of warm-up, twelve in all
    trainer.initialize()
    taken = []
    monkeypatch.setattr(SandwichStep, "take", lambda step, *_: taken.append(step.trainer.iteration) or {"loss": 0.0})
    monkeypatch.setattr(nnUNetTrainer, "train_step", lambda *_: {"loss": 0.0})
    for _ in range(12):
        trainer.train_step({})
    assert taken == [4, 7, 10]
    assert not any(make_trainer(BLOCK).schedule.is_sandwich(i) for i in range(12))


@pytest.mark.parametrize("scaled", [False, True])
def test_the_largest_network_is_trained_as_nnunet_trains_it(make_trainer, monkeypatch, scaled):
    """With students that say nothing, the step is nnU-Net's own, to the last bit; with a scaler as on a GPU too."""
    results = []
    for block in (WITHOUT_WARMUP, EVERY):
        trainer, batch = started(make_trainer, block)
        trainer.grad_scaler = torch.amp.GradScaler("cpu") if scaled else None
        whole = largest(trainer.space)
        monkeypatch.setattr(trainer, "architecture_of", lambda _, whole=whole: whole)
        monkeypatch.setattr(
            "nnunet_hypersegnas.trainers.sandwich.ImitationLoss.forward", lambda _, logits, taught: 0 * logits.sum()
        )
        loss = trainer.train_step(batch)["loss"]
        used = {name for name, p in trainer.network.named_parameters() if p.grad is not None}
        results.append((loss, weights(trainer), used))
    (loss, expected, used), (got_loss, got, _) = results
    assert got_loss == loss and len(used) > 40
    assert all(torch.equal(got[name], expected[name]) for name in used)


@pytest.mark.parametrize("annealing", [0.0, 0.4])
def test_three_gradients_by_hand(make_trainer, annealing):
    trainer, batch = started(make_trainer, EVERY)
    network, parameters = trainer.network, list(trainer.network.parameters())
    sub_net = trainer.architecture_of(0)

    def logits(architecture):
        network.take(architecture, annealing)
        return network(batch["data"])

    def imitation(student, teacher):  # the Kullback-Leibler divergence of each head, weighted as the label loss's
        heads = [
            (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
            for s, t in zip(student, teacher, strict=False)
        ]
        used = max(1, len(heads) - 1)
        return sum(0.5**i * heads[i] for i in range(used)) / sum(0.5**i for i in range(used))

    before = weights(trainer)
    teacher = logits(largest(trainer.space))
    label_loss = trainer.loss(teacher, batch["target"])
    teacher = [one.detach() for one in teacher]
    losses = [label_loss, imitation(logits(smallest(trainer.space)), teacher), imitation(logits(sub_net), teacher)]
    trainer.optimizer.zero_grad(set_to_none=True)
    for loss in losses:
        loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 12)
    trainer.optimizer.step()
    expected = weights(trainer)

    network.load_state_dict(before)
    for optimizer in trainer.optimizer.optimizers.values():
        optimizer.state.clear()
    result = SandwichStep(trainer, network).take(batch, sub_net, annealing)
    assert result["loss"] == pytest.approx(label_loss.item(), rel=1e-5)
    assert network.architecture == sub_net and network.annealing == annealing
    assert_same_weights(network.state_dict(), expected)
    assert any(not torch.equal(before[name], expected[name]) for name in before if name.startswith("man."))


def test_a_continued_run_takes_the_same_sandwich_steps(make_trainer):
    block = {**BLOCK, "sandwich_every": 2, "sampler": "strictly fair", "iterations_per_epoch": 3}
    whole = make_trainer(block)
    whole.run_training()
    path = Path(whole.output_folder) / "checkpoint_final.pth"
    expected = torch.load(path, weights_only=False)["network_weights"]
    path.unlink()
    interrupted = make_trainer(block)
    interrupted.on_epoch_end, original = lambda: (original(), 1 / 0), interrupted.on_epoch_end
    with pytest.raises(ZeroDivisionError):
        interrupted.run_training()
    continued = make_trainer(block, resume=True)
    assert continued.current_epoch == 1
    continued.run_training()
    for name, value in torch.load(path, weights_only=False)["network_weights"].items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("per_rank", [False, True])
def test_two_ranks_take_the_steps_of_one_process(make_trainer, tmp_path, per_rank):
    trainer, batches, ranks = on_two_ranks({**EVERY, "architecture_per_rank": per_rank}, make_trainer, tmp_path)
    if per_rank:
        assert all(a != b for a, b in zip(*(rank["architectures"] for rank in ranks), strict=True))
    else:
        for batch in batches:
            trainer.train_step(batch)
        assert ranks[0]["momenta"] == with_momenta(trainer)
        assert_same_weights(ranks[0]["weights"], trainer.network.state_dict())
    assert_same_weights(ranks[0]["weights"], ranks[1]["weights"])
