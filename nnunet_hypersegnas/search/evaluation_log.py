"""What was evaluated, one line a piece, so that an interrupted search goes on where it stood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.space import Architecture


class EvaluationLog:
    """Scores by stage and architecture in an append-only JSON-lines file.

    A stage's name holds everything its scores depend on (super-net, data, iterations, ...), so a search with other
    arguments can share the file and never reads a score that does not apply.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._scores: dict[tuple[str, str], Score] = {}
        if path.exists():
            self._drop_torn_line()
            for line in path.read_text().splitlines():
                self._remember(json.loads(line))

    def get(self, stage: str, architecture: Architecture) -> Score | None:
        return self._scores.get((stage, architecture.id))

    def add(self, stage: str, architecture: Architecture, score: Score) -> None:
        record = {"stage": stage, "architecture": architecture.to_json(), "score": score.to_json()}
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._remember(record)

    def _remember(self, record: dict[str, Any]) -> None:
        key = record["stage"], record["architecture"]["id"]
        self._scores[key] = Score.from_json(record["score"])

    def _drop_torn_line(self) -> None:
        """Cut off a last line that a kill or a full disk left unfinished; its evaluation is simply done again."""
        file: IO[bytes]
        with self.path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
