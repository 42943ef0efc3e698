"""Fixtures of other rooms: a PostgreSQL server for searches that are killed, predictions for a submission."""

from tests.cli.test_msd_submission import data, predictions  # noqa: F401
from tests.search.conftest import postgres_server, postgres_url  # noqa: F401
