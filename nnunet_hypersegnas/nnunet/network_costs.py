"""What any network that plans name costs, nnU-Net's own included: its training step followed on fake tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.cost.tracing import count_multiply_adds, trace_training_step
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.json_files import read_object
from nnunet_hypersegnas.nnunet.architecture_files import architecture_in, is_named_file, name_of
from nnunet_hypersegnas.nnunet.dataset import is_plans, preprocessed_folder, read_plans
from nnunet_hypersegnas.nnunet.nnunet_files import check_plans, read_dataset_json
from nnunet_hypersegnas.nnunet.plans import searched_plans
from nnunet_hypersegnas.nnunet.quiet_trainer import quiet_trainer
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.trusted_plans import check_trusted


class NetworkError(HyperSegNASError):
    """Something that names no network, or one that cannot be built."""


@dataclass(frozen=True, kw_only=True)
class PlannedNetwork:
    """A network that plans name.

    Attributes:
        name: for people.
        plans: nnU-Net's plans.
        dataset_json: of the data set, for channels and labels.
        configuration: whose network it is.
        trust: whether it may be built of any class that the plans name.
    """

    name: str
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    configuration: str
    trust: bool = False

    def __post_init__(self) -> None:
        if self.configuration not in self.plans["configurations"]:
            raise NetworkError(
                f"{self.name} has no configuration {self.configuration!r}; it has "
                f"{', '.join(self.plans['configurations'])}; choose one with -c"
            )


@dataclass(frozen=True, kw_only=True)
class NetworkCosts:
    """Predicted costs of training a network at its plans' patch and batch size.

    Attributes:
        name: the network's.
        network_class: what nnU-Net builds.
        patch_size, batch_size: in voxels, and patches a step.
        parameters: number of parameters.
        multiply_adds: of all convolutions in the forward pass of one patch.
        memory_bytes: the most that tensors need at any time.
        weight_bytes: of these, weights, momentum, and the gradients that are there at that moment.
        activation_bytes: what autograd keeps at that moment, the loss' share included.
    """

    name: str
    network_class: str
    patch_size: tuple[int, ...]
    batch_size: int
    parameters: int
    multiply_adds: int
    memory_bytes: int
    weight_bytes: int
    activation_bytes: int

    @property
    def overhead_bytes(self) -> int:
        """What that moment needs beside: images, targets, gradients of activations, workspaces of operations."""
        return self.memory_bytes - self.weight_bytes - self.activation_bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "network_class": self.network_class,
            "patch_size_voxels": list(self.patch_size),
            "batch_size": self.batch_size,
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "predicted_memory_bytes": self.memory_bytes,
            "predicted_weight_bytes": self.weight_bytes,
            "predicted_activation_bytes": self.activation_bytes,
            "predicted_overhead_bytes": self.overhead_bytes,
        }


def find_network(
    name: str, *, dataset: str | None, configuration: str, plans_name: str, trust_plans: bool = False
) -> PlannedNetwork:
    """Find what a user means: a plans file, plans of a data set by name, or a file with an architecture.

    Args:
        name: a path of plans, of an architecture, or of a search's record, whose winner counts; or a name of plans.
        dataset: name or id of a preprocessed data set; needed for names of plans, for architectures, and for plans
            that have no dataset.json beside them.
        configuration: of the plans.
        plans_name: the data set's plans in whose search space an architecture stands.
        trust_plans: whether a network may be built of any class that plans name.

    Raises:
        NetworkError, ArchitectureFileError, DatasetError: what is missing, or what the file holds instead.
    """
    folder = preprocessed_folder(dataset) if dataset else None
    path = Path(name)
    if folder is not None and ((folder / f"{name}.json").is_file() or not is_named_file(name)):
        return PlannedNetwork(
            name=name,
            plans=read_plans(folder, name),
            dataset_json=read_dataset_json(folder / "dataset.json"),
            configuration=configuration,
            trust=trust_plans,
        )
    if not is_named_file(name):
        raise NetworkError(f"{name} is no file; for plans of a data set by their name, give the data set with -d")
    content = read_object(path)
    beside = path.with_name("dataset.json")
    if is_plans(content):
        check_plans(content, path)
        if folder is None and not beside.exists():
            raise NetworkError(f"no dataset.json beside {path}; name a data set with the same channels with -d")
        described = folder / "dataset.json" if folder else beside
        return PlannedNetwork(
            name=content["plans_name"],
            plans=content,
            dataset_json=read_dataset_json(described),
            configuration=configuration,
            trust=trust_plans,
        )
    if folder is None:
        raise NetworkError(
            f"{path} holds no plans; for an architecture give its data set with -d, and its plans with -p"
        )
    architecture = architecture_in(content, path)
    space_plans = PlannedNetwork(
        name=plans_name,
        plans=read_plans(folder, plans_name),
        dataset_json=read_dataset_json(folder / "dataset.json"),
        configuration=configuration,
    )
    described = PlansManager(dict(space_plans.plans)).get_configuration(configuration).configuration
    space = SuperNetSettings.from_configuration(described).space(described)
    architecture.check_fits(space)
    plans = searched_plans(space_plans.plans, configuration, name_of(path), space, architecture, {})
    return PlannedNetwork(
        name=name_of(path), plans=plans, dataset_json=space_plans.dataset_json, configuration=configuration
    )


def network_costs(network: PlannedNetwork, *, cuda: bool) -> NetworkCosts:
    """Follow one training step of a network with nnU-Net's own loss.

    Args:
        network: what is trained.
        cuda: as on a GPU, in fp16 autocast; else as on a CPU, in fp32.

    Raises:
        NetworkError: the network cannot be built or run at its plans' patch.
        UntrustedPlansError: it may not be built, since the plans name a class from elsewhere.
    """
    check_trusted(network.plans, network.configuration, network.trust)
    manager = PlansManager(dict(network.plans))
    configuration = manager.get_configuration(network.configuration)
    channels = determine_num_input_channels(manager, configuration, dict(network.dataset_json))
    labels = manager.get_label_manager(dict(network.dataset_json))

    def build() -> nn.Module:
        return get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            channels,
            labels.num_segmentation_heads,
            allow_init=False,
            deep_supervision=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(
            nnUNetTrainer,
            network.plans,
            network.configuration,
            0,
            network.dataset_json,
            torch.device("cpu"),
            Path(folder),
        )
    trainer.is_ddp = False  # its loss would wait for other ranks, where this is asked for in one of several
    patch, batch_size = tuple(configuration.patch_size), configuration.batch_size
    strides = np.prod(configuration.pool_op_kernel_sizes, axis=0)
    if np.any(np.array(patch) % strides):
        raise NetworkError(
            f"{network.name}: patch size {list(patch)} is not divisible by {strides.tolist()}, the network's strides; "
            "make it so in the plans"
        )
    target_channels = len(labels.foreground_regions) + labels.has_ignore_label if labels.has_regions else 1
    try:
        step = trace_training_step(
            build,
            trainer._build_loss(),
            (batch_size, channels, *patch),
            [
                (
                    batch_size,
                    target_channels,
                    *(round(size * factor) for size, factor in zip(patch, scale, strict=True)),
                )
                for scale in trainer._get_deep_supervision_scales()
            ],
            cuda_autocast=cuda,
            target_dtype=torch.bool if labels.has_regions else torch.int16,
        )
        multiply_adds = count_multiply_adds(build, (1, channels, *patch))
    except HyperSegNASError:
        raise
    except (RuntimeError, ValueError, TypeError, ImportError, AttributeError, AssertionError) as error:
        raise NetworkError(
            f"the network of {network.name} ({configuration.network_arch_class_name}) cannot be trained at patch "
            f"{list(patch)}: {error}"
        ) from error
    return NetworkCosts(
        name=network.name,
        network_class=configuration.network_arch_class_name.rpartition(".")[2],
        patch_size=patch,
        batch_size=batch_size,
        parameters=step.parameters,
        multiply_adds=multiply_adds,
        memory_bytes=step.peak_bytes,
        weight_bytes=step.peak_weight_bytes,
        activation_bytes=step.peak_saved_bytes,
    )


def describe(costs: Sequence[NetworkCosts]) -> list[dict[str, str]]:
    """Return one row for each network, as text."""

    def text(quantity: Quantity, value: int) -> str:
        return quantity.format(value)

    return [
        {
            "network": cost.name,
            "class": cost.network_class,
            "patch": "x".join(map(str, cost.patch_size)),
            "batch": str(cost.batch_size),
            "parameters": text(Quantity.PARAMETERS, cost.parameters),
            "multiply-adds": text(Quantity.MULTIPLY_ADDS, cost.multiply_adds),
            "predicted memory": text(Quantity.MEMORY, cost.memory_bytes),
            "= weights": text(Quantity.MEMORY, cost.weight_bytes),
            "+ activations": text(Quantity.MEMORY, cost.activation_bytes),
            "+ overhead": text(Quantity.MEMORY, cost.overhead_bytes),
        }
        for cost in costs
    ]
