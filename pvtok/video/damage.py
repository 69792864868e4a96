"""Telling a damaged or truncated file from a whole one."""

from __future__ import annotations

import re
from pathlib import Path

from pvtok.video.names import one_line
from pvtok.video.process import LogLine

# Lines by which ffmpeg owns that data is missing or wrong although it goes on and exits with 0.
# Decoders grumble about much that harms nothing, so this is a list of what does harm.
_DAMAGE = re.compile(
    r"partial file|ended prematurely|corrupt (input packet|decoded frame)|Packet corrupt|"
    r"(Error|error) (submitting|while decoding)|Error at MB|damaged|concealing|Invalid NAL|"
    r"LZW decode failed|[Tt]runcated|moov atom not found|Invalid data found|"
    r"missing picture in access unit|EBML header parsing failed|Decode error rate"
)

_SHOWN = re.compile(r"^n: *\d+ pts:.* type:\S ")
"""A frame's line, to which another may have been glued."""


def damage_in(line: LogLine, *, begun: bool) -> str:
    """What a line of ffmpeg's log says of pictures that are missing or wrong, or "".

    Args:
        begun: the line comes where the file's own words do not show up any more (see `showinfo`).
            From there on lines may be glued together, and their levels say nothing.
    """
    if (begun or line.level != "info") and _DAMAGE.search(line.text):
        return one_line(_SHOWN.sub("", line.text))
    return ""


def cut_short(path: Path) -> str:
    """How the file's own structure shows that its end is missing, or "".

    Only for containers that ffmpeg reads to a silent end when cut between two frames: AVI (its
    header states the length) and GIF (it ends with a trailer). ffmpeg itself notices the others.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            # A recording that was never finished states 0; a large file's first part states less
            # than the whole.
            stated = 8 + int.from_bytes(head[4:8], "little")
            if stated > size:
                return f"its header states {stated} bytes and {size} are there"
        if head[:3] == b"GIF":
            # Some writers pad the file with zeros.
            file.seek(max(0, size - 4096))
            if not file.read().rstrip(b"\0").endswith(b"\x3b"):
                return "its trailer is missing"
    return ""
