"""Fine-tuning follows from its seed: whoever prepares the batches, and however often it is interrupted."""

import pytest
import torch

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.nnunet import fine_tuning
from nnunet_hypersegnas.nnunet.cost_models import search_space
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fine_tuning import FineTuner
from nnunet_hypersegnas.space import smallest

CPU = torch.device("cpu")


@pytest.fixture
def dataset(demo_environment):
    return PreprocessedDataset.find("999", "HyperSegNASDemoSupernet", "3d_fullres")


@pytest.fixture
def tune(dataset, tmp_path):
    space = search_space(dataset)

    def run(iterations=6, seed=1, name="a"):
        tuner = FineTuner(dataset, space, 0, CPU, tmp_path)
        torch.manual_seed(0)
        network = SearchedNet(1, 3, **searched_net_kwargs(space, smallest(space)))
        tuner.fine_tune(network, iterations=iterations, learning_rate=0.01, seed=seed, unfinished=tmp_path / name)
        return [p.detach().clone() for p in network.parameters()]

    return run


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_result_follows_from_the_seed(tune):
    assert equal(tune(), tune())
    assert not equal(tune(), tune(seed=2))


@pytest.mark.parametrize("processes", ["1", "3"])
def test_background_processes_give_the_same_batches(tune, monkeypatch, processes):
    alone = tune()
    monkeypatch.setenv("nnUNet_n_proc_DA", processes)
    assert equal(tune(), alone)


def test_what_was_interrupted_goes_on_where_it_stood(tune, monkeypatch, tmp_path):
    whole = tune(name="whole")
    monkeypatch.setattr(fine_tuning, "SAVE_EVERY_S", 0.0)
    steps = []
    train_step = fine_tuning.SpaceTrainer.train_step

    def interrupted(self, batch):
        steps.append(len(steps))
        if len(steps) == 4:
            raise KeyboardInterrupt
        return train_step(self, batch)

    monkeypatch.setattr(fine_tuning.SpaceTrainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(name="parts")
    assert (tmp_path / "parts").exists()
    assert equal(tune(name="parts"), whole)
    assert len(steps) == 4 + 3  # three were kept, the broken one is done again


def _cut(path, whole):
    path.write_bytes(path.read_bytes()[: whole // 2])


def _change(path, **values):
    torch.save({**torch.load(path, weights_only=True), **values}, path)


def _other_network(path, whole):
    network = torch.load(path, weights_only=True)["network"]
    _change(path, network={name: torch.cat([value, value]) for name, value in network.items()})


def _other_optimizer(path, whole):
    optimizer = torch.load(path, weights_only=True)["optimizer"]
    for buffers in optimizer["state"].values():
        buffers["momentum_buffer"] = torch.zeros(7)
    _change(path, optimizer=optimizer)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, whole: path.write_bytes(b"garbage"),
        lambda path, whole: path.write_bytes(b""),
        lambda path, whole: torch.save([1], path),
        lambda path, whole: _change(path, iteration=99),
        lambda path, whole: _change(path, optimizer={}),
        _cut,
        _other_network,
        _other_optimizer,
    ],
    ids=["text", "empty", "list", "iteration", "no optimizer", "cut", "other network", "other optimizer"],
)
def test_a_damaged_unfinished_fine_tuning_is_set_aside_and_begun_anew(tune, interrupted_file, caplog, spoil):
    file, expected = interrupted_file
    spoil(file, file.stat().st_size)
    content = file.read_bytes()
    assert equal(tune(name=file.name), expected)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{file} is no fine-tuning to go on from (" in line and "it was moved to" in line and "\n" not in line
    assert (file.parent / "broken" / file.name).read_bytes() == content


@pytest.fixture
def interrupted_file(tune, monkeypatch, tmp_path):
    """The file of a fine-tuning that was interrupted in its fourth iteration, and what comes out without that."""
    whole, steps = tune(name="whole"), []
    train_step = fine_tuning.SpaceTrainer.train_step

    def interrupted(self, batch):
        steps.append(batch)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return train_step(self, batch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(fine_tuning, "SAVE_EVERY_S", 0.0)
        patched.setattr(fine_tuning.SpaceTrainer, "train_step", interrupted)
        tune(name="parts")
    return tmp_path / "parts", whole
