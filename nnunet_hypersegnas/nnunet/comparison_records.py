"""The file that says on what a folder of results compares: further runs go on there, others are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nnunet_hypersegnas
from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.json_files import read_object

FORMAT = 1
SUB_NETS = "sub_nets"  # key of a list that is too long to be shown where it differs


def begin_or_go_on(file: Path, record: Mapping[str, Any], what: str, error: type[HyperSegNASError]) -> None:
    """Write a record where there is none, or hold it against the one that is there.

    Args:
        file: the record's.
        record: JSON-able content.
        what: the folder holds, such as "an ablation".
        error: raised, naming what is different, where the file holds another record.
    """
    now = json.loads(json.dumps(record))
    if not file.exists():
        write_json(file, {"format": FORMAT, "package_version": nnunet_hypersegnas.__version__, **now})
        return
    before = read_object(file)
    changes = [
        f"other sub-nets ({len(before.get(key) or [])} then, {len(now[key])} now)"
        if key == SUB_NETS
        else f"{key} {before.get(key)} then, {now[key]} now"
        for key in now
        if before.get(key) != now[key]
    ]
    if changes:
        raise error(
            f"{file.parent} holds {what} with other arguments ({'; '.join(changes)}); choose another --output, or "
            "delete that folder"
        )
