"""Short names of contents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(*values: Any) -> str:
    """Return a short name of JSON-able values, the same on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def file_digest(path: Path) -> str:
    """Return a short name of a file's content."""
    result = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            result.update(block)
    return result.hexdigest()[:12]
