"""Training the folds of a cross-validation by stock nnUNetv2_train: what is missing, and nothing twice."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.checkpoint_files import load_checkpoint
from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
from nnunet_hypersegnas.nnunet.set_aside import set_aside
from nnunet_hypersegnas.nnunet.slurm import slurm_executor, slurm_function
from nnunet_hypersegnas.nnunet.stock_commands import end_groups, failure, start

POLL_S = 0.5

ZIP_START = b"PK\x03\x04"


class FoldsError(HyperSegNASError):
    """Folds that cannot be trained, or not like this."""


class FoldState(Enum):
    """How far a fold is."""

    NEW = "not begun"
    BEGUN = "begun"
    TRAINED = "trained, not validated"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """What is still to be done for a fold."""

    fold: int
    state: FoldState
    command: list[str]


def state_of(model: CrossValidation, fold: int) -> FoldState:
    """Return how far a fold is, by the files that nnU-Net has left behind."""
    folder = model.fold_folder(fold)
    if (folder / "validation" / "summary.json").exists():
        return FoldState.DONE
    whole = {path.name for path in folder.glob("checkpoint_*.pth") if not _is_torn(path)}
    if "checkpoint_final.pth" in whole:
        return FoldState.TRAINED
    return FoldState.BEGUN if whole else FoldState.NEW


def remove_torn_checkpoints(folder: Path) -> None:
    """Move aside checkpoints of a fold that a training was killed in the middle of writing: it goes on from others.

    The fold has to be claimed: a training that runs may just be writing one.
    """
    for path in folder.glob("checkpoint_*.pth"):
        if _is_torn(path):
            set_aside(path, "is no whole checkpoint")


def _is_torn(checkpoint: Path) -> bool:
    """Whether a checkpoint is empty, or begins as torch's zip files do and lacks the directory at their end."""
    with checkpoint.open("rb") as file:  # an error of the file system is not a proof
        start = file.read(len(ZIP_START))
        return not start.strip(b"\0") or (start == ZIP_START and not zipfile.is_zipfile(file))


def missing_jobs(
    model: CrossValidation,
    folds: Sequence[int],
    device: str,
    pretrained_weights: Path | None,
    *,
    probabilities: bool = True,
) -> list[FoldJob]:
    """Return the stock commands that complete some folds, those left away that are done.

    Args:
        model: whose folds.
        folds: which.
        device: nnU-Net's -device.
        pretrained_weights: to start from, as nnU-Net's -pretrained_weights.
        probabilities: whether the validation keeps them, for ensembles and postprocessing.

    Raises:
        ChangedPlansError: folds were trained with another network.
        FoldsError, CheckpointError: these weights may not be used for these folds, see `check_weights`.
    """
    model.check_plans()
    if pretrained_weights:
        check_weights(pretrained_weights, folds)
    jobs = []
    for fold in folds:
        command = [*model.train_command(fold, probabilities=probabilities), "-device", device]
        state = state_of(model, fold)
        if state is FoldState.NEW and pretrained_weights:
            command += ["-pretrained_weights", str(pretrained_weights)]
        if state is not FoldState.DONE:
            more = {FoldState.BEGUN: ["--c"], FoldState.TRAINED: ["--val"]}.get(state, [])
            jobs.append(FoldJob(fold=fold, state=state, command=command + more))
    return jobs


def check_weights(path: Path, folds: Sequence[int]) -> None:
    """Look at weights before a training starts from them.

    Raises:
        CheckpointError: they cannot be read.
        FoldsError: a search wrote them, and they would be used for other folds than the super-net's own.
    """
    if not path.exists():
        raise FoldsError(f"there is no {path}; leave -pretrained_weights away, or name a file")
    record = load_checkpoint(path, mmap=True).get("hypersegnas")
    own = record.get("fold") if isinstance(record, dict) else None
    if own is not None and list(folds) != [own]:
        raise FoldsError(
            f"{path} is inherited from a super-net of fold {own}, which was trained on the validation cases of the "
            f"other folds; it may be used with --folds {own} alone, or train all folds without -pretrained_weights"
        )


