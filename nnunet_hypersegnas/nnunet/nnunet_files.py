"""What nnU-Net's JSON files have to hold: plans, dataset.json and splits_final.json, checked where they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from nnunetv2.utilities.label_handling.label_handling import get_labelmanager_class_from_plans
from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import Required, TypedDict  # pydantic needs these before Python 3.12

from nnunet_hypersegnas.json_files import JsonFileError, check, read_checked

PLANS, DATASET_JSON, SPLITS = "an nnU-Net plans file", "nnU-Net's dataset.json", "nnU-Net's split into folds"
MOST = 100_000  # voxels along an axis, channels or patches in a batch; beyond it arithmetic overflows or never ends


def _folder_name(name: str) -> str:
    """Plans name folders, and must not lead out of nnU-Net's."""
    if name in ("", ".", "..") or re.search(r"[/\\\x00]", name):
        raise ValueError("the name of one folder, without / or \\")
    return name


FolderName = Annotated[str, AfterValidator(_folder_name)]
Count = Annotated[int, Field(gt=0, le=MOST)]
Axis = Annotated[int, Field(ge=0, le=2)]
Millimetres = Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)]
Sizes = Annotated[list[Count], Field(min_length=2, max_length=3)]
ANY_OTHER_KEYS = ConfigDict(extra="allow")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


def _by_stage(value: Any) -> Any:
    """Sizes of each stage; nnU-Net takes one number for all axes, or for all stages."""
    rows = value if isinstance(value, list) else [value]
    counts = [count for row in rows for count in (row if isinstance(row, list) else [row])]
    if [] in (rows, *rows) or not all(map(_is_count, counts)):
        raise ValueError("a list with positive whole numbers for each stage")
    return value


def _label(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, int) and not isinstance(one, bool) for one in values):
        raise ValueError("a whole number, or a list of those that make a region")
    return value


def _label_manager(name: str) -> str:
    if get_labelmanager_class_from_plans({"label_manager": name}) is None:
        raise ValueError("a class that nnU-Net finds, such as LabelManager")
    return name


ByStage = Annotated[Any, AfterValidator(_by_stage)]
Label = Annotated[Any, AfterValidator(_label)]


class _NetworkKwargs(TypedDict, total=False):
    __pydantic_config__ = ANY_OTHER_KEYS  # type: ignore[misc]
    n_stages: Annotated[int, Field(gt=0, le=64)]
    features_per_stage: ByStage
    strides: ByStage
    kernel_sizes: ByStage


class _Network(TypedDict, total=False):
    __pydantic_config__ = ANY_OTHER_KEYS  # type: ignore[misc]
    network_class_name: Required[str]
    arch_kwargs: Required[_NetworkKwargs]
    _kw_requires_import: Required[list[str]]


class _Configuration(TypedDict, total=False):
    __pydantic_config__ = ANY_OTHER_KEYS  # type: ignore[misc]
    inherits_from: str
    data_identifier: FolderName
    preprocessor_name: str
    batch_size: Count
    patch_size: Sizes
    median_image_size_in_voxels: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    spacing: Annotated[list[Millimetres], Field(min_length=2, max_length=3)]
    normalization_schemes: list[str]
    previous_stage: str | None
    next_stage: Any
    architecture: _Network


class _WholeConfiguration(TypedDict):
    """What a configuration needs once it has all that it inherits."""

    data_identifier: str
    batch_size: Count
    patch_size: Sizes
    spacing: Annotated[list[Millimetres], Field(min_length=2, max_length=3)]


def _with_known_parents(configurations: dict[str, Any]) -> dict[str, Any]:
    for name in configurations:
        ancestry(configurations, name)
    return configurations


class _Plans(TypedDict, total=False):
    __pydantic_config__ = ANY_OTHER_KEYS  # type: ignore[misc]
    dataset_name: Required[FolderName]
    plans_name: Required[FolderName]
    image_reader_writer: str
    label_manager: Annotated[str, AfterValidator(_label_manager)]
    transpose_forward: Annotated[list[Axis], Field(min_length=3, max_length=3)]
    transpose_backward: Annotated[list[Axis], Field(min_length=3, max_length=3)]
    foreground_intensity_properties_per_channel: dict[str, dict[str, float]]
    configurations: Required[Annotated[dict[str, _Configuration], AfterValidator(_with_known_parents)]]


