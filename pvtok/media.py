"""Finding videos and images: files, folders and manifests."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pvtok.errors import UsageError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".m2ts", ".mts"}
    | {".flv", ".ogv", ".wmv", ".3gp"}
)
"""By which videos are known in a folder. A file that is named itself may be called anything."""

MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl", ".txt"})

_COLUMNS = ("path", "file", "video", "image")
_TRAIN = frozenset({"", "train", "training"})
_HELD_OUT = frozenset({"val", "valid", "validation"})


class Media(NamedTuple):
    """A file, and whether a manifest reserves it for validation."""

    path: Path
    held_out: bool


def find_media(
    names: Sequence[str], suffixes: Collection[str], kind: str, *, key: str = ""
) -> list[Media]:
    """The files that `names` stand for, each once, in an order that depends on the names alone.

    Args:
        names: files; folders, searched in depth for files with one of `suffixes` (hidden ones are
            left out); and manifests. A manifest is a .txt of one path a line, or a .csv or .jsonl
            with a column `path`, `file`, `video` or `image` and perhaps a column `split`, of which
            "train" (or nothing) is to be trained on, "val" is held out, and the rest is left out.
            Its relative paths start at the manifest.
        kind: what is looked for, for messages: "videos" or "images".
        key: of the configuration that holds `names`, if one does: for messages, too.

    Raises:
        UsageError: a name of nothing, a folder with nothing of the kind in it, a manifest that
            cannot be read or that names files which are not there.
    """
    found: dict[Path, Media] = {}
    for name in names:
        path = Path(name).expanduser()
        for media in _expand(path, suffixes, kind, key):
            # One file under two names is one file, and held out if any name says so.
            file = media.path.resolve()
            known = found.get(file)
            if known is None:
                found[file] = media
            elif media.held_out:
                found[file] = known._replace(held_out=True)
    return list(found.values())


def _expand(path: Path, suffixes: Collection[str], kind: str, key: str) -> list[Media]:
    if path.is_dir():
        inside = sorted(_walk(path, suffixes))
        if not inside:
            shown = " ".join(sorted(suffixes))
            raise UsageError(f"no {kind} in {str(path)!r}", why=f"searched in depth for {shown}")
        return [Media(file, held_out=False) for file in inside]
    if not path.is_file():
        raise UsageError(
            f"{str(path)!r} is neither a file nor a folder",
            why=f"named for {kind}",
            fix=f"In a configuration it is {key}: --set {key}=FOLDER." if key else "",
        )
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        return [Media(path, held_out=False)]
    listed = list(_rows(path))
    missing = [m.path for m in listed if not m.path.is_file()]
    if missing:
        raise UsageError(
            f"the manifest {str(path)!r} names {len(missing)} files that are not there",
            why=f"the first is {str(missing[0])!r}",
            fix="Relative paths start at the manifest's folder.",
        )
    if not listed:
        raise UsageError(f"the manifest {str(path)!r} names no {kind}")
    return listed


def _walk(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file():
            yield file


def _rows(manifest: Path) -> Iterator[Media]:
    try:
        lines = manifest.read_text(encoding="utf-8-sig").splitlines()
        suffix = manifest.suffix.lower()
        rows: Iterable[object]
        if suffix == ".csv":
            rows = csv.DictReader(lines)
        elif suffix == ".jsonl":
            rows = [json.loads(line) for line in lines if line.strip()]
        else:
            rows = [{"path": line.strip()} for line in lines if line.strip()]
        for number, row in enumerate(rows, start=1):
            name, split = _fields(row)
            if not name:
                raise ValueError(f"entry {number} has no {', '.join(map(repr, _COLUMNS))}")
            if split in _TRAIN or split in _HELD_OUT:
                yield Media(manifest.parent / name, split in _HELD_OUT)
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot use the manifest {str(manifest)!r}", why=why) from error


def _fields(row: object) -> tuple[str, str]:
    """Name and split of a manifest's entry; no name if it has none."""
    if not isinstance(row, dict):
        return "", ""
    name = next((row[column] for column in _COLUMNS if row.get(column)), "")
    split = row.get("split") or ""
    return (name if isinstance(name, str) else ""), str(split).strip().lower()
