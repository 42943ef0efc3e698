"""The cost model of a data set's configuration."""

from __future__ import annotations

from nnunet_hypersegnas.cost import CostModel, TrainingSetup
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.space import SearchSpace


def search_space(dataset: PreprocessedDataset) -> SearchSpace:
    """Return the search space that the configuration gives.

    Raises:
        SettingsError, SearchSpaceError: naming what is wrong in the plans.
    """
    configuration = dataset.configuration.configuration
    return SuperNetSettings.from_configuration(configuration).space(configuration)


def training_setup(dataset: PreprocessedDataset, device_type: str) -> TrainingSetup:
    """Return what the training memory of a sub-net depends on beside its architecture."""
    return TrainingSetup(
        patch_size=tuple(dataset.configuration.patch_size),
        batch_size=dataset.configuration.batch_size,
        input_channels=dataset.input_channels,
        num_classes=dataset.label_manager.num_segmentation_heads,
        autocast=device_type == "cuda",  # as nnU-Net's trainer does it
    )


def cost_model(dataset: PreprocessedDataset, device_type: str, space: SearchSpace | None = None) -> CostModel:
    """Return the model of a space's networks trained on a type of device; None: of the space that the plans give.

    Raises:
        SettingsError, SearchSpaceError: as `search_space`.
        SetupError: the patch does not fit the search space.
    """
    return CostModel(space or search_space(dataset), training_setup(dataset, device_type))
