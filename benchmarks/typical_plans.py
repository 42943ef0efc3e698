"""Plans as nnU-Net writes them for typical data sets: from spacing, patch and batch by its own rules, without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset

CONFIGURATION = "3d_fullres"
MIN_FEATURE_MAP = 4  # voxels along an axis, as nnU-Net's planners have it
BASE_FEATURES, MOST_FEATURES = 32, {2: 512, 3: 320}
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6, 6, 6)


@dataclass(frozen=True)
class TypicalPlans:
    """What is typical of a data set's plans.

    Attributes:
        name: of the kind of data.
        spacing_mm, patch_size, batch_size: as nnU-Net plans them.
        channels, labels: of images, and of segmentations with their background.
        residual: whether the network has a residual encoder.
    """

    name: str
    spacing_mm: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    channels: int = 1
    labels: int = 3
    residual: bool = False

    def dataset(self) -> PreprocessedDataset:
        """Return a data set with these plans, of which no file exists."""
        name = "Dataset999_" + "".join(c for c in self.name if c.isalnum())
        return PreprocessedDataset(
            name=name,
            plans=self._plans(name),
            configuration_name=CONFIGURATION,
            dataset_json={
                "channel_names": {str(i): f"channel{i}" for i in range(self.channels)},
                "labels": {"background": 0, **{f"label{i}": i for i in range(1, self.labels)}},
                "file_ending": ".nii.gz",
                "numTraining": 100,
            },
        )

    def _plans(self, dataset: str) -> dict[str, Any]:
        _, strides, kernels, patch, _ = get_pool_and_conv_props(
            self.spacing_mm, self.patch_size, MIN_FEATURE_MAP, 999999
        )
        resampling = {f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg")}
        configuration = {
            "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": self.batch_size,
            "patch_size": _whole(patch),
            "spacing": list(self.spacing_mm),
            "median_image_size_in_voxels": _whole(self.patch_size),
            "normalization_schemes": ["ZScoreNormalization"] * self.channels,
            "use_mask_for_norm": [False] * self.channels,
            **resampling,
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            **{f"resampling_fn_{what}_kwargs": {} for what in ("data", "seg", "probabilities")},
            "architecture": self._network([_whole(s) for s in strides], [_whole(k) for k in kernels]),
            "batch_dice": False,
        }
        return {
            "dataset_name": dataset,
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": list(self.spacing_mm),
            "original_median_shape_after_transp": _whole(self.patch_size),
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": list(range(3)),
            "transpose_backward": list(range(3)),
            "configurations": {CONFIGURATION: configuration},
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {},
        }

    def _network(self, strides: list[list[int]], kernels: list[list[int]]) -> dict[str, Any]:
        dimension, stages = len(self.patch_size), len(strides)
        kwargs: dict[str, Any] = {
            "n_stages": stages,
            "features_per_stage": [min(MOST_FEATURES[dimension], BASE_FEATURES << i) for i in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
            "kernel_sizes": kernels,
            "strides": strides,
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        if self.residual:
            kwargs |= {
                "n_blocks_per_stage": list(RESIDUAL_BLOCKS[:stages]),
                "n_conv_per_stage_decoder": [1] * (stages - 1),
            }
        else:
            kwargs |= {"n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1)}
        return {
            "network_class_name": "dynamic_network_architectures.architectures.unet."
            + ("ResidualEncoderUNet" if self.residual else "PlainConvUNet"),
            "arch_kwargs": kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }


TYPICAL = (
    TypicalPlans("Pancreas-like", (2.5, 0.8, 0.8), (40, 224, 224), 2),
    TypicalPlans("128 cubed, one channel", (1, 1, 1), (128, 128, 128), 2),
    TypicalPlans("128 cubed, four channels", (1, 1, 1), (128, 128, 128), 2, channels=4, labels=4),
    TypicalPlans("80 x 192 x 160", (1.37, 1.25, 1.25), (80, 192, 160), 2, labels=2),
    TypicalPlans("T1 brains (DeepGrey)", (1, 1, 1), (112, 160, 128), 2, labels=8),
    TypicalPlans("Prostate-like, thick slices", (3.6, 0.62, 0.62), (20, 320, 256), 2, channels=2),
    TypicalPlans("cardiac MRI, thicker slices", (6.5, 0.8, 0.8), (16, 256, 224), 4, labels=4),
    TypicalPlans("Hippocampus", (1, 1, 1), (40, 56, 40), 7),
    TypicalPlans("tiny images, three stages", (1, 1, 1), (16, 24, 16), 8),
    TypicalPlans("2d, 512 x 512", (0.8, 0.8), (512, 512), 12),
    TypicalPlans("2d, 256 x 224", (1, 1), (256, 224), 58, labels=4),
    TypicalPlans("Pancreas-like, ResEnc L", (2.5, 0.8, 0.8), (64, 256, 256), 2, residual=True),
    TypicalPlans("192 x 192 x 160, ResEnc L", (1, 1, 1), (192, 192, 160), 2, residual=True),
    TypicalPlans("128 cubed, ResEnc M", (1, 1, 1), (128, 128, 128), 2, residual=True),
    TypicalPlans("Hippocampus, ResEnc M", (1, 1, 1), (40, 56, 40), 58, residual=True),
    TypicalPlans("2d, 512 x 512, ResEnc M", (0.8, 0.8), (512, 512), 13, residual=True),
)


def _whole(values: Sequence[Any]) -> list[int]:
    return [int(value) for value in values]