class _WholePlans(TypedDict):
    """What nnU-Net needs of plans, beside a configuration, to load a case."""

    transpose_forward: list[int]
    transpose_backward: list[int]


def _with_channels(content: Any) -> Any:
    if not content.get("channel_names") and not content.get("modality"):
        raise ValueError("channel_names are missing, such as {'0': 'CT'}")
    return content


class _DatasetJson(TypedDict, total=False):
    __pydantic_config__ = ANY_OTHER_KEYS  # type: ignore[misc]
    channel_names: dict[str, str]
    modality: dict[str, str]
    labels: Required[dict[str, Label]]
    regions_class_order: list[int] | None
    file_ending: Required[str]
    overwrite_image_reader_writer: str


class _Split(TypedDict):
    train: list[str]
    val: list[str]


DatasetJson = Annotated[_DatasetJson, AfterValidator(_with_channels)]
Splits = Annotated[list[_Split], Field(min_length=1)]


def ancestry(configurations: Mapping[str, Any], name: str) -> list[str]:
    """Return a configuration's name, that of the one it inherits from, and so on.

    Raises:
        ValueError: one of them does not exist, or inherits from itself.
    """
    line = [name]
    while (parent := configurations[line[-1]].get("inherits_from")) is not None:
        if parent not in configurations:
            raise ValueError(f"{line[-1]} inherits from {parent!r}, which does not exist")
        if parent in line:
            raise ValueError(f"{' -> '.join([*line, parent])}: a configuration cannot inherit from itself")
        line.append(parent)
    return line


def read_plans_file(path: Path) -> dict[str, Any]:
    """Read nnU-Net's plans.

    Raises:
        JsonFileError: naming the key that is missing or wrong.
    """
    found: dict[str, Any] = read_checked(path, _Plans, PLANS, "use plans that nnU-Net wrote")
    return found


def check_plans(plans: object, path: Path) -> None:
    """Hold plans that were read already against what nnU-Net's plans hold.

    Raises:
        JsonFileError: naming the key that is missing or wrong.
    """
    check(plans, _Plans, f"{path} is not {PLANS}", "use plans that nnU-Net wrote")


def check_configuration(plans: Mapping[str, Any], name: str) -> None:
    """Check that a configuration of plans has all that a training needs, wherever it inherits it from.

    Raises:
        JsonFileError: naming what is missing.
    """
    whole: dict[str, Any] = {}
    for ancestor in reversed(ancestry(plans["configurations"], name)):
        whole |= plans["configurations"][ancestor]
    complaint = f"configuration {name} of plans {plans['plans_name']} is not complete"
    check(whole, _WholeConfiguration, complaint, "use plans that nnU-Net wrote")
    check(plans, _WholePlans, f"plans {plans['plans_name']} are not complete", "use plans that nnU-Net wrote")
    if len(whole["patch_size"]) != len(whole["spacing"]):
        raise JsonFileError(
            f"{complaint}: patch_size has {len(whole['patch_size'])} axes and spacing {len(whole['spacing'])}; use "
            "plans that nnU-Net wrote"
        )


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Read nnU-Net's description of a data set.

    Raises:
        JsonFileError: naming the key that is missing or wrong.
    """
    found: dict[str, Any] = read_checked(path, DatasetJson, DATASET_JSON, "restore it from the raw data set")
    return found


def read_splits(path: Path) -> list[dict[str, list[str]]]:
    """Read nnU-Net's folds: the cases that each trains and validates on.

    Raises:
        JsonFileError: naming what is missing or wrong.
    """
    advice = "restore it, or delete it and let nnU-Net make a new one"
    found: list[dict[str, list[str]]] = read_checked(path, Splits, SPLITS, advice)
    return found
