"""The paper's recipe through the real nnU-Net: augmentation, loss and scalars, and what is searched in it."""

from pathlib import Path

import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from nnunet_hypersegnas.nnunet.cost_models import search_space
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.sub_net_evaluator import FinalistFiles, SubNetEvaluator
from nnunet_hypersegnas.nnunet.super_net_loading import load_super_net
from nnunet_hypersegnas.nnunet.supernet_checkpoint import CheckpointError
from nnunet_hypersegnas.search import SearchSettings
from nnunet_hypersegnas.space import rng_for, sample
from tests.trainers.conftest import BLOCK

PAPER = {**BLOCK, "recipe": "paper", "epochs": 2, "annealing_epochs": 1, "sandwich_every": 3}
del PAPER["man"]  # the recipe has one


def transforms(trainer):
    return trainer.dataloader_train.loader.transforms._transforms.transforms


def test_patches_are_rotated_and_flipped_and_no_more(make_trainer):
    usual = make_trainer(BLOCK)
    usual.on_train_start()
    assert "Recipe" not in Path(usual.log_file).read_text()  # read now: logs of one second share a file
    trainer = make_trainer(PAPER)
    trainer.on_train_start()
    kinds = [type(transform) for transform in transforms(trainer)]
    assert kinds == [SpatialTransform, MirrorTransform, RemoveLabelTansform]
    spatial, mirror, _ = transforms(trainer)
    as_nnunet = next(t for t in transforms(usual) if isinstance(t, SpatialTransform))
    assert spatial.p_scaling == 0 and as_nnunet.p_scaling > 0
    assert (spatial.p_rotation, spatial.rotation) == (as_nnunet.p_rotation, as_nnunet.rotation)
    assert tuple(mirror.allowed_axes) == (0, 1, 2)
    assert trainer.oversample_foreground_percent == 0 and usual.oversample_foreground_percent == 0.33
    log = Path(trainer.log_file).read_text()
    assert "MAN annealed away in the first 100% of the last 4" in log and trainer.network.man is not None
    assert "Recipe 'paper', but these plans have spacing [1.2" in log and "batch_size 1, not 8" in log


def test_one_loss_at_full_resolution(make_trainer):
    trainer = make_trainer(PAPER)
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert isinstance(batch["target"], torch.Tensor) and isinstance(trainer.network(batch["data"]), torch.Tensor)
    assert trainer.network.super_net.fixed_scalar == 0.5


def test_a_training_goes_on_and_its_sub_nets_are_what_is_searched(make_trainer, tmp_path):
    whole = make_trainer(PAPER)
    whole.run_training()
    path = Path(whole.output_folder) / "checkpoint_final.pth"
    expected = torch.load(path, weights_only=False)["network_weights"]
    path.unlink()
    interrupted = make_trainer(PAPER)
    interrupted.on_epoch_end, original = lambda: (original(), 1 / 0), interrupted.on_epoch_end
    with pytest.raises(ZeroDivisionError):
        interrupted.run_training()
    continued = make_trainer(PAPER, resume=True)
    continued.run_training()
    assert all(torch.equal(v, expected[n]) for n, v in continued.network.state_dict().items())

    dataset = PreprocessedDataset.find("999", "SupernetTrainerTest", "3d_fullres")
    space, network = load_super_net(dataset, path)
    assert space == search_space(dataset) and network.super_net.fixed_scalar == 0.5
    evaluator = SubNetEvaluator(
        dataset, 0, network, None, FinalistFiles(tmp_path), SearchSettings(), torch.device("cpu")
    )
    image = torch.randn(1, 1, 16, 16, 16)
    for i in range(3):
        architecture = sample(space, rng_for(0, "test", i))
        network.take(architecture)
        searched = evaluator.inherited(architecture)
        torch.testing.assert_close(searched(image), network(image), rtol=1e-4, atol=1e-5)

    make_trainer({**PAPER, "relative_scalars": True})
    changed = PreprocessedDataset.find("999", "SupernetTrainerTest", "3d_fullres")
    with pytest.raises(CheckpointError, match="trained with relative_scalars False, the plans now say True"):
        load_super_net(changed, path)
