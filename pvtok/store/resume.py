"""What must be the same for an encode to go on where it stopped, and saying what is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pvtok.errors import ModelMismatchError, StoreError
from pvtok.store.documents import Document, plain, shown
from pvtok.store.header import Header
from pvtok.store.layout import Layout
from pvtok.store.meta import StoreMeta


def resume_key(meta: StoreMeta, layout: Layout) -> Document:
    """Everything that decides the bytes of a store apart from its latents: model, source,
    settings, layout. Kept in the clear, so that a mismatch can be named."""
    key: Document = plain({**meta.to_document(), "layout": asdict(layout)})
    return key


def require_same(folder: Path, begun: Document, asked: Document) -> None:
    """Refuse to go on with another encode than the one begun in `folder`.

    Raises:
        ModelMismatchError: the model differs.
        StoreError: something else differs.
    """
    differing = dict(_differences(begun, asked))
    if not differing:
        return
    kind = ModelMismatchError if "model.sha256" in differing else StoreError
    raise kind(
        f"{folder} was begun with other inputs or settings",
        why=_listed(differing),
        fix="Resume with the same ones, or start afresh with --overwrite.",
    )


def finished_difference(header: Header, meta: StoreMeta, layout: Layout) -> str:
    """How a finished store differs from the one asked for; "" if it is the same encode.

    The version of the tool is no difference here: nothing would be mixed.
    """
    there = resume_key(header.meta, header.layout)
    asked = resume_key(meta, layout.fitted(header.latents))
    differing = dict(_differences(there, asked))
    differing.pop("tool_version", None)
    return _listed(differing)


def _listed(differing: Mapping[str, tuple[Any, Any]], limit: int = 3) -> str:
    parts = [f"{name} was {shown(a)}, now {shown(b)}" for name, (a, b) in differing.items()]
    more = [f"and {len(parts) - limit} more"] if len(parts) > limit else []
    return "; ".join(parts[:limit] + more)


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Dotted names of the values that differ, with both values (None where absent)."""
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{path}{name}.")
        elif a != b:
            yield f"{path}{name}", (a, b)
