"""Files of torch: only tensors and plain data are read, nothing in a file is run, and files are written whole."""

from __future__ import annotations

import errno
import io
import re
import warnings
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from nnunet_hypersegnas.atomic import written_atomically
from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated

OF_THE_SYSTEM = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ESTALE}  # not of what is in a file
MOST_SHOWN = 300  # characters of what torch or a file says
# nnU-Net's log holds numbers of NumPy, and a file names what makes them; NumPy 1 had the function elsewhere.
SCALAR = np.float64(0).__reduce__()[0]
ARRAY = np.zeros(1).__reduce__()[0]
NUMBERS = {number for number in np.sctypeDict.values() if issubclass(number, (np.number, np.bool_))}
ALLOWED = [
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
    *((ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("_core", "core")),
    np.dtype,
    np.ndarray,
    *(type(np.dtype(number)) for number in NUMBERS),
]
ALLOWED_NAMES = {"numpy.dtype", "numpy.ndarray"} | {
    f"numpy.{core}.multiarray.{name}" for core in ("_core", "core") for name in ("scalar", "_reconstruct")
}


class CheckpointError(HyperSegNASError):
    """A checkpoint that is missing, holds what it may not, or does not fit what it is asked for."""


def load_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Load a file of nnU-Net's or of ours on the CPU.

    Args:
        path: of the file.
        mmap: leave the weights in the file, for whoever does not read them.

    Raises:
        CheckpointError: there is no such file, it is truncated or none of torch's, it holds more than tensors and plain
            data, which could run code, or no dictionary.
    """
    try:
        with safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a pickle's version; what cannot be read is said below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zipfile(path))
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; see that its name is right") from None
    except Exception as error:  # torch raises whatever pickle and zip do
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in OF_THE_SYSTEM:
            raise
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, a checkpoint is a dictionary; name a file that nnU-Net or this "
            "package wrote"
        )
    return content


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain data atomically, creating the folder.

    Raises:
        OSError: the disk is full, for example.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)  # straight to a full disk, torch would raise an error that does not say so
    with written_atomically(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _unreadable(path: str | Path, error: Exception) -> CheckpointError:
    if names := _disallowed(path, error):
        return CheckpointError(
            f"{path} holds {abbreviated(', '.join(names), MOST_SHOWN)}, which is neither a tensor nor plain data and "
            "could run code, so the file was not read; use a checkpoint that nnU-Net or this package wrote, or, if you "
            "know where this one comes from, nnU-Net's own commands, which read anything"
        )
    # Of torch's long text, what follows these words is about the file, and the rest is advice to run what is in it.
    reason = (str(error).rpartition("WeightsUnpickler error:")[2].strip() or "it ends early").splitlines()[0]
    return CheckpointError(
        f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason[:MOST_SHOWN]}); restore it from a "
        "copy, or train anew"
    )


def _disallowed(path: str | Path, error: Exception) -> list[str]:
    """Return the names of what a file would call and may not."""
    try:
        names = set(get_unsafe_globals_in_checkpoint(path)) - ALLOWED_NAMES
    except Exception:  # it is no zip file, but torch's older format or something else
        names = set(re.findall(r"GLOBAL ([\w.]+)", str(error)))
    return sorted(names)
