"""Seeds by purpose: a result depends on what is computed, never on when, where or in which order."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(run_seed: int, purpose: str, *identity: int | str) -> int:
    """Return a 63-bit seed that is a pure function of the run's seed, a purpose and an identity.

    Workers, their order and interruptions cannot change what is drawn, because nothing is drawn from a shared stream.
    """
    text = "\x1f".join([str(run_seed), purpose, *map(str, identity)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng_for(run_seed: int, purpose: str, *identity: int | str) -> np.random.Generator:
    """Return the random generator of one purpose, see `derive_seed`."""
    return np.random.default_rng(derive_seed(run_seed, purpose, *identity))
