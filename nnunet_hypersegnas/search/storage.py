"""Where a search keeps its evaluations: one of Optuna's storages, with a heartbeat for every evaluation under way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search.addresses import (
    FORMS,
    Address,
    StorageError,
    is_sqlite,
    parse_address,
    secrets_in,
    storage_file,
    without_password,
)

HEARTBEAT_S = 10
GRACE_S = 60  # without a heartbeat, after which an evaluation is given to another worker
SQLITE_TIMEOUT_S = 120  # writers wait for each other
CONNECT_TIMEOUT_S = 20  # until a server answers
MOST_CHARACTERS = 300  # of an address, and of a reason
RESTORE = "restore it from a copy, or move it away and begin the search anew"
# What to do about an error: the first class that it is of counts.
ADVICE: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    ((ArgumentError, ProgrammingError), FORMS),
    (
        (OperationalError, InterfaceError, OSError),
        "see that it is there and reachable from this machine. What was evaluated is kept; the same command goes on",
    ),
    (
        ImportError,
        "install the database's driver, for PostgreSQL with pip install 'nnunet_hypersegnas[postgres]'",
    ),
    (RecursionError, RESTORE),
    (RuntimeError, "use the version of Optuna that made it"),
    (Exception, RESTORE),
)


class HeartbeatJournal(JournalStorage, BaseHeartbeat):
    """Optuna's journal file, which has no heartbeats of its own: here each is the time stamp of a file beside it.

    Stamps are compared with one another only, so the machines' clocks need not agree.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = path.with_name(f"{path.name}.heartbeats")
        super().__init__(JournalFileBackend(str(path)))
        self._folder.mkdir(exist_ok=True)

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
            if not stamp.name.isdecimal():  # the probe, or what a shared file system leaves of removed files
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


def open_storage(address: Address, *, create: bool = True) -> BaseStorage:
    """Open, and where need be create, a storage.

    Args:
        address: as SQLAlchemy writes it (postgresql://..., sqlite:///...), or journal:PATH.
        create: make the file of an SQLite database or a journal where there is none.

    Raises:
        StorageError: its address cannot be read, its driver is not installed, it cannot be reached, was made by
            another version of Optuna, is damaged, or is not there and is not to be made.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line for every trial, else
    file = storage_file(address)
    with reading_errors(address), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats
        if file and not create and not file.exists():
            raise StorageError(f"there are no evaluations in {_shown(address)}; start the search with hsnas_search")
        if file and create:
            file.parent.mkdir(parents=True, exist_ok=True)
        parsed = parse_address(address)
        return _open_database(parsed) if isinstance(parsed, sqlalchemy.URL) else HeartbeatJournal(parsed.absolute())


@contextmanager
def storage_errors(address: Address) -> Iterator[None]:
    """Turn what storages raise while they are used into a `StorageError` of one line."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        _raise_unusable(address, error)


@contextmanager
def reading_errors(address: Address) -> Iterator[None]:
    """Turn whatever is raised while a storage is opened and read into a `StorageError` of one line.

    Drivers and Optuna raise what an address or a damaged file makes them: KeyError, ValueError, AssertionError, ...
    """
    try:
        yield
    except HyperSegNASError:
        raise
    except Exception as error:
        _raise_unusable(address, error)


def _open_database(address: sqlalchemy.URL) -> BaseStorage:
    options: dict[str, Any] = {}
    if is_sqlite(address):
        options["timeout"] = SQLITE_TIMEOUT_S
    elif address.get_backend_name() in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
        options["connect_timeout"] = CONNECT_TIMEOUT_S
    storage = RDBStorage(
        # Optuna takes a text, in which not every path can be written, and keeps it. It need not know the password.
        sqlalchemy.URL.create(address.drivername, database="study").render_as_string(),
        engine_kwargs={"creator": _connector(address, options), "pool_pre_ping": True},
        heartbeat_interval=HEARTBEAT_S,
        grace_period=GRACE_S,
    )
    if is_sqlite(address):
        _lock_whole_transactions(storage.engine)
    return storage


def _connector(address: sqlalchemy.URL, options: dict[str, Any]) -> Callable[[], Any]:
    """Return a function that makes a connection of the database's driver."""
    engine = sqlalchemy.create_engine(address)
    arguments, named = engine.dialect.create_connect_args(engine.url)
    return lambda: engine.dialect.connect(*arguments, **{**options, **named})


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


def _raise_unusable(address: Address, error: Exception) -> NoReturn:
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    advice = next(text for kind, text in ADVICE if isinstance(cause, kind))
    original = getattr(cause, "orig", None) or cause
    reason = (str(original).strip() or type(original).__name__).splitlines()[0]
    if advice is RESTORE:
        reason = f"{type(original).__name__}: {reason}"
    hidden = _may_hold_secret(address, cause, str(original))
    if hidden:
        reason = f"{type(original).__name__}, whose text is not shown, since it may hold a password"
    raise StorageError(f"storage {_shown(address)} cannot be used: {_short(reason)}; {advice}") from (
        None if hidden else error
    )


def _may_hold_secret(address: Address, error: BaseException, text: str) -> bool:
    """Whether a secret stands in an error's text, or may: drivers repeat pieces of options that they do not know."""
    secrets = secrets_in(address)
    is_of_connecting = isinstance(error, DBAPIError) and error.statement is None
    is_about_options = is_of_connecting and not isinstance(error, OperationalError)
    return any(secret in text for secret in secrets) or (bool(secrets) and is_about_options)


def _shown(address: Address) -> str:
    return _short(without_password(address))


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