def run_jobs(
    jobs: Sequence[FoldJob],
    model: CrossValidation,
    slots: Sequence[Mapping[str, str]],
    announce: Callable[[FoldJob, Mapping[str, str], Path | None], None],
) -> None:
    """Run jobs, one at a time in each slot; the others go on where one fails.

    Args:
        jobs: what to run.
        model: whose folds they are.
        slots: environment of each, such as the GPU that it has. With one slot nnU-Net prints here, else into logs.
        announce: called with each job as it starts, its slot's environment and its log.

    Raises:
        FoldsError: naming each job that failed, or a fold that another process trains, or has trained meanwhile.
    """
    waiting, free = list(jobs), list(range(len(slots)))
    running: dict[int, tuple[FoldJob, subprocess.Popen, Path | None]] = {}
    faults = []
    with contextlib.ExitStack() as claims:
        claim = {job.fold: claims.enter_context(claimed(model, job.fold)) for job in jobs}
        for job in jobs:
            remove_torn_checkpoints(model.fold_folder(job.fold))
        if changed := [str(job.fold) for job in jobs if state_of(model, job.fold) is not job.state]:
            raise FoldsError(
                f"another process went on with fold {', '.join(changed)}; the same command goes on from here"
            )
        try:
            while waiting or running:
                while waiting and free:
                    job, slot = waiting.pop(0), free.pop(0)
                    log = model.folder / "crossval_logs" / f"fold_{job.fold}.log" if len(slots) > 1 else None
                    announce(job, slots[slot], log)
                    # The claim outlives this process, if that is killed and the training goes on.
                    hold = [claim[job.fold]]
                    running[slot] = job, start(job.command, log=log, variables=slots[slot], hold=hold), log
                time.sleep(POLL_S)
                for slot, (job, process, log) in list(running.items()):
                    if process.poll() is not None:
                        del running[slot]
                        free.append(slot)
                        if process.returncode:
                            faults.append(f"fold {job.fold}: {failure(job.command, process.returncode, log)}")
        finally:
            end_groups([process for _, process, _ in running.values()])
    if faults:
        raise FoldsError(f"{'; '.join(faults)}; the same command goes on from here")


def submit_jobs(
    jobs: Sequence[FoldJob], model: CrossValidation, parameters: Mapping[str, str], command: Sequence[str]
) -> None:
    """Run jobs as a job array of SLURM, and wait for them; they are cancelled where this process is interrupted.

    Args:
        jobs: what to run.
        model: whose folds they are.
        parameters: of the jobs, see `slurm_executor`.
        command: trains a fold, whose number is to follow.

    Raises:
        SlurmError: there is no SLURM, or it does not know a parameter.
        FoldsError: naming each job that failed.
    """
    executor = slurm_executor("hsnas_crossval", parameters, model.folder / "crossval_logs")
    with executor.batch():  # one job array
        submitted = [executor.submit(slurm_function([*command, str(job.fold)])) for job in jobs]
    print(f"Submitted: {', '.join(str(job.job_id) for job in submitted)}", flush=True)
    try:
        while not all(job.done() for job in submitted):
            time.sleep(POLL_S)
    except BaseException:
        for job in submitted:
            job.cancel(check=False)
        raise
    faults = [f"fold {job.fold}: see {s.paths.stderr}" for job, s in zip(jobs, submitted, strict=True) if s.exception()]
    if faults:
        raise FoldsError(f"jobs failed: {'; '.join(faults)}; the same command goes on from here")


@contextmanager
def claimed(model: CrossValidation, fold: int) -> Iterator[int]:
    """Have a fold for this process and those that it starts, and yield the file that they have to keep open for that.

    Raises:
        FoldsError: another process has it.
    """
    path = model.fold_folder(fold) / "hsnas_crossval.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise FoldsError(f"fold {fold} of {model.name} is being trained by another process; wait for it") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # some shared file systems have no locks
            raise
    try:
        yield file
    finally:
        os.close(file)
