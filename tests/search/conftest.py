"""A PostgreSQL server of the tests' own."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory):
    """Start Debian's server on loopback, for as long as the tests run; or use the one that the variable names."""
    if named := os.environ.get("HSNAS_TEST_POSTGRES"):
        yield named
        return
    found = [Path(p) for p in [shutil.which("initdb")] if p] + sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    programs = found[0].resolve().parent
    as_user = ()
    if os.getuid() == 0:  # PostgreSQL refuses to be run by root
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres that could run the server")
        as_user = ("runuser", "-u", "postgres", "--")
    folder = Path(tempfile.mkdtemp(prefix="hsnas_postgres_"))
    if as_user:
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program, *arguments):
        subprocess.run([*as_user, programs / program, *arguments], check=True, capture_output=True, cwd=folder)

    run("initdb", "-D", folder / "data", "-U", "hsnas", "--auth=trust")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    run("pg_ctl", "-D", folder / "data", "-w", "-o", options, "-l", folder / "log", "start")
    try:
        yield f"postgresql://hsnas@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server):
    """A database of its own for each test."""
    import psycopg

    name = f"test_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    yield f"{postgres_server}/{name}"
