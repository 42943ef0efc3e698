"""Folders of segmentations: which prediction belongs to which reference."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nnunet_hypersegnas.errors import MOST_SHOWN, FaultsError, HyperSegNASError, abbreviated
from nnunet_hypersegnas.evaluation.images import ENDINGS
from nnunet_hypersegnas.evaluation.scoring import Pair


class FoldersError(HyperSegNASError):
    """Folders without segmentations."""


def file_ending_of(folder: Path) -> str:
    """Return the ending of the segmentations in a folder.

    Raises:
        FoldersError: it has none, or several.
    """
    if not folder.is_dir():
        raise FoldersError(f"there is no folder {folder}")
    names = [path.name for path in folder.iterdir() if path.is_file()]
    found = {next((ending for ending in ENDINGS if name.endswith(ending)), None) for name in names} - {None}
    if len(found) != 1:
        raise FoldersError(
            f"{folder} holds {'files of several formats' if found else 'no segmentations'} "
            f"({', '.join(sorted(map(str, found))) or 'known are ' + ', '.join(ENDINGS)}); give the folder with the "
            "segmentations of one format"
        )
    return str(found.pop())


def cases_in(folder: Path, ending: str) -> list[str]:
    """Return the cases that have a file in a folder."""
    return sorted(
        path.name.removesuffix(ending)
        for path in folder.iterdir()
        if path.name.endswith(ending) and not path.name.startswith(".")
    )


def name_some(cases: Collection[str], most: int = 5) -> str:
    """Name cases, and count them where they are many."""
    shown = ", ".join(name if _is_short(name) else abbreviated(name) for name in sorted(cases)[:most])
    return shown if len(cases) <= most else f"{len(cases)} cases: {shown}, ..."


def _is_short(name: str) -> bool:
    return name.isprintable() and len(name) <= MOST_SHOWN


def pairs_in(predictions: Path, references: Path, *, chill: bool = False) -> list[Pair]:
    """Pair the predictions of a folder with the references of another one.

    Args:
        predictions, references: folders; a case has the same file name in both.
        chill: references without a prediction are no fault (nnU-Net's word for it).

    Raises:
        FoldersError: one of them has no segmentations.
        FaultsError: saying which cases one of them lacks.
    """
    ending = file_ending_of(references)
    file_ending_of(predictions)
    predicted, known = set(cases_in(predictions, ending)), set(cases_in(references, ending))
    faults = []
    if predicted - known:
        faults.append(f"{references} has no {ending} file for {name_some(predicted - known)}")
    if known - predicted and not chill:
        faults.append(f"{predictions} has no {ending} file for {name_some(known - predicted)}")
    if faults:
        raise FaultsError(f"{predictions} and {references} do not have the same cases", faults)
    return [
        Pair(case=case, prediction=predictions / f"{case}{ending}", reference=references / f"{case}{ending}")
        for case in sorted(predicted)
    ]
