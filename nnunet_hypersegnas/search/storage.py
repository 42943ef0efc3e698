"""Where a search keeps its evaluations: one of Optuna's storages, with a heartbeat for every evaluation under way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from nnunet_hypersegnas.errors import HyperSegNASError

JOURNAL = "journal:"
HEARTBEAT_S = 10
GRACE_S = 60  # without a heartbeat, after which an evaluation is given to another worker
SQLITE_TIMEOUT_S = 120  # writers wait for each other


class StorageError(HyperSegNASError):
    """A storage that cannot be reached, or not used that way."""


class HeartbeatJournal(JournalStorage, BaseHeartbeat):
    """Optuna's journal file, which has no heartbeats of its own: here each is the time stamp of a file beside it.

    Stamps are compared with one another only, so the machines' clocks need not agree.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = path.with_name(f"{path.name}.heartbeats")
        self._folder.mkdir(exist_ok=True)
        super().__init__(JournalFileBackend(str(path)))

    def record_heartbeat(self, trial_id: int) -> None:
        (self._folder / str(trial_id)).touch()

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        probe = self._folder / "now"
        probe.touch()
        now = probe.stat().st_mtime
        running = {
            trial._trial_id
            for trial in self.get_all_trials(study_id, deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        }
        stale = []
        for stamp in self._folder.iterdir():
            if stamp.name == probe.name:
                continue
            if int(stamp.name) not in running:
                stamp.unlink(missing_ok=True)
            elif now - stamp.stat().st_mtime > GRACE_S:
                stale.append(int(stamp.name))
        return stale

    def get_heartbeat_interval(self) -> int | None:
        return HEARTBEAT_S

    def get_heartbeat_stale_trial_callback(self) -> Callable[[Any, Any], None] | None:
        return None


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite:")


def without_password(url: str) -> str:
    """Return a storage's address as it may be shown and written into files.

    Raises:
        StorageError: it is no address of a storage.
    """
    if url.startswith(JOURNAL):
        return url
    address = _parse(url)
    return address._replace(password=None).render_as_string() if address.password else url


def open_storage(url: str) -> BaseStorage:
    """Open, and where need be create, a storage.

    Args:
        url: as SQLAlchemy writes it (postgresql://..., sqlite:///...), or journal:PATH.

    Raises:
        StorageError: it cannot be reached, or was made by a newer version of Optuna.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line for every trial, else
    with storage_errors(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats
        if url.startswith(JOURNAL):
            return _open_journal(url)
        address = _parse(url)
        connect: dict[str, Any] = {}
        if is_sqlite(url):
            connect["timeout"] = SQLITE_TIMEOUT_S
            if address.database:
                _make_folder(url, Path(address.database).parent)
        elif address.get_backend_name() in ("postgresql", "postgres"):
            address = address.set(drivername="postgresql+psycopg")
            connect["connect_timeout"] = 20
        storage = RDBStorage(
            address.render_as_string(hide_password=False),
            engine_kwargs={"connect_args": connect, "pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
        )
        if is_sqlite(url):
            _lock_whole_transactions(storage.engine)
        return storage


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what storages raise into a `StorageError` of one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StorageError(
            f"storage {without_password(url)} needs the module {error.name}; for PostgreSQL run: pip install "
            "'nnunet_hypersegnas[postgres]'"
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        raise _unusable(url, getattr(cause, "orig", None) or cause) from error
    except RuntimeError as error:
        if "version" not in str(error).lower():
            raise
        raise StorageError(f"storage {without_password(url)} was made by another version of Optuna: {error}") from error


def _open_journal(url: str) -> BaseStorage:
    try:
        return HeartbeatJournal(Path(url.removeprefix(JOURNAL)).absolute())
    except OSError as error:
        raise _unusable(url, error) from error


def _lock_whole_transactions(engine: sqlalchemy.Engine) -> None:
    """Let SQLite lock the database when a transaction begins, and not only at its first write.

    Optuna looks whether a trial waits and then takes it. In between another worker could take it too, since SQLite
    knows no lock of rows.
    """

    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the module's own way of beginning transactions is switched off

    def begun(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(engine, "connect", connected)
    sqlalchemy.event.listen(engine, "begin", begun)
    engine.dispose()  # connections that were made before


def _make_folder(url: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(url, error) from error


def _unusable(url: str, reason: BaseException) -> StorageError:
    return StorageError(
        f"storage {without_password(url)} cannot be used: {str(reason).strip().splitlines()[0]}; see that it is there "
        "and reachable from this machine. What was evaluated is kept; the same command goes on"
    )


def _parse(url: str) -> sqlalchemy.URL:
    try:
        return sqlalchemy.make_url(url)
    except ArgumentError as error:
        raise StorageError(
            f"{url!r} is no storage; write postgresql://USER@HOST/DATABASE, journal:/shared/FILE, or leave it out for "
            "an SQLite file in the run's folder"
        ) from error
