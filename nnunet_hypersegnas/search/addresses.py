"""The address of a storage: how it is read, and how much of it may be shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, quote_plus

import sqlalchemy
from sqlalchemy.exc import ArgumentError

from nnunet_hypersegnas.errors import HyperSegNASError

Address = str | sqlalchemy.URL  # as users write it, or of a file of ours, whose path may hold any character

JOURNAL = "journal:"
FORMS = (
    "write postgresql://USER@HOST/DATABASE, journal:/shared/FILE, or leave it out for an SQLite file in the run's "
    "folder"
)
# What a query may say and anyone may read. All else may be a secret (password, sslpassword, passfile, ...), also what
# drivers will take in years to come.
SHOWN = (
    *("host", "hostaddr", "port", "dbname", "user", "service", "options", "application_name", "client_encoding"),
    *("charset", "unix_socket", "sslmode", "sslrootcert", "channel_binding", "gssencmode", "krbsrvname"),
    *("require_auth", "target_session_attrs", "load_balance_hosts", "connect_timeout"),
    *("timeout", "uri", "mode", "cache", "vfs", "nolock", "immutable"),  # SQLite's
)
CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class StorageError(HyperSegNASError):
    """A storage whose address cannot be read, or that cannot be reached, read, or used that way."""


def sqlite_url(path: Path) -> sqlalchemy.URL:
    """Return the address of an SQLite file."""
    return sqlalchemy.URL.create("sqlite", database=str(path))


def parse_address(address: Address) -> sqlalchemy.URL | Path:
    """Return an address as SQLAlchemy has it, or the path of a journal.

    Raises:
        StorageError: it is no address of a storage. It is not repeated, since it may hold a password.
    """
    if isinstance(address, str) and address.startswith(JOURNAL):
        path = address.removeprefix(JOURNAL)
        if not path or CONTROL_CHARACTERS.search(path):
            raise _unreadable()
        return Path(path)
    url = address if isinstance(address, sqlalchemy.URL) else _parse(address)
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StorageError(f"workers cannot see a storage that is in memory; {FORMS}")
    return url


def is_sqlite(address: Address) -> bool:
    """Whether a storage is an SQLite file.

    Raises:
        StorageError: it is no address of a storage.
    """
    parsed = parse_address(address)
    return isinstance(parsed, sqlalchemy.URL) and parsed.get_backend_name() == "sqlite"


def storage_file(address: Address) -> Path | None:
    """Return the file of an SQLite database or of a journal; None for a server.

    Raises:
        StorageError: it is no address of a storage.
    """
    parsed = parse_address(address)
    if isinstance(parsed, Path):
        return parsed.absolute()
    if not is_sqlite(parsed) or "uri" in parsed.query:  # SQLite has URIs of its own
        return None
    return Path(parsed.database or "").absolute()


def without_password(address: Address) -> str:
    """Return a storage's address as it may be shown and written into files; of a file of ours, the path.

    Raises:
        StorageError: it is no address of a storage.
    """
    parsed = parse_address(address)
    if isinstance(parsed, Path):
        return str(address)
    if isinstance(address, sqlalchemy.URL) and is_sqlite(address):
        return str(address.database)
    query = {key: value for key, value in parsed.query.items() if key in SHOWN}
    return parsed._replace(password=None).set(query=query).render_as_string()


def secrets_in(address: Address) -> set[str]:
    """Return the texts that may not be shown: each as it is, and as it stands in an address.

    Raises:
        StorageError: it is no address of a storage.
    """
    parsed = parse_address(address)
    if isinstance(parsed, Path):
        return set()
    values = [parsed.password or ""]
    for key, value in parsed.query.items():
        if key not in SHOWN:
            values += [value] if isinstance(value, str) else value
    written = {encoded(str(value)) for value in values for encoded in (str, quote, quote_plus)}
    shown = without_password(address)
    return {text for text in written if text and text not in shown}


def _parse(address: str) -> sqlalchemy.URL:
    if CONTROL_CHARACTERS.search(address):
        raise _unreadable()
    try:
        url = sqlalchemy.make_url(address)
    except (ArgumentError, ValueError):  # a port that is no number
        raise _unreadable() from None
    # A password with an @ in it has its rest taken for something else, which would be shown.
    if url.get_backend_name() != "sqlite" and address.count("@") > (url.username is not None):
        raise _unreadable()
    return url


def _unreadable() -> StorageError:
    return StorageError(
        f"the storage's address cannot be read (it is not shown, since it may hold a password); {FORMS}. In a user "
        "name or password, write %40 for @, %2F for / and %25 for %"
    )
