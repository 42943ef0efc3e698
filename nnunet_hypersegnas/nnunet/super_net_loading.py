"""Loading a trained super-net, with every reason not to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.schedule import Schedule
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.supernet_checkpoint import (
    TRAINING_SECONDS,
    CheckpointError,
    SuperNetRecord,
    data_changes,
    load_training,
)
from nnunet_hypersegnas.nnunet.variants import KEEP_MAN, VANILLA
from nnunet_hypersegnas.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class TrainedSuperNet:
    """A super-net as its training left it.

    Attributes:
        record: what its checkpoint says of it.
        network: super-net, and MAN where it was asked for or has a say in predictions, on the CPU.
        training_seconds: of the training iterations of each epoch; empty where the version that trained it did not say.
    """

    record: SuperNetRecord
    network: OneShotNetwork
    training_seconds: tuple[float, ...]


def check_trained(dataset: PreprocessedDataset, path: Path) -> None:
    """Raise CheckpointError where there is no final checkpoint."""
    if not path.exists():
        trainer = path.parent.parent.name.partition("__")[0]  # of nnU-Net's TRAINER__PLANS__CONFIGURATION/fold_N
        raise CheckpointError(
            f"no super-net at {path}; train it to its end with `nnUNetv2_train {dataset.name} "
            f"{dataset.configuration_name} FOLD -tr {trainer} -p {dataset.plans['plans_name']}`"
        )


def check_space(dataset: PreprocessedDataset, record: SuperNetRecord, path: Path) -> SearchSpace:
    """Return the search space of a super-net: where the plans leave it open, the one that it was trained with.

    Raises:
        CheckpointError: the plans name another one.
    """
    configuration = dataset.configuration.configuration
    settings = SuperNetSettings.from_configuration(configuration)
    if not settings.leaves_open(record.space) and settings.space(configuration) != record.space:
        raise CheckpointError(
            f"{path} was trained with search space {record.space.digest} ({record.space.to_json()}), but plans "
            f"{dataset.plans['plans_name']} now give another one; restore the plans or train a super-net anew"
        )
    return record.space


def load_super_net(dataset: PreprocessedDataset, path: Path) -> tuple[SearchSpace, OneShotNetwork]:
    """Load a trained super-net for the search, on the CPU.

    Raises:
        CheckpointError: the file is missing, no super-net's, not trained to the end, made for another search space
            or other labels, or MAN is not annealed away in it and looks at images, so that it cannot be taken into a
            searched network's weights.
    """
    trained = load_trained(dataset, path)
    settings = trained.record.settings
    if trained.record.annealing_lambda < 1 and not settings.keeps_constants:
        raise CheckpointError(
            f"{path} was trained with annealing {settings.annealing!r} and man {settings.man!r}, so its weights lean "
            f"on MAN and do not rank sub-nets; search a super-net of {VANILLA.trainer}"
        )
    return trained.record.space, trained.network


def load_trained(dataset: PreprocessedDataset, path: Path) -> TrainedSuperNet:
    """Load a trained super-net, whatever became of its MAN.

    Raises:
        CheckpointError: the file is missing, no super-net's, not trained to the end, or made for another search space
            or other labels.
    """
    check_trained(dataset, path)
    checkpoint = load_training(path)
    record = SuperNetRecord.from_checkpoint(checkpoint, path)
    if record.annealing_lambda < 1 and record.settings.annealing == "linear":
        raise CheckpointError(
            f"MAN is not annealed away in {path} (lambda {record.annealing_lambda:.3f}, iteration {record.iteration}); "
            "finish the training with --c: weights that still lean on MAN do not rank sub-nets"
        )
    if record.iteration < (whole := Schedule.from_settings(record.settings).iterations):
        raise CheckpointError(
            f"{path} is not trained to the end (iteration {record.iteration} of {whole}); finish the training with --c"
        )
    return _load(
        dataset, path, checkpoint, record, man=record.settings.man if record.settings.final_lambda < 1 else "none"
    )


def load_with_man(dataset: PreprocessedDataset, path: Path) -> TrainedSuperNet:
    """Load a super-net with its MAN as the checkpoint has it, annealed away or not, at any point of the training.

    Raises:
        CheckpointError: the file is missing, no super-net's, made for another search space or other labels, or the
            super-net has no MAN, or one that is not told the image.
    """
    checkpoint = load_training(path)
    record = SuperNetRecord.from_checkpoint(checkpoint, path)
    if not record.settings.has_man:
        raise CheckpointError(
            f"{path} is a super-net without MAN, so there are no scalars to look at; name another trainer with -tr, "
            f"such as {KEEP_MAN.trainer}"
        )
    if "image" not in record.settings.man:
        raise CheckpointError(
            f"the MAN of {path} is told the architecture alone, so it has one set of scalars for all images and there "
            "is no map to draw; the training's log has them by layer"
        )
    return _load(dataset, path, checkpoint, record, man=record.settings.man)


def _load(
    dataset: PreprocessedDataset, path: Path, checkpoint: Mapping[str, Any], record: SuperNetRecord, *, man: str
) -> TrainedSuperNet:
    configuration = dataset.configuration.configuration
    settings = SuperNetSettings.from_configuration(configuration)
    check_space(dataset, record, path)
    if settings.relative_scalars != record.settings.relative_scalars:
        raise CheckpointError(
            f"{path} was trained with relative_scalars {record.settings.relative_scalars}, the plans now say "
            f"{settings.relative_scalars}; restore the hypersegnas block of the plans"
        )
    if changes := data_changes(checkpoint["init_args"], configuration, dataset.dataset_json):
        raise CheckpointError(
            f"{path} was trained with other data: {'; '.join(changes)}; restore plans and dataset.json, or train a "
            "super-net anew"
        )
    network = OneShotNetwork(
        record.space,
        dataset.input_channels,
        dataset.label_manager.num_segmentation_heads,
        dataset.configuration.patch_size,
        man=man,
        scalar_position=record.settings.scalar_position,
        fixed_scalar=record.settings.fixed_scalar,
    )
    weights = checkpoint["network_weights"]
    if network.man is None:
        weights = {name: weight for name, weight in weights.items() if not name.startswith("man.")}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # torch lists every weight
        raise record.misfit(path) from error
    network.eval()
    return TrainedSuperNet(
        record=record,
        network=network,
        training_seconds=tuple(checkpoint.get("logging", {}).get(TRAINING_SECONDS, ())),
    )
