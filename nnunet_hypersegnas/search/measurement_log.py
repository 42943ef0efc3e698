"""What was measured of architectures, one line a piece, so that an interrupted run goes on where it stood."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from nnunet_hypersegnas.json_files import check_lines
from nnunet_hypersegnas.space import Architecture

MOST_NAMED = 3


class _Recordable(Protocol):
    def to_json(self) -> dict[str, Any]: ...


V = TypeVar("V", bound=_Recordable)


class MeasurementLog(Generic[V]):
    """Values, such as costs, by stage and architecture in an append-only JSON-lines file.

    A stage's name holds everything its values depend on (device, versions, plans, ...), so a run with other
    arguments can share the file and never reads a value that does not apply. A damaged line costs its own value alone:
    it is named in a warning and stays in the file, and what it held is measured again.

    Args:
        path: the file; it appears with the first value.
        name: what the values are called in it.
        read: makes a value of what its `to_json` gave.
    """

    def __init__(self, path: Path, name: str, read: Callable[[Mapping[str, Any]], V]) -> None:
        self.path, self.name = path, name
        self._values: dict[tuple[str, str], V] = {}
        if not path.exists():
            return
        self._drop_torn_line()
        with path.open("rb") as file:
            entries, faults = check_lines(file, lambda record: self._entry(record, read))
        self._values = dict(entries)
        if faults:
            named = "; ".join(f"line {number}: {faults[number]}" for number in list(faults)[:MOST_NAMED])
            logging.getLogger(__name__).warning(
                "%s has %d damaged line(s), whose values are measured again (%s)", path, len(faults), named
            )

    def _entry(self, record: Mapping[str, Any], read: Callable[[Mapping[str, Any]], V]) -> tuple[tuple[str, str], V]:
        stage, architecture = record["stage"], record["architecture"]["id"]
        if not isinstance(stage, str) or not isinstance(architecture, str):
            raise TypeError("stage and id of the architecture have to be text")
        return (stage, architecture), read(record[self.name])

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
