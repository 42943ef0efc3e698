"""A password in a storage's address: workers get it, and it stands in no file and no message."""

import json
import sys
import time
from dataclasses import replace

import pytest

from nnunet_hypersegnas.cli.search import STORAGE_VARIABLE
from nnunet_hypersegnas.cli.status import main as status
from nnunet_hypersegnas.nnunet.crews import SlurmCrew
from nnunet_hypersegnas.nnunet.run_folder import RunError, RunFolder
from tests.nnunet.test_run_folder import RECORD

SECRET = "Zq7Xw9"
ADDRESS = f"postgresql://me@127.0.0.1:1/none?sslmode=disable&password={SECRET}"
SHOWN = "postgresql://me@127.0.0.1:1/none?sslmode=disable"


@pytest.fixture
def record():
    return replace(RECORD, storage=SHOWN)


@pytest.fixture
def earlier(tmp_path, record):
    """A run of an earlier version, which left passwords in the address' query."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.record_file.write_text(json.dumps({**record.to_json(), "storage": ADDRESS}))
    (folder.path / "measurements.jsonl").touch()
    return folder


def test_a_run_of_an_earlier_version_goes_on_and_forgets_the_password(earlier, record):
    assert earlier.read().storage == SHOWN
    earlier.write(earlier.continued(record))
    assert SECRET not in earlier.record_file.read_text()


def test_another_storage_is_refused_without_the_password(earlier, record):
    with pytest.raises(RunError, match=r"storage .*sslmode=disable then, .*other.* now") as error:
        earlier.continued(replace(record, storage="postgresql://me@other/none"))
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_status_does_not_show_it(earlier, how, monkeypatch, capfd):
    arguments = ["--storage", ADDRESS]
    if how == "variable":
        monkeypatch.setenv(STORAGE_VARIABLE, ADDRESS)
        arguments = []
    assert status([str(earlier.path), *arguments]) == 1
    out, err = capfd.readouterr()
    assert f"storage {SHOWN} cannot be used: " in err and len(err.splitlines()) == 1 and SECRET not in out + err


def test_jobs_get_it_from_the_environment_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(STORAGE_VARIABLE, ADDRESS)
    code = f"import os, pathlib; pathlib.Path({str(tmp_path / 'got')!r}).write_text(os.environ[{STORAGE_VARIABLE!r}])"
    crew = SlurmCrew([sys.executable, "-c", code], 1, {"cluster": "local"}, tmp_path / "logs")
    crew.watch(0)
    until = time.monotonic() + 120
    while not (tmp_path / "got").exists() and time.monotonic() < until:
        time.sleep(0.1)
    crew.end()
    assert (tmp_path / "got").read_text() == ADDRESS
    written = [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    assert written and not [path for path in written if SECRET.encode() in path.read_bytes()]
