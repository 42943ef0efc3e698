"""The zip that the Medical Segmentation Decathlon takes (decathlon-10.grand-challenge.org), checked file by file.

At its root lie the folders of all ten tasks, in each the segmentations of its test images: NIfTI, integer labels, the
image's own geometry and name. Eleven test cases are not taken.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np

from nnunet_hypersegnas.atomic import written_atomically
from nnunet_hypersegnas.errors import FaultsError, HyperSegNASError
from nnunet_hypersegnas.evaluation.folders import cases_in, name_some
from nnunet_hypersegnas.evaluation.images import MOST_LABELS, label_faults
from nnunet_hypersegnas.evaluation.msd import TASKS, MsdTask, known_task
from nnunet_hypersegnas.evaluation.nifti import read_header, read_values
from nnunet_hypersegnas.evaluation.pool import in_processes
from nnunet_hypersegnas.evaluation.unreadable import UnreadableImageError, by
from nnunet_hypersegnas.evaluation.zips import Limits, MemberError, extract, opened_zip

ENDING = ".nii.gz"
FIRST_CHANNEL = "_0000"
PLACEHOLDER = "PLACEHOLDER of nnunet_hypersegnas: no prediction"  # NIfTI's description
# What a submission can hold: ten tasks have fewer than 900 files, which come to some hundred MB, and the largest image
# has fewer than 2**28 voxels. A label map is no larger than its image at eight bytes for each voxel, and a header.
LIMITS = Limits(members=2000, member_bytes=1 << 28, all_bytes=1 << 32)
MOST_VOXELS = 1 << 29
MOST_VOXEL_BYTES, MOST_HEADER_BYTES = 8, 1 << 16


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
        damaged: cases that are there, but that nothing could be read of.
    """

    task: MsdTask
    files: Mapping[str, Path]
    images: Mapping[str, Path] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    placeholder: bool = False
    damaged: frozenset[str] = frozenset()


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

    Raises:
        SubmissionError: a test image cannot be read.
    """
    images = find_test_images(data, task)
    files = {}
    for case in sorted(_expected(task, images)):
        files[case] = folder / task.folder / f"{case}{ENDING}"
        _write_empty(files[case], images.get(case))
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
    with written_atomically(path) as temporary, _new_zip(temporary) as archive:
        for part in parts:
            for case, file in sorted(part.files.items()):
                archive.write(file, f"{part.task.folder}/{case}{ENDING}")


def _new_zip(path: Path) -> zipfile.ZipFile:
    # A zip knows no time before 1980, which files of reproducible builds and of some file systems have.
    return zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, strict_timestamps=False)


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
        ZipError: it is no zip, or a far larger one than a submission can be.
    """
    with opened_zip(path, LIMITS) as archive, tempfile.TemporaryDirectory() as folder:
        members, faults = _sorted_into_tasks(archive.infolist())
        parts = []
        for task in TASKS:
            images = find_test_images(data, task) if data else {}
            part, damage = _extracted(archive, task, members.get(task, {}), images, Path(folder))
            parts.append(part)
            faults += damage
        faults += faults_of(parts, processes, on_done)
        parts = [replace(part, placeholder=_is_placeholder(part)) for part in parts]
    if faults:
        raise FaultsError(f"{path} is no submission that the challenge takes", faults)
    return parts


def _extracted(
    archive: zipfile.ZipFile,
    task: MsdTask,
    members: Mapping[str, zipfile.ZipInfo],
    images: Mapping[str, Path],
    folder: Path,
) -> tuple[TaskPart, list[str]]:
    """Return a task's part of a zip, with its files in a folder, and what is wrong with those that are not there."""
    files, faults = {}, []
    for case, member in members.items():
        file = folder / task.folder / f"{case}{ENDING}"
        file.parent.mkdir(exist_ok=True)
        try:
            extract(archive, member, file, _most_bytes(images.get(case)))
            files[case] = file
        except MemberError as error:
            faults.append(f"{task.folder}/{case}{ENDING}: {error}")
    return TaskPart(task=task, files=files, images=images, damaged=frozenset(set(members) - set(files))), faults


