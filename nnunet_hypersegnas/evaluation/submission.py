"""The zip that the Medical Segmentation Decathlon takes (decathlon-10.grand-challenge.org), checked file by file.

At its root lie the folders of all ten tasks, in each the segmentations of its test images: NIfTI, integer labels, the
image's own geometry and name. Eleven test cases are not taken.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import SimpleITK as sitk

from nnunet_hypersegnas.atomic import written_atomically
from nnunet_hypersegnas.errors import FaultsError, HyperSegNASError
from nnunet_hypersegnas.evaluation.folders import cases_in, name_some
from nnunet_hypersegnas.evaluation.images import (
    Geometry,
    UnreadableImageError,
    label_faults,
    read_geometry,
    read_segmentation,
)
from nnunet_hypersegnas.evaluation.msd import TASKS, MsdTask, known_task
from nnunet_hypersegnas.evaluation.pool import in_processes

ENDING = ".nii.gz"
FIRST_CHANNEL = "_0000"
ONE_VOXEL = Geometry((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
NOTE = "ITK_FileNotes"  # NIfTI's description
PLACEHOLDER = "PLACEHOLDER of nnunet_hypersegnas: no prediction"


class SubmissionError(HyperSegNASError):
    """A submission that cannot be made, or a file that is none."""


@dataclass(frozen=True, kw_only=True)
class TaskPart:
    """One task's part of a submission.

    Attributes:
        task: which one.
        files: segmentation of each case.
        images: its test images, where they are at hand; by case.
        left_out: cases that the challenge does not take.
        placeholder: whether all of it is empty because there were no predictions.
    """

    task: MsdTask
    files: Mapping[str, Path]
    images: Mapping[str, Path] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    placeholder: bool = False


def find_test_images(data: Path, task: MsdTask) -> dict[str, Path]:
    """Return a task's test images by case, from the challenge's folder of it or else nnU-Net's; none if there is none.

    Args:
        data: holds folders such as Task04_Hippocampus or Dataset004_Hippocampus.
        task: which one.
    """
    for name in (task.folder, f"Dataset{task.number:03d}_{task.name}"):
        folder = data / name / "imagesTs"
        if folder.is_dir():
            cases = cases_in(folder, ENDING)
            if any(case.endswith(FIRST_CHANNEL) for case in cases):  # nnU-Net's: a file for each channel
                cases = [case.removesuffix(FIRST_CHANNEL) for case in cases if case.endswith(FIRST_CHANNEL)]
                return {case: folder / f"{case}{FIRST_CHANNEL}{ENDING}" for case in cases}
            return {case: folder / f"{case}{ENDING}" for case in cases}
    return {}


def part_of(task: MsdTask, predictions: Path, data: Path) -> TaskPart:
    """Return the part of a task, from a folder that nnUNetv2_predict wrote.

    Raises:
        SubmissionError: there is no such folder, or the task's test images are not in `data`.
    """
    if not predictions.is_dir():
        raise SubmissionError(f"there is no folder {predictions} with predictions of {task.folder}")
    images = find_test_images(data, task)
    if not images:
        raise SubmissionError(
            f"no test images of {task.folder} in {data}, which predictions are checked against; give the folder that "
            f"holds {task.folder} with --data"
        )
    files = {case: predictions / f"{case}{ENDING}" for case in cases_in(predictions, ENDING)}
    left_out = tuple(sorted(task.not_scored & set(files)))
    return TaskPart(
        task=task,
        files={case: path for case, path in files.items() if case not in task.not_scored},
        images=images,
        left_out=left_out,
    )


def placeholder_of(task: MsdTask, data: Path, folder: Path) -> TaskPart:
    """Write empty segmentations of a task's test images, and return them as its part.

    Where the images are not in `data`, they have the names of the challenge's test cases, and one voxel.
    """
    images = find_test_images(data, task)
    files = {}
    for case in sorted(_expected(task, images)):
        files[case] = folder / task.folder / f"{case}{ENDING}"
        _write_empty(files[case], read_geometry(images[case]) if case in images else ONE_VOXEL)
    return TaskPart(task=task, files=files, images=images, placeholder=True)


def build(path: Path, parts: Sequence[TaskPart], processes: int, on_done: Callable[[], object]) -> None:
    """Write a submission after everything in it was checked.

    Args:
        path: of the zip.
        parts: of all ten tasks.
        processes: that check files.
        on_done: called after each checked file.

    Raises:
        FaultsError: naming every fault; nothing is written.
    """
    faults = faults_of(parts, processes, on_done)
    if faults:
        raise FaultsError("these predictions make no submission, and none was written", faults)
    with written_atomically(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for part in parts:
            for case, file in sorted(part.files.items()):
                archive.write(file, f"{part.task.folder}/{case}{ENDING}")


def check(path: Path, data: Path | None, processes: int, on_done: Callable[[], object]) -> list[TaskPart]:
    """Check a submission, whoever made it.

    Args:
        path: of the zip.
        data: holds the tasks' folders; of tasks that it lacks, the names have to be the challenge's, and geometry is
            not checked.
        processes: that check files.
        on_done: called after each checked file.

    Returns:
        Its parts; their files are gone.

    Raises:
        FaultsError: naming every fault.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise SubmissionError(f"there is no {path}") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise SubmissionError(f"{path} is no zip, or it is cut off ({error})") from error
    with archive, tempfile.TemporaryDirectory() as folder:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        known, faults = _sorted_into_tasks(names)
        parts = []
        for task in TASKS:
            files = {}
            for case, name in known.get(task, {}).items():
                files[case] = Path(folder) / task.folder / f"{case}{ENDING}"
                files[case].parent.mkdir(exist_ok=True)
                try:
                    files[case].write_bytes(archive.read(name))
                except (zipfile.BadZipFile, OSError, EOFError) as error:
                    faults.append(f"{name}: the zip is damaged there ({error})")
            parts.append(TaskPart(task=task, files=files, images=find_test_images(data, task) if data else {}))
        faults += faults_of(parts, processes, on_done)
        parts = [_with_placeholder_seen(part) for part in parts]
    if faults:
        raise FaultsError(f"{path} is no submission that the challenge takes", faults)
    return parts


