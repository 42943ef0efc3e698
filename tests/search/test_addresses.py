"""Addresses of storages: any text gives an address or one line, and what is secret in it is never shown."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nnunet_hypersegnas.search import StorageError, is_sqlite, open_storage, open_study, sqlite_url, without_password
from nnunet_hypersegnas.search.addresses import SHOWN, parse_address, secrets_in, storage_file
from tests.mutations import FEW, MANY

SECRET = "Zq7=Xw9!"  # in no other text
SECRET_KEYS = ("password", "sslpassword", "passfile", "conninfo")
FOLDERS = ["my%20lab", "what?x", "{SCHEMA_VERSION}#%", "a user@lab:ünï&b=c"]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_file_is_in_the_folder_whatever_its_name(name, tmp_path):
    path = tmp_path / name / "study.db"
    open_study(open_storage(sqlite_url(path)), "a", create=True)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert open_study(open_storage(sqlite_url(path)), "a").study_name == "a"
    assert storage_file(sqlite_url(path)) == path and is_sqlite(sqlite_url(path))
    assert without_password(sqlite_url(path)) == str(path)


def test_a_moved_folder_is_found_again(tmp_path):
    open_study(open_storage(sqlite_url(tmp_path / "a%41" / "study.db")), "a", create=True)
    (tmp_path / "a%41").rename(tmp_path / "b?c")
    assert open_study(open_storage(sqlite_url(tmp_path / "b?c" / "study.db")), "a").study_name == "a"


def test_what_is_only_read_is_not_made(tmp_path):
    for address in (sqlite_url(tmp_path / "a" / "study.db"), f"journal:{tmp_path}/b/file"):
        with pytest.raises(StorageError, match=f"no evaluations in .*{tmp_path}.*; start the search with hsnas_search"):
            open_storage(address, create=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me@host/db"),
        ("postgresql://me@host/db?password=secret", "postgresql://me@host/db"),
        (
            "postgresql://me@/db?host=/run/pg&sslpassword=secret&passfile=/a/secret&sslmode=require",
            "postgresql://me@/db?host=%2Frun%2Fpg&sslmode=require",
        ),
        ("postgresql://me@host/db?from_years_to_come=secret", "postgresql://me@host/db"),
        ("postgresql://me:se%40cret@host:5432/db", "postgresql://me@host:5432/db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite+pysqlcipher://:secret@/a/b.db?cipher=secret", "sqlite+pysqlcipher://@/a/b.db"),
        ("journal:/a/b", "journal:/a/b"),
    ],
)
def test_passwords_are_not_shown(address, shown):
    assert without_password(address) == shown
    assert without_password(shown) == shown
    assert "secret" not in repr(parse_address(shown))


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql:me:{SECRET}@host/db",
        f"postgresql://me:{SECRET}",
        f"postgresql://me:pa@{SECRET}@host/db",
        f"postgresql://me:pa@x?{SECRET}=y@host/db",
        f"postgresql://me/{SECRET}@host/db",
        f"postgresql://me:{SECRET}\n@host/db",
        f"postgresql://me:{SECRET}\x00@host/db",
        f"postgresql://me:{SECRET}\udcff@host/db",
        f"postgresql://me@host:{SECRET}/db",
        f"{SECRET}@host",
        SECRET,
        "journal:",
        "",
    ],
)
def test_what_cannot_be_read_is_not_repeated(address):
    with pytest.raises(
        StorageError, match=r"address cannot be read.*postgresql://USER@HOST/DATABASE, journal:"
    ) as error:
        without_password(address)
    assert SECRET not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
def test_a_storage_in_memory_is_refused(address):
    with pytest.raises(StorageError, match="in memory; write postgresql://"):
        open_storage(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (f"mysql://me:{SECRET}@localhost/x", "No module named 'MySQLdb'; install the database's driver"),
        (f"nosuchdb://me:{SECRET}@localhost/x", "storage nosuchdb://me@localhost/x cannot be used: .*; write postgres"),
        (f"postgresql://me@127.0.0.1:1/x?password={quote(SECRET)}", r"me@127.0.0.1:1/x cannot be used: .*refused.*;"),
        (
            f"postgresql://me@127.0.0.1:1/x?no_such={quote(SECRET)}",
            "ProgrammingError, whose text is not shown, .*; write",
        ),
        # psycopg repeats a piece of this one.
        (
            f"postgresql://me@127.0.0.1:1/x?conninfo={quote(SECRET)}",
            "ProgrammingError, whose text is not shown, .*; write",
        ),
        (f"sqlite://me:{quote(SECRET)}@/x?key={quote(SECRET)}", "ArgumentError, whose text is not shown, .*; write"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line_without_its_password(address, message):
    with pytest.raises(StorageError, match=message) as error:
        open_storage(address)
    assert not any(piece in str(error.value) for piece in SECRET.split("="))
    assert "\n" not in str(error.value)


def test_secrets_are_all_that_is_not_shown():
    assert secrets_in("postgresql://me:a%20b@h/db?passfile=/c") == {"a b", "a%20b", "a+b", "/c", "%2Fc"}
    assert secrets_in("postgresql://hsnas:hsnas@h/db") == set()  # the name is shown anyway
    assert secrets_in("journal:/a/b") == set()


texts = st.text(max_size=60)
words = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
keys = st.one_of(st.sampled_from([*SECRET_KEYS, *SHOWN]), words)
names = words.filter(lambda name: "/" not in name and name not in (".", ".."))


@st.composite
def addresses_with_a_secret(draw):
    """Return an address of a server with `SECRET` as its password, or in its query, encoded or as it is."""
    encoded = draw(st.sampled_from([SECRET, quote(SECRET, safe="")]))
    user, host, database = (draw(part) for part in (words.map(lambda text: quote(text, safe="")), words, words))
    query = [f"{quote(key, safe='')}={quote(draw(words), safe='')}" for key in draw(st.lists(keys, max_size=3))]
    if draw(st.booleans()):
        return f"postgresql://{user}:{encoded}@{host}/{database}?{'&'.join(query)}"
    query.insert(draw(st.integers(0, len(query))), f"{draw(st.sampled_from(SECRET_KEYS))}={encoded}")
    return f"postgresql://{user}@{host}/{database}?{'&'.join(query)}"


def check_text(text):
    try:
        shown = without_password(text)
    except StorageError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert without_password(shown) == shown


def check_secret(address):
    try:
        shown = without_password(address)
        assert secrets_in(shown) == set()
    except StorageError as error:
        shown = str(error)
    assert SECRET not in shown and quote(SECRET, safe="") not in shown


def check_path(name):
    path = Path("/a") / name / "study.db"
    assert storage_file(sqlite_url(path)) == path and without_password(sqlite_url(path)) == str(path)


@FEW
@given(texts)
@example("sqlite:///\x00")
@example("a://[")
@example("postgresql://[::1]more")
@example("+://")
def test_any_text_is_an_address_or_one_error(text):
    check_text(text)


@FEW
@given(addresses_with_a_secret())
def test_a_secret_is_shown_in_no_address_and_no_error(address):
    check_secret(address)


@FEW
@given(names)
def test_any_path_keeps_its_file(name):
    check_path(name)


@pytest.mark.slow
@MANY
@given(texts, addresses_with_a_secret(), names)
def test_many_addresses(text, address, name):
    check_text(text)
    check_secret(address)
    check_path(name)
