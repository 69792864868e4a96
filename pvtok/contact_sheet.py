"""Contact sheets: clips as labelled rows of frames in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pvtok.errors import UsageError
from pvtok.groups import FramesTHWC

_GAP = 4  # pixels between frames and around the sheet
_BACKGROUND = (24, 24, 27)
_INK = (228, 228, 231)
_FONT_SIZE = 14.0


def contact_sheet(rows: Sequence[tuple[str, FramesTHWC]], columns: int = 8) -> NDArray[np.uint8]:
    """Lay clips out as rows of frames, each under its label.

    Frames keep their size and are evenly sampled from first to last; a clip of fewer than `columns`
    frames shows each once. Rows may differ in frame size. A label too long for its row widens it.

    Args:
        rows: label (Latin letters: the font has few others; an empty one takes no room) and frames,
            uint8 `[T, H, W, 3]`, T >= 1.
        columns: frames per row.

    Returns:
        uint8 `[height, width, 3]`.

    Raises:
        UsageError: no rows, no columns, or a row that does not hold frames.
    """
    if not rows or columns < 1:
        raise UsageError(f"a contact sheet of {len(rows)} rows and {columns} columns")
    for label, frames in rows:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise UsageError(
                f"row {label!r} is {frames.dtype} {frames.shape}",
                why="a row is uint8 [T, H, W, 3] of at least one frame",
            )
    font = ImageFont.load_default(_FONT_SIZE)
    strips = [_strip(label, frames, columns, font) for label, frames in rows]
    width = max(strip.width for strip in strips) + 2 * _GAP
    height = sum(strip.height + _GAP for strip in strips) + _GAP
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    top = _GAP
    for strip in strips:
        sheet.paste(strip, (_GAP, top))
        top += strip.height + _GAP
    return np.asarray(sheet)


def _strip(
    label: str,
    frames: FramesTHWC,
    columns: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> Image.Image:
    """One row: the label, and the sampled frames side by side below it."""
    count = min(columns, len(frames))
    # A single column shows the first frame.
    shown = np.linspace(0, len(frames) - 1, count).round().astype(int)
    _, height, width, _ = frames.shape
    _, _, right, bottom = font.getbbox(label) if label else (0, 0, 0, 0)
    head = int(bottom) + _GAP if label else 0
    strip = Image.new(
        "RGB",
        (max(count * (width + _GAP) - _GAP, int(right)), head + height),
        _BACKGROUND,
    )
    if label:
        ImageDraw.Draw(strip).text((0, 0), label, fill=_INK, font=font)
    for column, index in enumerate(shown):
        strip.paste(Image.fromarray(frames[index]), (column * (width + _GAP), head))
    return strip
