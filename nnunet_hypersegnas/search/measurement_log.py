"""What was measured of architectures, one line a piece, so that an interrupted run goes on where it stood."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space import Architecture


class LogError(HyperSegNASError):
    """A log that holds something else."""


class _Recordable(Protocol):
    def to_json(self) -> dict[str, Any]: ...


V = TypeVar("V", bound=_Recordable)


class MeasurementLog(Generic[V]):
    """Values, such as costs, by stage and architecture in an append-only JSON-lines file.

    A stage's name holds everything its values depend on (device, versions, plans, ...), so a run with other
    arguments can share the file and never reads a value that does not apply.

    Args:
        path: the file; it appears with the first value.
        name: what the values are called in it.
        read: makes a value of what its `to_json` gave.

    Raises:
        LogError: naming the first line that is no measurement.
    """

    def __init__(self, path: Path, name: str, read: Callable[[Mapping[str, Any]], V]) -> None:
        self.path, self.name = path, name
        self._values: dict[tuple[str, str], V] = {}
        if not path.exists():
            return
        self._drop_torn_line()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                record = json.loads(line)
                self._values[record["stage"], record["architecture"]["id"]] = read(record[name])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise LogError(
                    f"line {number} of {path} holds no {name} of an architecture ({type(error).__name__}: {error}); "
                    "delete that line, and it is measured again"
                ) from error

    def get(self, stage: str, architecture: Architecture) -> V | None:
        return self._values.get((stage, architecture.id))

    def add(self, stage: str, architecture: Architecture, value: V) -> None:
        record = {"stage": stage, "architecture": architecture.to_json(), self.name: value.to_json()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._values[stage, architecture.id] = value

    def _drop_torn_line(self) -> None:
        """Cut off a last line that a kill or a full disk left unfinished; its measurement is simply done again."""
        with self.path.open("rb+") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