def faults_of(parts: Sequence[TaskPart], processes: int, on_done: Callable[[], object]) -> list[str]:
    """Name everything that is wrong with the parts of a submission."""
    faults = []
    if missing := [task.folder for task in TASKS if not any(p.task == task and (p.files or p.damaged) for p in parts)]:
        faults.append(
            f"nothing for {', '.join(missing)}: the challenge takes all ten tasks or none; --placeholders fills tasks "
            "with empty predictions"
        )
    for part in parts:
        name, refused = part.task.folder, part.task.not_scored & set(part.files)
        if refused:
            faults.append(f"{name}: the challenge does not take {name_some(refused)}")
        if part.files or part.damaged:
            expected = _expected(part.task, part.images)
            if lacking := expected - set(part.files) - part.damaged:
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
        header = read_header(file)
    except UnreadableImageError as error:
        return [f"is no segmentation: {error}"]
    if image is not None:
        try:
            differences = read_header(image).geometry.differences(header.geometry)
        except UnreadableImageError as error:
            differences = [f"an image {image} beside it of which {error}"]
        if differences:  # of any size, so that its voxels are not read
            return [f"has {difference}" for difference in differences]
    if prod(header.shape) > MOST_VOXELS:
        return [f"has {by(header.shape)} voxels; {MOST_VOXELS:,} are possible"]
    if not np.issubdtype(header.type_of_values, np.integer):
        return [f"has type {header.type_of_values}, integers are needed"]
    try:
        values = read_values(file, MOST_LABELS)
    except UnreadableImageError as error:
        return [f"is no segmentation: {error}"]
    return [f"has {fault}" for fault in label_faults(values, frozenset(range(task.highest_label + 1)))]


def _most_bytes(image: Path | None) -> int:
    """Return how large a label map can be: that of an image, or any where there is none to say so."""
    if image is None:
        return LIMITS.member_bytes
    try:
        return MOST_HEADER_BYTES + MOST_VOXEL_BYTES * prod(read_header(image).geometry.shape)
    except UnreadableImageError:  # which is named when the label map is held against it
        return LIMITS.member_bytes


def _sorted_into_tasks(
    members: Sequence[zipfile.ZipInfo],
) -> tuple[dict[MsdTask, dict[str, zipfile.ZipInfo]], list[str]]:
    """Return the files of each task by case, and what lies elsewhere in the zip.

    A name is spelled in one way only: `./TASK/CASE.nii.gz`, which other programs write to the same place, is elsewhere.
    """
    found: dict[MsdTask, dict[str, zipfile.ZipInfo]] = {}
    strangers, twice = set(), set()
    files = [member for member in members if member.orig_filename not in {f"{task.folder}/" for task in TASKS}]
    for member in files:
        folder, _, name = member.orig_filename.partition("/")
        task = next((t for t in TASKS if folder == t.folder), None)
        case = name.removesuffix(ENDING)
        if task is None or "/" in name or not name.endswith(ENDING) or name.startswith("."):
            strangers.add(member.orig_filename)
        elif case in found.setdefault(task, {}):
            twice.add(member.orig_filename)
        else:
            found[task][case] = member
    faults = [] if files else ["it is empty"]
    if twice:
        faults.append(f"files that are in it more than once: {name_some(twice)}")
    if strangers:
        faults.append(
            f"files that do not belong into it: {name_some(strangers)}; at its root lie the folders "
            f"{TASKS[0].folder} to {TASKS[-1].folder}, in them {ENDING} files and nothing else"
        )
    return found, faults


def _is_placeholder(part: TaskPart) -> bool:
    """Whether all files of a part say so; one that cannot be read says nothing."""
    try:
        return bool(part.files) and all(
            read_header(file).description.startswith(PLACEHOLDER) for file in part.files.values()
        )
    except UnreadableImageError:
        return False


def _write_empty(path: Path, image: Path | None) -> None:
    """Write an empty label map in the geometry of an image, or of one voxel."""
    shape: tuple[int, ...] = (1, 1, 1)
    like = nib.Nifti1Header()
    if image is not None:
        try:
            shape = read_header(image).geometry.shape
        except UnreadableImageError as error:
            raise SubmissionError(f"test image {image}: {error}") from error
        like = nib.Nifti1Header.from_header(nib.load(image).header)
    empty = nib.Nifti1Image(np.zeros(shape, np.uint8), None, like)
    empty.set_data_dtype(np.uint8)
    empty.header["descrip"] = PLACEHOLDER
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(empty, path)


def parse_part(text: str) -> tuple[MsdTask, Path]:
    """Read `TASK=FOLDER`, or a folder whose name is a task's.

    Raises:
        TaskError: it names no task.
    """
    name, sign, folder = text.partition("=")
    return (known_task(name), Path(folder)) if sign else (known_task(Path(text).resolve().name), Path(text))
