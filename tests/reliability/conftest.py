"""Short trainings, and fixtures of other tests: a PostgreSQL server, predictions for a submission."""

import json

import pytest

from tests.cli.test_msd_submission import data, predictions  # noqa: F401
from tests.reliability.kills import program
from tests.search.conftest import postgres_server, postgres_url  # noqa: F401


@pytest.fixture
def short_training(demo_environment):
    """Make plans with a `hypersegnas` block, and return the command that trains their super-net on small patches."""
    written = []

    def make(name, block):
        plans = json.loads((demo_environment.preprocessed / "HyperSegNASDemoSupernet.json").read_text())
        plans["plans_name"] = name
        plans["configurations"]["3d_fullres"] |= {"hypersegnas": block, "patch_size": [16, 16, 16], "batch_size": 1}
        written.append(demo_environment.preprocessed / f"{name}.json")
        written[-1].write_text(json.dumps(plans))
        model = ["-tr", "HyperSegNASSupernetTrainer", "-p", name, "-device", "cpu"]
        return [program("nnUNetv2_train"), "999", "3d_fullres", "0", *model]

    yield make
    for path in written:
        path.unlink()