def faults_of(parts: Sequence[TaskPart], processes: int, on_done: Callable[[], object]) -> list[str]:
    """Name everything that is wrong with the parts of a submission."""
    faults = []
    if missing := [task.folder for task in TASKS if not any(p.task == task and p.files for p in parts)]:
        faults.append(
            f"nothing for {', '.join(missing)}: the challenge takes all ten tasks or none; --placeholders fills tasks "
            "with empty predictions"
        )
    for part in parts:
        name, refused = part.task.folder, part.task.not_scored & set(part.files)
        if refused:
            faults.append(f"{name}: the challenge does not take {name_some(refused)}")
        if part.files:
            expected = _expected(part.task, part.images)
            if lacking := expected - set(part.files):
                faults.append(f"{name}: no prediction of {name_some(lacking)}")
            if extra := set(part.files) - expected - refused:
                faults.append(f"{name}: no test image of {name_some(extra)}")
    jobs = [(part.task, case, file, part.images.get(case)) for part in parts for case, file in part.files.items()]
    for (task, case, *_), found in zip(jobs, in_processes(_faults_of_file, jobs, processes, on_done), strict=True):
        faults += [f"{task.folder}/{case}{ENDING} {fault}" for fault in found]
    return faults


def notes_on(parts: Sequence[TaskPart]) -> list[str]:
    """Say what the challenge may not take although nothing is wrong with the files."""
    notes = []
    if others := [p.task.folder for p in parts if p.images and _expected(p.task, p.images) != p.task.scored]:
        notes.append(
            f"the test images in --data are not the challenge's own for {', '.join(others)}; it will not take these "
            "predictions"
        )
    if tiny := [p.task.folder for p in parts if p.placeholder and not p.images]:
        notes.append(
            f"the placeholders for {', '.join(tiny)} have one voxel, since these test images are not in --data; the "
            "challenge may refuse them"
        )
    return notes


def _expected(task: MsdTask, images: Mapping[str, Path]) -> set[str]:
    """Return the cases that a submission has to have: those of the images, or else of the challenge."""
    return set(images) - task.not_scored if images else set(task.scored)


def _faults_of_file(job: tuple[MsdTask, str, Path, Path | None]) -> list[str]:
    task, _, file, image = job
    try:
        segmentation = read_segmentation(file)
    except UnreadableImageError as error:
        return [f"is no segmentation: {error}"]
    faults = []
    if not np.issubdtype(segmentation.labels.dtype, np.integer):
        faults.append(f"has type {segmentation.labels.dtype}, integers are needed")
    faults += [f"has {fault}" for fault in label_faults(segmentation.labels, frozenset(range(task.highest_label + 1)))]
    if image is not None:
        try:
            differences = read_geometry(image).differences(segmentation.geometry)
        except UnreadableImageError as error:
            differences = [f"an image {image} beside it of which {error}"]
        faults += [f"has {difference}" for difference in differences]
    return faults


def _sorted_into_tasks(names: Sequence[str]) -> tuple[dict[MsdTask, dict[str, str]], list[str]]:
    """Return the files of each task by case, and what lies elsewhere in the zip."""
    found: dict[MsdTask, dict[str, str]] = {}
    strangers = []
    for name in names:
        parts = PurePosixPath(name).parts
        task = next((t for t in TASKS if len(parts) == 2 and parts[0] == t.folder), None)
        if task is None or not parts[1].endswith(ENDING) or parts[1].startswith("."):
            strangers.append(name)
        else:
            found.setdefault(task, {})[parts[1].removesuffix(ENDING)] = name
    if not names:
        return found, ["it is empty"]
    if strangers:
        return found, [
            f"files that do not belong into it: {name_some(strangers)}; at its root lie the folders "
            f"{TASKS[0].folder} to {TASKS[-1].folder}, in them {ENDING} files and nothing else"
        ]
    return found, []


def _with_placeholder_seen(part: TaskPart) -> TaskPart:
    empty = bool(part.files) and all(_is_placeholder(file) for file in part.files.values())
    return TaskPart(task=part.task, files=part.files, images=part.images, placeholder=empty)


def _is_placeholder(file: Path) -> bool:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return False
    return reader.HasMetaDataKey(NOTE) and reader.GetMetaData(NOTE).startswith(PLACEHOLDER)


def _write_empty(path: Path, geometry: Geometry) -> None:
    image = sitk.Image([int(n) for n in geometry.shape], sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    image.SetMetaData(NOTE, PLACEHOLDER)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)


def parse_part(text: str) -> tuple[MsdTask, Path]:
    """Read `TASK=FOLDER`, or a folder whose name is a task's.

    Raises:
        TaskError: it names no task.
    """
    name, sign, folder = text.partition("=")
    return (known_task(name), Path(folder)) if sign else (known_task(Path(text).resolve().name), Path(text))
