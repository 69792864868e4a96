"""What a user may name as input."""

from __future__ import annotations

from glob import glob
from pathlib import Path

from pvtok.errors import UsageError, VideoError

VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".gif", ".m4v"}


def one_video(inputs: list[str]) -> Path:
    """The one video that the inputs name.

    Raises:
        UsageError: they name several; VideoError: none.
    """
    found = [path for text in inputs for path in _expand(text)]
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} videos for one store: {found[0]}, {found[1]}, ...",
            why="this version makes one store of one video",
            fix="Encode them one by one.",
        )
    return found[0]


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        videos = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        return videos or [path]  # a folder without videos may hold the images of one
    if path.exists():
        return [path]
    if text.startswith("@"):
        return _listed(Path(text[1:]))
    if any(c in text for c in "*?["):
        # The module's glob, not Path's: it takes absolute patterns as they come.
        matches = [Path(p) for p in sorted(glob(text, recursive=True))]  # noqa: PTH207
        if not matches:
            raise VideoError(f"nothing matches {text!r}")
        return matches
    return [path]  # the reader says what is wrong with it


def _listed(file: Path) -> list[Path]:
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise VideoError(f"cannot read the list {str(file)!r}", why=error.strerror or "") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise VideoError(f"the list {str(file)!r} names no video")
    # Relative names are meant from where the list lies.
    return [file.parent / name for name in names]
