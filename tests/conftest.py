"""Fixtures for all rooms, and the environment in which small CPU runs do not crawl."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("nnUNet_def_n_proc", "2")  # validation spawns that many processes; the default is 8
os.environ.setdefault("nnUNet_n_proc_DA", "0")  # augmentation in the training process
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy-waiting threads slow backward passes manyfold
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real test data (published DiNTS codes, a task of the Medical Segmentation Decathlon)."""
    folder = os.environ.get("HSNAS_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HSNAS_TEST_DATA names no folder of test data")
    return Path(folder)
