"""A worker of a search that another process leads, on this machine or another one."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import optuna
import torch

from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.digests import file_digest
from nnunet_hypersegnas.nnunet.run_folder import RunError, RunFolder, RunRecord
from nnunet_hypersegnas.nnunet.scoring import CropScorer, score_reproducibly
from nnunet_hypersegnas.nnunet.sub_net_evaluator import SubNetEvaluator
from nnunet_hypersegnas.nnunet.super_net_loading import load_super_net
from nnunet_hypersegnas.nnunet.validation_crops import read_validation_crops
from nnunet_hypersegnas.search import last_led, open_storage, open_study, storage_errors, work
from nnunet_hypersegnas.search.storage import GRACE_S

LOOK_EVERY_S = 2.0  # whether the search is still led
WAIT_FOR_START_S = 60.0


def join_search(
    folder: RunFolder, dataset: PreprocessedDataset, checkpoint: Path, device: torch.device, storage: str | None
) -> int:
    """Work for a search until it is over, or led no more, and return how many evaluations that were.

    Args:
        folder: the search's.
        dataset, checkpoint: the super-net's.
        device: of the worker.
        storage: the search's, with its password; None for the one that the folder names.

    Raises:
        RunError: there is no such search, or not for this machine.
    """
    record = _wait_for_start(folder)
    url = folder.storage_url(storage or record.storage)
    folder.check_host(record, url)
    if device.type != record.device:
        raise RunError(
            f"the search in {folder.path} evaluates on {record.device}; join it with --device {record.device}"
        )
    if (digest := file_digest(checkpoint)) != record.super_net:
        raise RunError(
            f"the search in {folder.path} has super-net {record.super_net}, {checkpoint} is {digest}: trained anew, or "
            "not the same file on all machines"
        )
    with storage_errors(url):
        try:
            study = open_study(open_storage(url), record.study)
        except KeyError as error:
            raise RunError(
                f"the storage has no search {record.study!r}; give --storage as it was given to the process that leads"
            ) from error
        evaluator = _evaluator(folder, record, dataset, checkpoint, device)
        return work(study, evaluator.evaluate, _Over(study))


def end_with(parent: int) -> None:
    """End this process, with those that prepare its batches, when its parent does, however that ends.

    It has to be the leader of its process group.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


class _Over:
    """Whether a search is led no more; looked up now and then, where there is nothing to do.

    The time of the last sign of life is compared with earlier ones only, so the machines' clocks need not agree.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._sign: float | None = None
        self._changed = self._looked = time.monotonic()

    def __call__(self, idle: bool) -> bool:
        now = time.monotonic()
        if not idle or now - self._looked < LOOK_EVERY_S:
            return False
        self._looked, before, self._sign = now, self._sign, last_led(self._study)
        if self._sign is None:  # ended in an orderly way, or not begun yet
            return before is not None or now - self._changed > WAIT_FOR_START_S
        if self._sign != before:
            self._changed = now
        return now - self._changed > GRACE_S


def _wait_for_start(folder: RunFolder) -> RunRecord:
    """Wait until a search is prepared: as long as a process leads it, or else for a minute."""
    until = time.monotonic() + WAIT_FOR_START_S
    while True:
        if folder.record_file.exists() and (record := folder.read()).prepared:
            return record
        if folder.is_led:
            until = time.monotonic() + WAIT_FOR_START_S
        elif time.monotonic() > until:
            raise RunError(
                f"nobody leads a search in {folder.path}; start it with the same command without --join, on a machine "
                "that has the same folders"
            )
        time.sleep(1)


def _evaluator(
    folder: RunFolder, record: RunRecord, dataset: PreprocessedDataset, checkpoint: Path, device: torch.device
) -> SubNetEvaluator:
    if device.type == "cpu":
        torch.set_num_threads(1)  # so that results do not depend on how many workers share the cores
    score_reproducibly(device)
    network = load_super_net(dataset, checkpoint)[1].to(device)
    crops = read_validation_crops(folder.path.parent / record.crops)
    scorer = CropScorer(dataset, crops, device)
    return SubNetEvaluator(dataset, record.fold, network, scorer, folder.finalists, record.settings, device)
