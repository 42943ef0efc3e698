"""Loading a trained super-net for the search, with every reason not to."""

from __future__ import annotations

from pathlib import Path

from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.supernet_checkpoint import (
    CheckpointError,
    SuperNetRecord,
    data_changes,
    load_checkpoint_file,
)
from nnunet_hypersegnas.space import SearchSpace


def check_trained(dataset: PreprocessedDataset, path: Path) -> None:
    """Raise CheckpointError where there is no final checkpoint."""
    if not path.exists():
        raise CheckpointError(
            f"no super-net at {path}; train it to its end with `nnUNetv2_train {dataset.name} "
            f"{dataset.configuration_name} FOLD -tr HyperSegNASSupernetTrainer -p {dataset.plans['plans_name']}`"
        )


def load_super_net(dataset: PreprocessedDataset, path: Path) -> tuple[SearchSpace, OneShotNetwork]:
    """Load a trained super-net, on the CPU.

    Raises:
        CheckpointError: the file is missing, no super-net's, not annealed to the end, or made for another search space
            or other labels.
    """
    check_trained(dataset, path)
    checkpoint = load_checkpoint_file(path)
    record = SuperNetRecord.from_checkpoint(checkpoint, path)
    if record.annealing_lambda < 1:
        raise CheckpointError(
            f"MAN is not annealed away in {path} (lambda {record.annealing_lambda:.3f}, iteration {record.iteration}); "
            "finish the training with --c: weights that still lean on MAN do not rank sub-nets"
        )
    configuration = dataset.configuration.configuration
    if SuperNetSettings.from_configuration(configuration).space(configuration) != record.space:
        raise CheckpointError(
            f"{path} was trained with search space {record.space.digest} ({record.space.to_json()}), but plans "
            f"{dataset.plans['plans_name']} now give another one; restore the plans or train a super-net anew"
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
    )
    network.load_state_dict(checkpoint["network_weights"])
    network.eval()
    return record.space, network
