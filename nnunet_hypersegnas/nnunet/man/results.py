"""The numbers of an analysis: tables as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_hypersegnas.architectures import ScalarStatistics
from nnunet_hypersegnas.atomic import write_json, write_text
from nnunet_hypersegnas.nnunet.architecture_files import FoundArchitecture
from nnunet_hypersegnas.nnunet.man.maps import DeviationMap
from nnunet_hypersegnas.nnunet.schedule import Schedule
from nnunet_hypersegnas.nnunet.supernet_checkpoint import SuperNetRecord

Rows = list[dict[str, str]]
CONVENTION = (
    "Scalars are in (0, 2), twice the paper's: there the fixed scalar is 0.5, here 1. So are distances, over all "
    "c_tot scalars of the space, before lambda (Eq. 5)."
)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Means of one quantity with and without foreground; NaN where there is nothing of one kind."""

    foreground: float
    background: float

    @property
    def ratio(self) -> float:
        return self.foreground / self.background if self.background else float("nan")

    @classmethod
    def of(cls, values: np.ndarray, foreground: np.ndarray) -> Contrast:
        """Sum up values, of any shape, some of which are foreground."""
        return cls(foreground=_mean(values[foreground]), background=_mean(values[~foreground]))

    def to_json(self) -> dict[str, float]:
        return {**asdict(self), "ratio": self.ratio}


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One map's numbers.

    Attributes:
        patches: means over patches with and without foreground.
        voxels: over the voxels that are foreground, and over the others.
        correlation: Pearson's r, over patches, with the share of foreground in them; NaN where either is constant. It
            tells something also where every patch has some.
    """

    patches: Contrast
    voxels: Contrast
    correlation: float

    @classmethod
    def of(cls, found: DeviationMap, share: np.ndarray, foreground: np.ndarray) -> Deviation:
        """Sum up a map.

        Args:
            found: the map.
            share: of foreground in each patch, shape (n,).
            foreground: which voxels are.
        """
        return cls(
            patches=Contrast.of(found.of_patches, share > 0),
            voxels=Contrast.of(found.of_voxels, foreground),
            correlation=_correlation(found.of_patches, share),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "patches": self.patches.to_json(),
            "voxels": self.voxels.to_json(),
            "correlation_with_foreground": self.correlation,
        }


@dataclass(frozen=True, kw_only=True)
class CaseNumbers:
    """What is kept of a case.

    Attributes:
        case: its name.
        patches: how many.
        foreground_patches: how many of them show some foreground.
        deviations: of Eq. 6 ("image") and of Eq. 7 ("architecture").
    """

    case: str
    patches: int
    foreground_patches: int
    deviations: Mapping[str, Deviation]

    def to_json(self) -> dict[str, Any]:
        return {
            "case": self.case,
            "patches": self.patches,
            "foreground_patches": self.foreground_patches,
            "deviations": {name: found.to_json() for name, found in self.deviations.items()},
        }


@dataclass(frozen=True, kw_only=True)
class ManResults:
    """Everything that is known.

    Attributes:
        where: what was looked at, by name: data set, plans, checkpoint, stride, ...
        record: of the super-net.
        architectures: the two that were compared.
        cases: in order.
        statistics: of the scalars, over all cases.
    """

    where: Mapping[str, Any]
    record: SuperNetRecord
    architectures: tuple[FoundArchitecture, FoundArchitecture]
    cases: Sequence[CaseNumbers]
    statistics: ScalarStatistics

    def case_rows(self) -> Rows:
        """Return a row for each case and map, and of several cases their means.

        The claim of section 4.2 is a ratio well above 1.
        """
        values = self._case_values()
        names = ("image", "architecture")
        if len(self.cases) > 1:
            for name in names:
                of_map = [row for row in values if row["map"] == name]
                numbers = {
                    key: _nanmean([row[key] for row in of_map]) for key in of_map[0] if key not in ("case", "map")
                }
                values.append({"case": f"mean of {len(of_map)}", "map": name, **numbers})
        return [
            {
                "case": row["case"],
                "map": row["map"],
                "patches": f"{row['patches']:.0f}",
                "with foreground": f"{row['foreground_patches']:.0f}",
                "mean with": _number(row["foreground_patches_mean"]),
                "mean without": _number(row["background_patches_mean"]),
                "ratio": _number(row["patches_ratio"], 2),
                "r with foreground": _number(row["correlation_with_foreground"], 2),
                "foreground voxels": _number(row["foreground_voxels_mean"]),
                "other voxels": _number(row["background_voxels_mean"]),
                "their ratio": _number(row["voxels_ratio"], 2),
            }
            for row in values
        ]

    def layer_rows(self) -> Rows:
        """Return a row for each layer."""
        return [
            {
                "layer": f"{layer.layer}",
                "scalars": f"{layer.scalars}",
                "mean": _number(layer.mean),
                "sd": _number(layer.sd),
                "min": _number(layer.least),
                "max": _number(layer.most),
                "saturated": f"{layer.saturated:.1%}",
                "spread over images": _number(layer.spread_images, 4),
                "over architectures": _number(layer.spread_architectures, 4),
            }
            for layer in self.statistics.layers
        ]

    def notes(self) -> list[str]:
        """Return what to know of this super-net and these numbers."""
        first, second = self.architectures
        notes = [
            f"Image deviation (Eq. 6) under {first.name} ({first.architecture.id}); architecture deviation (Eq. 7) "
            f"between it and {second.name} ({second.architecture.id}).",
            CONVENTION,
        ]
        settings, whole = self.record.settings, Schedule.from_settings(self.record.settings).iterations
        if self.record.iteration < whole:
            notes.append(
                f"The training is not finished: iteration {self.record.iteration} of {whole}, lambda "
                f"{self.record.annealing_lambda:.3f}."
            )
        elif settings.annealing == "linear":
            notes.append("MAN was annealed away and takes no part in predictions; these are its last weights' scalars.")
        elif settings.annealing == "at once":
            notes.append("MAN took part in all of the training, and takes none in predictions.")
        if settings.man == "image":
            notes.append("This MAN is told the image alone, so that architectures make no difference.")
        if any(case.foreground_patches == case.patches for case in self.cases):
            notes.append(
                "Where all patches show foreground there is no ratio of patches; r, Pearson's, with the share of "
                "foreground in a patch, and voxels, each the mean over the patches that cover it, still tell some."
            )
        warning = self.statistics.warning(told_architecture=settings.man != "image")
        if warning:
            notes.append(f"WARNING: {warning}")
        return notes

    def write(self, folder: Path) -> list[Path]:
        """Write every number as JSON, and both tables as CSV; return the paths."""
        paths = [folder / name for name in ("statistics.json", "deviations.csv", "layers.csv")]
        write_json(paths[0], _finite(self.to_json()))
        write_text(paths[1], _csv(self._case_values()))
        write_text(paths[2], _csv([asdict(layer) for layer in self.statistics.layers]))
        return paths

    def to_json(self) -> dict[str, Any]:
        return {
            **self.where,
            "iteration": self.record.iteration,
            "lambda": self.record.annealing_lambda,
            "architectures": [{"name": one.name, **one.architecture.to_json()} for one in self.architectures],
            "notes": self.notes(),
            "cases": [case.to_json() for case in self.cases],
            "scalars": self.statistics.to_json(),
        }

    def _case_values(self) -> list[dict[str, Any]]:
        return [
            {
                "case": case.case,
                "map": name,
                "patches": case.patches,
                "foreground_patches": case.foreground_patches,
                **{f"{key}_patches_mean": getattr(found.patches, key) for key in ("foreground", "background")},
                "patches_ratio": found.patches.ratio,
                "correlation_with_foreground": found.correlation,
                **{f"{key}_voxels_mean": getattr(found.voxels, key) for key in ("foreground", "background")},
                "voxels_ratio": found.voxels.ratio,
            }
            for case in self.cases
            for name, found in case.deviations.items()
        ]


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=float)) if values.size else float("nan")


def _nanmean(values: Sequence[float]) -> float:
    return _mean(np.array([value for value in values if not math.isnan(value)]))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else float("nan")


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _finite(value: Any) -> Any:
    """Return JSON-able content with None in place of numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
