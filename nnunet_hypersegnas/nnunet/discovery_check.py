"""Whether nnU-Net will find the trainers, checked the way nnU-Net itself looks for them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from nnunet_hypersegnas.nnunet.discovery import TRAINER, VARIABLE, entries_of, external_trainer_folder, holds

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SUPPORTED = (2, 8)


class Finding(NamedTuple):
    """One thing that was checked, in plain words, with what to do where it is wrong."""

    ok: bool
    text: str


def check_discovery() -> list[Finding]:
    """Return all findings; nnU-Net finds the trainers when every one is ok."""
    return [*_check_version(), *_check_folders(), *_check_variable(), *_check_lookup()]


def _check_version() -> Iterator[Finding]:
    try:
        found = version("nnunetv2")
    except PackageNotFoundError:
        yield Finding(False, "nnU-Net is not installed; pip install 'nnunetv2>=2.8,<2.9'")
        return
    ok = tuple(int(part) for part in found.split(".")[:2]) == SUPPORTED
    yield Finding(ok, f"nnU-Net {found}" + ("" if ok else "; supported is 2.8: pip install 'nnunetv2>=2.8,<2.9'"))


def _check_folders() -> Iterator[Finding]:
    for name in FOLDERS:
        value = os.environ.get(name)
        if not value:
            yield Finding(False, f"{name} is not set; export {name}=/your/folder, as nnU-Net's documentation explains")
        elif not Path(value).is_dir():
            yield Finding(False, f"{name} names {value}, which is no folder; create it or correct the variable")
        elif not os.access(value, os.W_OK):
            yield Finding(False, f"{name} names {value}, which cannot be written to; correct its permissions")
        else:
            yield Finding(True, f"{name} is {value}")


def _check_variable() -> Iterator[Finding]:
    folder = external_trainer_folder()
    cure = 'run: eval "$(hsnas_env)"'
    value = os.environ.get(VARIABLE)
    if not value:
        yield Finding(False, f"{VARIABLE} is not set, so nnU-Net looks for trainers in its own folder only; {cure}")
        return
    entries = entries_of(value)
    for entry in entries:
        if not Path(entry).is_dir():
            yield Finding(False, f"{VARIABLE} names {entry}, which is no folder; nnU-Net skips it without a word")
    ours = holds(entries, folder)
    yield Finding(
        ours, f"{VARIABLE} {'holds' if ours else 'lacks'} our folder {folder}" + ("" if ours else f"; {cure}")
    )


def _check_lookup() -> Iterator[Finding]:
    try:
        import torchvision  # noqa: F401  (nnU-Net's lookup imports all its trainers, and one of them needs it)
    except Exception as error:  # a build for another torch fails in many ways
        yield Finding(
            False,
            f"torchvision does not work beside the installed torch ({error}), and nnU-Net's trainer lookup needs it; "
            "install torch and torchvision from the same index, see 'Troubleshooting' in the README",
        )
        return
    try:
        with redirect_stdout(io.StringIO()):
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

            found = recursive_find_trainer_class_by_name(TRAINER)
    except (Exception, SystemExit) as error:  # the lookup runs every module in every folder that the variable names
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        yield Finding(False, f"nnU-Net does not find {TRAINER}: {reason[:300]}")
        return
    ours = found.__module__.startswith("nnunet_hypersegnas.trainers.")
    cure = "" if ours else f", which is not ours; take its folder out of {VARIABLE} or put ours first"
    yield Finding(ours, f"nnU-Net finds {found.__module__}.{found.__name__}{cure}")
