"""DSC and NSD of predicted segmentations, case by case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from math import nan, prod
from pathlib import Path

import numpy as np

from nnunet_hypersegnas.errors import FaultsError
from nnunet_hypersegnas.evaluation.images import Segmentation, label_faults, read_segmentation
from nnunet_hypersegnas.evaluation.pool import in_processes
from nnunet_hypersegnas.evaluation.structures import LabelSet, Structure
from nnunet_hypersegnas.evaluation.surfaces import surface_dice
from nnunet_hypersegnas.evaluation.unreadable import UnreadableImageError

MM3_PER_ML = 1000.0
NNUNETS_SPACING = (1.0, 1.0, 1.0)  # of what has none


class EmptyReference(Enum):
    """What a structure counts that a case does not have, where something was predicted nevertheless."""

    LEFT_OUT = "left-out"  # as the Medical Segmentation Decathlon's leaderboard has it
    ZERO = "zero"  # as nnU-Net has it


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How segmentations are scored.

    Attributes:
        labels: structures of the data set; None takes every label that a case has.
        tolerance_mm: of NSD, in mm; None leaves NSD out.
        empty_reference: see there. A structure that is neither there nor predicted is left out by both.
    """

    labels: LabelSet | None
    tolerance_mm: float | None
    empty_reference: EmptyReference = EmptyReference.LEFT_OUT


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prediction and what it is compared with."""

    case: str
    prediction: Path
    reference: Path
    fold: int | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a structure of a case was found; `dsc` and `nsd` are NaN where it is left out."""

    fold: int | None
    case: str
    structure: str
    dsc: float
    nsd: float
    reference_ml: float
    predicted_ml: float


def score_pairs(
    pairs: Sequence[Pair], scoring: Scoring, processes: int, on_done: Callable[[], object] = lambda: None
) -> list[Score]:
    """Score predictions in several processes.

    Args:
        pairs: what is compared.
        scoring: how.
        processes: how many.
        on_done: called after each case.

    Returns:
        In the order of the pairs, structure by structure.

    Raises:
        FaultsError: naming everything that is wrong with any of the files.
    """
    results = in_processes(partial(score_pair, scoring=scoring), pairs, processes, on_done)
    faults = [f"{pair.case}: {fault}" for pair, (_, wrong) in zip(pairs, results, strict=True) for fault in wrong]
    if faults:
        raise FaultsError(
            f"{sum(bool(wrong) for _, wrong in results)} of {len(pairs)} cases cannot be scored", sorted(faults)
        )
    return [score for scores, _ in results for score in scores]


def score_pair(pair: Pair, scoring: Scoring) -> tuple[list[Score], list[str]]:
    """Return the scores of one case, or what is wrong with its files."""
    found: dict[str, Segmentation] = {}
    faults = []
    for name, path in (("prediction", pair.prediction), ("reference", pair.reference)):
        try:
            found[name] = read_segmentation(path)
        except UnreadableImageError as error:
            faults.append(f"{name} {path}: {error}")
            continue
        allowed = scoring.labels.values if scoring.labels else None
        if name == "reference" and scoring.labels and scoring.labels.ignored is not None:
            allowed = scoring.labels.values | {scoring.labels.ignored}
        faults += [f"{name} {path} has {fault}" for fault in label_faults(found[name].labels, allowed)]
    if len(found) == 2:
        differences = found["reference"].geometry.differences(found["prediction"].geometry)
        faults += [f"prediction {pair.prediction} has {difference}" for difference in differences]
        spacing_mm = found["reference"].geometry.spacing_mm(found["prediction"].geometry)
        if spacing_mm is None and scoring.tolerance_mm is not None:
            faults.append(
                f"neither {pair.reference} nor {pair.prediction} has a voxel size, for the tolerance in mm: no "
                "JSON file beside it says its 'spacing'"
            )
    if faults:
        return [], faults
    truth, guess = found["reference"].labels, found["prediction"].labels
    return _scores(pair, truth, guess, (spacing_mm or NNUNETS_SPACING)[::-1], scoring), []


def _scores(
    pair: Pair, truth: np.ndarray, guess: np.ndarray, spacing_mm: tuple[float, ...], scoring: Scoring
) -> list[Score]:
    """Score label maps of shape (Z, Y, X), with the voxel size along these axes."""
    if scoring.labels and scoring.labels.ignored is not None:
        counts = truth != scoring.labels.ignored
        truth, guess = np.where(counts, truth, 0), np.where(counts, guess, 0)
    if scoring.labels:
        structures: Sequence[Structure] = scoring.labels.structures
    else:
        values = sorted({int(v) for v in np.union1d(np.unique(truth), np.unique(guess))} - {0})
        structures = [Structure(str(value), (value,)) for value in values]
    scores = []
    for structure in structures:
        there, predicted = structure.mask(truth), structure.mask(guess)
        n_there, n_predicted = int(np.count_nonzero(there)), int(np.count_nonzero(predicted))
        dsc = nsd = nan
        if n_there or (n_predicted and scoring.empty_reference is EmptyReference.ZERO):
            dsc = 2 * int(np.count_nonzero(there & predicted)) / (n_there + n_predicted)
            if scoring.tolerance_mm is not None:
                nsd = surface_dice(there, predicted, spacing_mm, scoring.tolerance_mm)
        ml = prod(spacing_mm) / MM3_PER_ML
        scores.append(
            Score(
                fold=pair.fold,
                case=pair.case,
                structure=structure.name,
                dsc=dsc,
                nsd=nsd,
                reference_ml=n_there * ml,
                predicted_ml=n_predicted * ml,
            )
        )
    return scores
