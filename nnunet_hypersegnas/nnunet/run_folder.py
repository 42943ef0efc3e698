"""The folder of one search: what was asked for, by whom it is led, and all that it leaves behind."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field
from typing_extensions import Required, TypedDict  # pydantic needs these before Python 3.12

import nnunet_hypersegnas
from nnunet_hypersegnas.atomic import is_temporary, sweep, write_json
from nnunet_hypersegnas.errors import MOST_SHOWN, HyperSegNASError
from nnunet_hypersegnas.json_files import JsonFileError, check, read_object
from nnunet_hypersegnas.nnunet.digests import digest
from nnunet_hypersegnas.nnunet.sub_net_evaluator import FinalistFiles
from nnunet_hypersegnas.search import Address, SearchSettings, is_sqlite, sqlite_url, without_password

FORMAT = 1  # of run.json
LOCK_S = 1.0  # to wait for the lock, which those who only look whether it is held have for a moment


class RunError(HyperSegNASError):
    """A run folder that cannot be used for what was asked."""


Positive = Annotated[int, Field(gt=0)]


class _SettingsJson(TypedDict, total=False):
    candidates: Required[Positive]
    strategy: Required[Literal["random", "evolution"]]
    finalists: Required[Positive]
    finetune_iterations: Required[Positive]
    finetune_lr: Required[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    refinements: Annotated[int, Field(ge=0)]
    halving: Required[bool]
    validation_cases: Required[Positive | None]
    seed: Required[int]


class _RunJson(TypedDict, total=False):
    format: Required[Literal[1]]
    dataset: Required[str]
    configuration: Required[str]
    fold: Required[Annotated[int, Field(ge=0)]]
    plans: Required[str]
    trainer: Required[str]
    super_net: Required[str]
    device: Required[Literal["cuda", "cpu"]]
    memory: Required[str]
    budgets: Required[dict[str, str]]
    settings: Required[_SettingsJson]
    crops: Required[str]
    storage: Required[str | None]
    host: Required[str]
    study: Required[str]
    prepared: bool


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a search was started with; whoever joins it reads it here.

    Attributes:
        dataset, configuration, fold, plans, trainer: name the super-net.
        super_net: digest of its checkpoint.
        device: type of the devices that evaluate, "cuda" or "cpu".
        memory: what a budget's memory was asked to be: "predicted", or which metric.
        budgets: limits, as text, by the budget's label.
        settings: how much the search does.
        crops: name of the folder with the validation crops.
        storage: without its password; None stands for an SQLite file in the run's folder.
        host: where the search is led.
        study: name of the Optuna study; of this folder alone, since storages hold the studies of many.
        prepared: whether crops and study are there, so that workers can begin.
    """

    dataset: str
    configuration: str
    fold: int
    plans: str
    trainer: str
    super_net: str
    device: str
    memory: str
    budgets: Mapping[str, str]
    settings: SearchSettings
    crops: str
    storage: str | None
    host: str
    study: str
    prepared: bool = True  # as all records of earlier versions were, which wrote them last

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "package_version": nnunet_hypersegnas.__version__,
            **vars(self),
            "settings": self.settings.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        fields = {key: value[key] for key in value if key not in ("format", "package_version")}
        storage = value["storage"]  # earlier versions left passwords in its query
        shown = None if storage is None else without_password(storage)
        return cls(**{**fields, "settings": SearchSettings(**value["settings"]), "storage": shown})

    def arguments(self) -> dict[str, Any]:
        """Return, flat, all that has to be the same where a search is continued."""
        other = {
            key: value for key, value in vars(self).items() if key not in ("settings", "host", "study", "prepared")
        }
        return {**other, **self.settings.to_json()}

    @property
    def digest(self) -> str:
        """A short name of these arguments."""
        return digest(self.arguments())


