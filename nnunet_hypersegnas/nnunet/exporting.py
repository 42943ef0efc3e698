"""A trained network for programs that have no nnU-Net: as ONNX and as torch.export program, checked against nnU-Net."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.atomic import temporary_folder, write_json
from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated
from nnunet_hypersegnas.nnunet.cascade import network_input
from nnunet_hypersegnas.nnunet.case_files import is_preprocessed
from nnunet_hypersegnas.nnunet.checkpoint_files import load_checkpoint
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.nnunet_files import read_plans_file
from nnunet_hypersegnas.nnunet.trusted_plans import check_trusted

INPUT, OUTPUT = "image", "logits"
MOST_DIFFERENCE = 0.01  # of a logit; fp32 runtimes differ by a thousandth of that
STEP = 0.5  # of a patch, from one to the next, as nnUNetv2_predict has it


class ExportError(HyperSegNASError):
    """A network that cannot be exported, or a format that cannot be written here."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How an exported network differs from nnU-Net's own on a case, both run by nnU-Net's predictor on the CPU.

    Attributes:
        case: which one.
        patches: on how many patches.
        max_abs_difference: of the logits of a patch, the largest one.
        voxels: of the case.
        voxels_with_another_label: after blending, of all of them.
    """

    case: str
    patches: int
    max_abs_difference: float
    voxels: int
    voxels_with_another_label: int


@dataclass(frozen=True)
class TrainedNetwork:
    """A fold of a finished nnU-Net training, on the CPU, with nnU-Net's predictor around it."""

    dataset: PreprocessedDataset
    trainer: str
    fold: int
    predictor: nnUNetPredictor

    @classmethod
    def load(cls, dataset: PreprocessedDataset, trainer: str, fold: int, checkpoint: str) -> TrainedNetwork:
        """Load what `nnUNetv2_predict` would.

        Raises:
            ExportError: there is no such training, its trainer is not found, or it is a super-net.
            CheckpointError, UntrustedPlansError: loading it could run code that came with it.
        """
        folder = dataset.trained_folder(trainer, fold)
        if not (folder / checkpoint).exists():
            raise ExportError(
                f"no {folder / checkpoint}; train it first with `nnUNetv2_train {dataset.name} "
                f"{dataset.configuration_name} {fold} -tr {trainer} -p {dataset.plans['plans_name']}`"
            )
        _check_trusted(dataset, folder / checkpoint)
        with redirect_stdout(io.StringIO()):
            predictor = nnUNetPredictor(
                tile_step_size=STEP,
                use_mirroring=False,
                perform_everything_on_device=False,
                device=torch.device("cpu"),
                allow_tqdm=False,
            )
            try:
                predictor.initialize_from_trained_model_folder(str(folder.parent), (fold,), checkpoint)
            except (RuntimeError, AttributeError, TypeError) as error:
                raise ExportError(f"nnU-Net cannot load {folder / checkpoint}: {error}") from error
        if isinstance(predictor.network, OneShotNetwork):
            raise ExportError(f"{trainer} trains a super-net; search it and train what is found, then export that")
        predictor.network.eval()
        return cls(dataset, trainer, fold, predictor)

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.dataset.plans['plans_name']}_{self.dataset.configuration_name}_fold{self.fold}"

    @property
    def network(self) -> nn.Module:
        return self.predictor.network

    @property
    def patch_shape(self) -> tuple[int, ...]:
        """Channels and spatial axes of a patch."""
        return (self.dataset.input_channels, *self.dataset.configuration.patch_size)

    def compare(self, exported: Callable[[Tensor], Tensor], case: str) -> Parity:
        """Predict a preprocessed case with nnU-Net, and again with an exported network in the place of its own.

        Raises:
            ExportError: there is no such case.
        """
        check_case(self.dataset, case)
        with self.dataset.reading(case):
            data, _, prediction, _ = self.dataset.cases().load_case(case)
            seen = network_input(
                np.asarray(data[:]),
                None if prediction is None else np.asarray(prediction[:]),
                self.dataset.label_manager,
            )
        image = torch.from_numpy(seen)
        labels = [self._predict(image, self.network)]
        both = _SideBySide(self.network, exported)
        labels.append(self._predict(image, both))
        return Parity(
            case=case,
            patches=both.patches,
            max_abs_difference=both.max_abs_difference,
            voxels=labels[0].numel(),
            voxels_with_another_label=int((labels[0] != labels[1]).sum()),
        )

    def _predict(self, image: Tensor, network: nn.Module) -> Tensor:
        own = self.predictor.network
        try:
            self.predictor.network = network
            logits = self.predictor.predict_sliding_window_return_logits(image)
        finally:
            self.predictor.network = own
        return torch.as_tensor(self.predictor.label_manager.convert_logits_to_segmentation(logits))


def _check_trusted(dataset: PreprocessedDataset, checkpoint: Path) -> None:
    """Look at what nnU-Net would run: whatever a checkpoint names, and the network of the plans beside its fold."""
    init_args = load_checkpoint(checkpoint, mmap=True).get("init_args")
    configuration = init_args.get("configuration") if isinstance(init_args, dict) else None
    if configuration != dataset.configuration_name:
        raise ExportError(
            f"{checkpoint} was trained with configuration {abbreviated(configuration)}, its folder says "
            f"{dataset.configuration_name}; restore it from a copy, or train anew"
        )
    check_trusted(read_plans_file(checkpoint.parents[1] / "plans.json"), configuration, dataset.trust_plans)


