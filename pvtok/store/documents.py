"""JSON documents: strict parsing, one way to write them, typed access to what is in them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

Document = dict[str, Any]
"""A parsed JSON object, not yet checked."""

MAX_BYTES = 64 * 2**20
"""No honest metadata file is larger; a hostile one is not read into memory."""


def dump(document: Mapping[str, Any]) -> bytes:
    """The bytes of a metadata file: indented as Zarr tools do, keys in the order given.

    Raises:
        ValueError, TypeError: the document holds NaN, infinity or something JSON does not know.
    """
    return json.dumps(document, indent=2, allow_nan=False).encode()


def digest(document: object) -> str:
    """SHA-256 (hex) of a document's canonical JSON: sorted keys, no blanks."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """`value` as it will be after a trip through JSON, keys sorted (tuples become lists, ...)."""
    return json.loads(json.dumps(value, sort_keys=True, allow_nan=False))


def parse(data: bytes) -> Document:
    """Parse a JSON object.

    Raises:
        ValueError: not UTF-8, not JSON, not an object, or a number that is not finite.
    """
    try:
        document = json.loads(
            data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError(f"a JSON object was expected, not {type(document).__name__}")
    return document


def read(path: Path) -> Document:
    """Parse a JSON file.

    Raises:
        ValueError: see `parse`; also a file too large to be metadata.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes are too many for metadata (at most {MAX_BYTES})")
    return parse(path.read_bytes())


def take(document: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """The value under `key`, which must be of type `kind` (a bool is not an int).

    Raises:
        ValueError: the key is missing or its value of another type.
    """
    if key not in document:
        raise ValueError(f"{key!r} is missing")
    value = document[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key!r} must be {kind.__name__}, not {shown(value)}")
    return value


def shown(value: object, limit: int = 60) -> str:
    """`repr(value)`, shortened for a one-line message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is not finite")
    return value
