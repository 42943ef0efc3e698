"""Folders of a model's predictions, and a record of what made them, which names of files do not tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.evaluation.folders import cases_in
from nnunet_hypersegnas.evaluation.nifti import check_whole
from nnunet_hypersegnas.evaluation.unreadable import CutOffError, UnreadableImageError
from nnunet_hypersegnas.json_files import read_object
from nnunet_hypersegnas.nnunet.set_aside import set_aside

ENDING = ".nii.gz"


class PredictionsError(HyperSegNASError):
    """Predictions of another model, or of one that nobody knows, are in the way."""


@dataclass(frozen=True, kw_only=True)
class PredictionFolders:
    """Where predictions of a task are kept.

    Attributes:
        final: folder of those that are postprocessed.
        maker: what says which model makes them, as JSON; what is not known yet is left away.
    """

    final: Path
    maker: Mapping[str, Any]

    @property
    def before(self) -> Path:
        """The folder of those that are not postprocessed."""
        return self.final.with_name("before_postprocessing") / self.final.name

    @property
    def record(self) -> Path:
        return self.final.with_name(f"{self.final.name}.json")

    def check(self) -> None:
        """Raise PredictionsError where these folders hold predictions that this model did not make."""
        held = [folder for folder in (self.before, self.final) if folder.is_dir() and cases_in(folder, ENDING)]
        if not held:
            return
        todo = "choose another folder with -o, or remove them"
        where = " and ".join(map(str, held))
        if not self.record.exists():
            raise PredictionsError(f"{where}: predictions of which no {self.record} says what made them; {todo}")
        before = read_object(self.record)
        changes = [
            f"{name} {_in_words(before.get(name))} there, {_in_words(value)} now"
            for name, value in self.maker.items()
            if before.get(name) != value
        ]
        if changes:
            raise PredictionsError(f"{where}: predictions of another model ({'; '.join(changes)}); {todo}")

    def claim(self) -> None:
        """Check that the folders are this model's, and keep what makes the predictions."""
        self.check()
        write_json(self.record, dict(self.maker))

    def are_predicted(self, folder: Path, cases: list[str]) -> bool:
        """Whether a folder has these cases of this model, each file with its end."""
        try:
            self.check()
            for case in cases:
                check_whole(folder / f"{case}{ENDING}")
        except (PredictionsError, UnreadableImageError):
            return False
        return True


def remove_broken(folder: Path) -> None:
    """Move aside what an interrupted prediction left half written, which nnU-Net would take for done.

    Raises:
        PredictionsError: a file cannot be read although it is not cut off, so that it may be anything.
    """
    for case in cases_in(folder, ENDING) if folder.is_dir() else []:
        path = folder / f"{case}{ENDING}"
        try:
            check_whole(path)
        except CutOffError:
            set_aside(path, "is cut off")
        except UnreadableImageError as error:
            raise PredictionsError(f"{path}: {error}; it is kept, so move it away, and call again") from error


def _in_words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