class _SideBySide(nn.Module):
    """Gives what an exported network gives, and notes how far that is from what the original gives."""

    def __init__(self, original: nn.Module, exported: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._functions = original, exported  # no sub-modules: an exported program has no eval()
        self.patches, self.max_abs_difference = 0, 0.0

    def forward(self, image: Tensor) -> Tensor:
        expected, found = (function(image) for function in self._functions)
        self.patches += len(image)
        self.max_abs_difference = max(self.max_abs_difference, float((expected - found).abs().max()))
        return found


# -- formats: each writes a file, and gives back a function that runs what is in it ----------------------------------


def _write_program(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Tensor]:
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it, and says so less clearly)
    except ImportError as error:
        raise ExportError(
            "ONNX needs more packages: pip install 'nnunet_hypersegnas[onnx]'; or choose --formats program"
        ) from error
    converted = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    converted.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])


FORMATS: Mapping[str, tuple[str, Callable[[torch.export.ExportedProgram, Path], Callable[[Tensor], Tensor]]]] = {
    "onnx": (".onnx", _write_onnx),
    "program": (".pt2", _write_program),
}


def export(trained: TrainedNetwork, folder: Path, formats: Sequence[str], case: str) -> tuple[Path, dict[str, Parity]]:
    """Write a network in each format, and a JSON file that says how to use it.

    Args:
        trained: the network.
        folder: for the files; made if need be.
        formats: of `FORMATS`.
        case: preprocessed case that each exported file is checked on.

    Returns:
        Path of the JSON file, and how each format differs from nnU-Net.

    Raises:
        ExportError: a file is there already, the case is not, or a format cannot be written or gives something else.
    """
    paths = {name: folder / f"{trained.name}{FORMATS[name][0]}" for name in formats}
    description = folder / f"{trained.name}.json"
    if taken := [str(path) for path in (*paths.values(), description) if path.exists()]:
        raise ExportError(f"{', '.join(taken)} exist already; choose another folder with -o, or remove them")
    check_case(trained.dataset, case)
    content = describe(trained)
    with temporary_folder(folder / trained.name) as unfinished:  # all files, or none
        found = _write_formats(trained, {name: unfinished / path.name for name, path in paths.items()}, case)
        files = {name: _about(unfinished / path.name, found[name]) for name, path in paths.items()}
        write_json(unfinished / description.name, {**content, "files": files})
        for path in (*paths.values(), description):
            (unfinished / path.name).rename(path)
    return description, found


def _write_formats(trained: TrainedNetwork, paths: Mapping[str, Path], case: str) -> dict[str, Parity]:
    example = torch.zeros(2, *trained.patch_shape)
    with _quietly():
        program = torch.export.export(trained.network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        return {name: _checked(trained, FORMATS[name][1](program, path), path, case) for name, path in paths.items()}


def _about(path: Path, parity: Parity) -> dict[str, Any]:
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "max_abs_difference_of_logits": parity.max_abs_difference,
        "voxels_with_another_label": parity.voxels_with_another_label,
        "voxels": parity.voxels,
        "checked_on_case": parity.case,
    }


def check_case(dataset: PreprocessedDataset, case: str) -> None:
    """Raise ExportError unless nnU-Net can load a preprocessed case."""
    if not is_preprocessed(dataset, case):
        raise ExportError(f"no preprocessed case {case!r} in {dataset.data_folder}; name another with --case")


def _checked(trained: TrainedNetwork, exported: Callable[[Tensor], Tensor], path: Path, case: str) -> Parity:
    parity = trained.compare(exported, case)
    if not parity.max_abs_difference <= MOST_DIFFERENCE:
        raise ExportError(
            f"{path.name} would give other logits than nnU-Net on {case}, by up to {parity.max_abs_difference:.3g}, so "
            "nothing was written; please report this network and the versions of torch and onnxruntime"
        )
    return parity


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch's own progress and deprecations, which a user can do nothing about, off the screen."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)


def describe(trained: TrainedNetwork) -> dict[str, Any]:
    """Return what a program needs to know to feed the network and to read what it gives."""
    dataset, configuration = trained.dataset, trained.dataset.configuration
    plans, manager = dataset.plans, dataset.label_manager
    channels = dataset.channel_names()
    schemes, masks = configuration.normalization_schemes, configuration.use_mask_for_norm
    intensities = dataset.plans_manager.foreground_intensity_properties_per_channel
    return {
        "dataset": dataset.name,
        "configuration": dataset.configuration_name,
        "plans": plans["plans_name"],
        "trainer": trained.trainer,
        "fold": trained.fold,
        "network": type(trained.network).__name__,
        "versions": {name: version(name) for name in ("nnunet_hypersegnas", "nnunetv2", "torch")},
        "input": {"name": INPUT, "shape": ["batch", *trained.patch_shape], "dtype": "float32"},
        "output": {
            "name": OUTPUT,
            "shape": ["batch", manager.num_segmentation_heads, *configuration.patch_size],
            "dtype": "float32",
            "then": "sigmoid of each channel, a region each" if manager.has_regions else "softmax over the channels",
        },
        "axes_of_the_image_file": list(plans["transpose_forward"]),
        "spacing_mm": list(configuration.spacing),
        "patch_size": list(configuration.patch_size),
        "channels": [
            {
                "name": name,
                "normalization": scheme,
                "inside_nonzero_only": mask,
                "intensities_of_the_foreground": intensities.get(str(i)),
            }
            for i, (name, scheme, mask) in enumerate(zip(channels, schemes, masks, strict=True))
        ],
        "then_channels_of_the_first_stages_labels": manager.foreground_labels if dataset.first_stage else [],
        "labels": dataset.dataset_json["labels"],
        "regions_class_order": dataset.dataset_json.get("regions_class_order"),
        "sliding_window": {
            "step_of_a_patch": STEP,
            "blending": "Gaussian, standard deviation an eighth of the patch",
            "mirroring_axes": list(trained.predictor.allowed_mirroring_axes or ()),
        },
    }