class RunFolder:
    """The files of one search.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_file = path / "run.json"
        self.logs = path / "workers"
        self._lock_file = path / "led.lock"
        self.finalists = FinalistFiles(path / "finalists")

    def storage_url(self, storage: str | None) -> Address:
        return storage or sqlite_url(self.path / "study.db")

    def read(self) -> RunRecord:
        """Return what the search was started with.

        Raises:
            RunError: there is no search, or one of another version.
            JsonFileError: its record is damaged.
        """
        if not self.record_file.exists():
            raise RunError(f"no search in {self.path}; start one with hsnas_search")
        value = read_object(self.record_file, f"restore it, or delete {self.path}")
        version, format_ = str(value.get("package_version", "unknown"))[:MOST_SHOWN], value.get("format", 0)
        if isinstance(format_, int) and format_ > FORMAT:
            raise RunError(
                f"{self.path} was made by the newer version {version} of nnunet_hypersegnas, this is "
                f"{nnunet_hypersegnas.__version__}; update, or choose another --run"
            )
        try:
            check(value, _RunJson, "its content is wrong")
            return RunRecord.from_json(value)
        except (JsonFileError, TypeError) as error:
            raise RunError(
                f"{self.record_file} was made by version {version} of nnunet_hypersegnas, which this one cannot read "
                f"({error}); choose another --run"
            ) from error

    def continued(self, record: RunRecord) -> RunRecord:
        """Return the record under which a search with these arguments goes on here, or begins.

        Raises:
            RunError: the folder holds a search with other arguments.
        """
        if not self._is_begun():
            if others := self._others():
                raise RunError(
                    f"{self.path} is there and holds no search ({len(others)} other files); choose another --run"
                )
            return record
        before = self.read()
        then, now = before.arguments(), json.loads(json.dumps(record.arguments()))
        if changes := [f"{key} {then.get(key)} then, {now[key]} now" for key in now if then.get(key) != now[key]]:
            raise RunError(
                f"{self.path} holds a search with other arguments ({'; '.join(changes)}); choose another --run, or "
                "delete that folder"
            )
        return replace(record, study=before.study, prepared=before.prepared)

    def _others(self) -> list[Path]:
        """Return all that lies here, apart from what a search that leads writes before anything else."""
        ours = {self._lock_file, self.record_file}
        there = self.path.iterdir() if self.path.exists() else ()
        return [file for file in there if file not in ours and not is_temporary(file)]

    def _is_begun(self) -> bool:
        """Whether there is a record, and more than a record of what was about to begin."""
        if not self.record_file.exists():
            return False
        return bool(self._others()) or self.read().prepared

    def write(self, record: RunRecord) -> None:
        write_json(self.record_file, record.to_json())

    @contextmanager
    def led(self) -> Iterator[None]:
        """Lead the search: one process at a time. What killed processes left here and beside is removed.

        Raises:
            RunError: another process leads it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock_file)
        try:
            with contextlib.suppress(NotImplementedError):  # some shared file systems have no locks
                lock.acquire(timeout=LOCK_S)
        except Timeout:
            raise RunError(
                f"the search in {self.path} runs already; help it with --join, see how far it is with hsnas_status "
                f"{self.path}"
            ) from None
        try:
            for folder in (self.path, self.finalists.folder, self.path.parent):  # the last one holds crops
                sweep(folder)
            yield
        finally:
            self._forget_what_was_not_begun()
            if not self.record_file.exists():
                self._lock_file.unlink(missing_ok=True)
            lock.release()
            if not self.record_file.exists():
                with contextlib.suppress(OSError):  # it holds something else
                    self.path.rmdir()

    def _forget_what_was_not_begun(self) -> None:
        with contextlib.suppress(HyperSegNASError):  # a damaged record stays
            if not self._is_begun():
                self.record_file.unlink(missing_ok=True)

    @property
    def is_led(self) -> bool:
        """Whether a process leads the search, as far as this file system's locks tell."""
        if not self._lock_file.exists():
            return False
        lock = FileLock(self._lock_file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except NotImplementedError:
            return False
        lock.release()
        return False

    def check_host(self, record: RunRecord, url: Address) -> None:
        """Raise RunError where this machine would share an SQLite file with another one."""
        if record.host != socket.gethostname():
            self.check_shared(url, f"is led on {record.host} and ")

    def check_shared(self, url: Address, where: str = "") -> None:
        """Raise RunError where several machines would share an SQLite file."""
        if is_sqlite(url):
            raise RunError(
                f"the search in {self.path} {where}keeps its evaluations in SQLite, whose locks do not hold between "
                "machines; start it with --storage postgresql://... or --storage journal:FILE on a shared folder"
            )


def check_run_name(name: str) -> None:
    """Raise RunError unless the name can be a folder's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise RunError(f"run name {name!r} is no name of a folder; use letters, digits, '.', '-' and '_'")
