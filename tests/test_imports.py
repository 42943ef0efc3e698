"""Imports point one way: each room imports itself and the rooms named here, nothing else of ours."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "nnunet_hypersegnas"

EVERYWHERE = {"errors", "atomic", "environment", "json_files", "search_settings", "__version__"}
LIBRARY = {"space", "architectures", "cost", "search", "evaluation", "nnunet", "report"}
MAY_IMPORT = {
    "errors": set(),
    "atomic": set(),
    "environment": {"errors"},
    "json_files": {"errors"},
    "search_settings": set(),
    "space": set(),
    "architectures": {"space"},
    "cost": {"space", "architectures"},
    "search": {"space", "architectures", "cost"},
    "evaluation": {"space"},
    "nnunet": {"space", "architectures", "cost", "search", "evaluation"},
    "report": {"space", "architectures", "cost", "search"},
    "trainers": {"space", "architectures", "nnunet", "report"},
    "demo": LIBRARY,
    "cli": LIBRARY | {"demo"},
}
NNUNET_ROOMS = {"trainers", "nnunet"}


def sources() -> Iterator[tuple[str, Path]]:
    """Yield every source file with its room; the shim in nnunet_ext belongs to nnU-Net's side of the fence."""
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        room = path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path
    for room in ("architectures", "trainers"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.parent.name != "nnunet_ext":
                yield room, path


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: spell the full dotted name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("room", "path"), list(sources()), ids=lambda value: str(value).removeprefix(f"{ROOT}/"))
def test_imports_point_one_way(room: str, path: Path) -> None:
    names = list(imported(path))
    ours = {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    assert ours <= MAY_IMPORT[room] | EVERYWHERE | {room}
    if room not in NNUNET_ROOMS:
        assert not [name for name in names if name.split(".")[0] == "nnunetv2"]


def test_space_and_search_need_no_heavy_library() -> None:
    """Only the encodings of `space` know tensors, and the search knows none at all."""
    for room, path in sources():
        if room == "search" or (room == "space" and path.name != "encoding.py"):
            assert not [name for name in imported(path) if name.split(".")[0] == "torch"], path
