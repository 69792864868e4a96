"""File names: how they are handed to ffmpeg, shown to people, and what they say of the format."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pvtok.errors import CorruptVideoError, VideoError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})


def local_url(path: Path) -> str:
    """The file as ffmpeg must be told of it.

    Absolute and behind "file:", so that names with a leading dash, a colon ("http:x", "concat:x")
    or a "%d" are what they are for every other program: names.
    """
    return f"file:{path.absolute()}"


def shown(path: str | Path) -> str:
    """A file name on one line, whatever characters it holds."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def one_line(text: str, limit: int = 300) -> str:
    """Text from elsewhere (a program's output) made fit for one line of a message."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r" +", " ", clean)[:limit].strip(" .")


def check_name(path: str | Path) -> None:
    """Refuse a name whose bytes are not text: it cannot be told to ffmpeg by way of a graph.

    Raises:
        VideoError: with the name escaped in it.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise VideoError(
            f"cannot use {shown(path)}", why="its name is not UTF-8", fix="Rename it."
        ) from error


def input_file(path: str | Path) -> Path:
    """The path of a file or folder that is there and can be opened.

    Raises:
        VideoError: missing, unreadable, or neither a file nor a folder.
        CorruptVideoError: a file of no bytes.
    """
    source = Path(path)
    check_name(path)
    try:
        status = source.stat()
        if source.is_file():
            with source.open("rb"):
                pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"cannot read {shown(path)}", why=why) from error
    if source.is_dir():
        return source
    if not source.is_file():
        # A named pipe would block and a device never ends; both can be read only once.
        raise VideoError(f"cannot read {shown(path)}", why="not a regular file")
    if status.st_size == 0:
        raise CorruptVideoError(f"cannot read {shown(path)}", why="the file is empty (0 bytes)")
    return source


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key by which "frame10" follows "frame9"."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]
