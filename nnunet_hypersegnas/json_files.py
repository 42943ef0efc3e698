"""The one way in for JSON: a file is read, decoded and held against a schema before anything uses what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MOST_BYTES = 256 << 20  # far more than nnU-Net's largest file, and little enough for every machine
MOST_FAULTS = 3
MOST_IN_A_FAULT = 200  # characters
PLAIN_WORDS = {  # for pydantic's, which are Python's
    "a valid dictionary": "an object",
    "a valid list": "a list",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
}
T = TypeVar("T")


class JsonFileError(HyperSegNASError):
    """A JSON file that is missing, cannot be read, or holds something else than is needed."""


def read_object(path: Path, advice: str = "restore it") -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        JsonFileError: saying what the file holds instead, followed by the advice.
    """
    value = _decoded(path, advice)
    if not isinstance(value, dict):
        raise JsonFileError(f"{path} holds a {type(value).__name__}, a JSON object is needed; {advice}")
    return value


def read_checked(path: Path, schema: Any, what: str, advice: str = "restore it") -> Any:
    """Read a file whose content has to meet a schema.

    Args:
        path: the file.
        schema: a type that pydantic can check; numbers are not taken from text, or whole numbers from fractions.
        what: the file is expected to be, such as "an nnU-Net plans file".
        advice: what to do about a damaged file.

    Returns:
        What the file holds, unchanged.

    Raises:
        JsonFileError: naming file, key, what was found and what is needed.
    """
    value = _decoded(path, advice)
    check(value, schema, f"{path} is not {what}", advice)
    return value


def check(value: object, schema: Any, complaint: str, advice: str = "") -> None:
    """Hold a value from a JSON file against a schema, a type that pydantic can check.

    Raises:
        JsonFileError: the complaint, followed by the keys that are wrong and the advice.
    """
    from pydantic import ValidationError

    try:
        _adapter(schema).validate_python(value, strict=True)
    except ValidationError as error:
        faults = [_fault(fault) for fault in error.errors(include_url=False)]
        more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise JsonFileError(f"{complaint}: {'; '.join(faults[:MOST_FAULTS])}{more}{advice and f'; {advice}'}") from None


def parse(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if isinstance(text, bytes):
        text = _as_text(text)
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _decoded(path: Path, advice: str) -> Any:
    try:
        if not path.is_file():
            raise JsonFileError(f"{path} is no file; {advice}" if path.exists() else f"there is no {path}")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise JsonFileError(f"{path} has {size / 1e6:.0f} MB, at most {MOST_BYTES >> 20} are read; {advice}")
        return parse(path.read_bytes())
    except ValueError as error:  # a null byte in the path is one, too
        raise JsonFileError(f"{path} is no JSON ({error}); {advice}") from None


def _as_text(content: bytes) -> str:
    """Decode as nnU-Net does, which takes UTF-8 and no byte-order mark."""
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it begins with a byte-order mark; save it as UTF-8 without one")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8; save it as UTF-8") from None


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {abbreviated(key)} is there twice")
        found[key] = value
    return found


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # a tenth of a second, which commands without files need not wait for

    return TypeAdapter(schema)


def _fault(fault: Any) -> str:
    key = ".".join(map(str, fault["loc"])) or "it"
    if fault["type"] == "missing":
        return f"it has no key {key}"
    if fault["type"] in ("too_short", "too_long"):
        context = fault["ctx"]
        bound = f"at least {context['min_length']}" if "min_length" in context else f"at most {context['max_length']}"
        return f"{key} has {context['actual_length']} items, needed are {bound}"
    needed = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    for word, plain in PLAIN_WORDS.items():
        needed = needed.replace(word, plain)
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):  # too much to show
        return needed if key == "it" else f"{key}: {needed}"
    return f"{key} is {abbreviated(fault['input'])}, needed is {needed}"


def check_lines(lines: Iterable[bytes], read: Callable[[Any], T]) -> tuple[list[T], dict[int, str]]:
    """Read JSON lines one by one, so that a damaged one costs nothing but itself.

    Args:
        lines: of a file.
        read: makes a value of what a line says; raises ValueError, KeyError, TypeError or AttributeError where the line
            says something else.

    Returns:
        The values of the good lines, and what is wrong with each of the others, by their numbers from 1.
    """
    values: list[T] = []
    faults: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        try:
            values.append(read(parse(line)))
        except (ValueError, KeyError, TypeError, AttributeError, HyperSegNASError) as error:
            faults[number] = " ".join(str(error).split())[:MOST_IN_A_FAULT]
    return values, faults
