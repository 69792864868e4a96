"""Reading what ffmpeg's `showinfo` filter logs of each frame.

ffmpeg's threads share one log, and some lines are written in several pieces: a piece of one line
can be glued to another's. Everything taken here is written in one piece, and so is searched for
anywhere in a line. What a file says of itself (titles, comments) is logged before the line
"Stream mapping:" only, as long as it is kept out of the outputs (`NO_METADATA`); so nothing is
taken before that line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

NO_METADATA = {"map_metadata": -1}
"""Output option: a title must not show up among the log lines that are searched."""

_BEGIN = "Stream mapping:"
_RATE = re.compile(r"config in time_base: (\d+)/(\d+), frame_rate: (\d+)/(\d+)")
_FRAME = re.compile(
    r"n: *\d+ pts: *(-?\d+|NOPTS) .*?fmt:(\w+) .*?sar:(\d+)/(\d+) s:(\d+)x(\d+) i:(\w) "
)
_RANGE = re.compile(r"color_range:(tv|pc)")
# Known names are tried first, in case another line follows without a gap.
_SPACE = re.compile(
    r"color_space:(bt709|smpte170m|bt470bg|fcc|smpte240m|bt2020nc|gbr|unknown|reserved|\S+)"
)
_PRIMARIES = re.compile(r"color_primaries:(bt2020|\S+)")
_TRANSFER = re.compile(r"color_trc:(smpte2084|arib-std-b67|bt709|smpte170m|unknown|\S+)")


@dataclass(frozen=True)
class ShownFrame:
    """One frame as it enters the filter: decoded and upright."""

    pts: int | None
    pix_fmt: str
    sample_aspect: Fraction
    width: int
    height: int
    interlaced: bool


@dataclass
class ShownColors:
    """Tags of the first frame, in ffmpeg's names."""

    range: str = "unknown"
    space: str = "unknown"
    primaries: str = "unknown"
    transfer: str = "unknown"


def is_beginning(text: str) -> bool:
    """Whether the part of the log in which frames are shown begins with this line."""
    return text.startswith(_BEGIN)


def parse_frame(text: str) -> ShownFrame | None:
    """The frame that a line describes, or None."""
    match = _FRAME.search(text)
    if match is None:
        return None
    pts, pix_fmt, sar_w, sar_h, width, height, kind = match.groups()
    aspect = Fraction(int(sar_w), int(sar_h)) if int(sar_w) and int(sar_h) else Fraction(1)
    return ShownFrame(
        None if pts == "NOPTS" else int(pts), pix_fmt, aspect, int(width), int(height), kind != "P"
    )


def parse_time_base(text: str) -> tuple[Fraction, Fraction | None] | None:
    """Seconds of a tick and frames per second (None: unknown) in a line, or None."""
    match = _RATE.search(text)
    if match is None:
        return None
    base_n, base_d, rate_n, rate_d = map(int, match.groups())
    if not base_n or not base_d:
        return None
    return Fraction(base_n, base_d), Fraction(rate_n, rate_d) if rate_n and rate_d else None


def parse_colors(text: str, colors: ShownColors) -> None:
    """Note the colour tags that a line holds, if any."""
    if match := _RANGE.search(text):
        colors.range = match[1]
    if match := _SPACE.search(text):
        colors.space = match[1]
    if match := _PRIMARIES.search(text):
        colors.primaries = match[1]
    if match := _TRANSFER.search(text):
        colors.transfer = match[1]
