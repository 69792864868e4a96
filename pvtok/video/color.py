"""Colour: which matrix and range a stream uses, and the one exact way to RGB and back."""

from __future__ import annotations

import re

import ffmpeg

from pvtok.errors import VideoError
from pvtok.video.info import ColorRange

# Our name -> what ffmpeg's frames may call it. The two names of BT.601 (525 and 625 lines) share
# one matrix.
_TAGS = {
    "bt709": ("bt709",),
    "bt601": ("smpte170m", "bt470bg"),
    "fcc": ("fcc",),
    "smpte240m": ("smpte240m",),
    "bt2020": ("bt2020nc",),
}
MATRICES = tuple(_TAGS)
"""Colour matrices that can be asked for."""

_RGB = re.compile(r"(?:rgb|bgr|gbr|argb|abgr|0rgb|0bgr|pal8|x2rgb|x2bgr)")
_GRAY = re.compile(r"(?:gray|ya8|ya16|mono)")

# swscale's default rounds coarsely and shares chroma between pixel pairs, which costs about 10 dB
# at the 40 dB level and leaves a bias; these flags make it exact in both directions. Bicubic is
# the scaler: sharp, and without the ringing of Lanczos.
EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"

_HDR_TRANSFERS = ("smpte2084", "arib-std-b67")


def is_hdr(space: str, primaries: str, transfer: str) -> bool:
    """High dynamic range (PQ, HLG) or wide gamut (BT.2020): showing it as BT.709 needs a choice."""
    return transfer in _HDR_TRANSFERS or space.startswith("bt2020") or primaries == "bt2020"


def resolve(
    pix_fmt: str, space: str, stated_range: str, height: int, name: str
) -> tuple[str, ColorRange, bool]:
    """Matrix, range, and whether the matrix is our guess, from a frame's tags.

    Untagged YUV is BT.709 from 720 lines up and BT.601 below, limited unless marked full: what
    players do.

    Args:
        pix_fmt, space, stated_range: ffmpeg's names.
        height: lines as coded.
        name: of the file, for the message.

    Raises:
        VideoError: a matrix that ffmpeg's scaler does not know.
    """
    full = stated_range in ("pc", "full", "jpeg")
    if _RGB.match(pix_fmt):
        return "rgb", "full", False
    if _GRAY.match(pix_fmt):
        return "gray", "limited" if stated_range in ("tv", "limited", "mpeg") else "full", False
    full = full or pix_fmt.startswith("yuvj")
    color_range: ColorRange = "full" if full else "limited"
    for matrix, tags in _TAGS.items():
        if space in tags:
            return matrix, color_range, False
    # "gbr" on a YUV stream is a slip of the encoder: it says nothing.
    if space in ("unknown", "unspecified", "reserved", "gbr"):
        return ("bt709" if height >= 720 else "bt601"), color_range, True
    raise VideoError(
        f"cannot read the colours of {name}",
        why=f"colour matrix {space!r} is not supported",
        fix=f"Choose one of {MATRICES} yourself.",
    )


def to_rgb(width: int, height: int, matrix: str, color_range: ColorRange) -> dict[str, str | int]:
    """Arguments of ffmpeg's `scale` filter from a stream's colours to RGB of a size."""
    args: dict[str, str | int] = {"w": width, "h": height, "flags": EXACT}
    if matrix not in ("rgb", "gray"):
        args["in_color_matrix"] = matrix
        args["in_range"] = color_range
    return args


def from_rgb(width: int, height: int, matrix: str) -> dict[str, str | int]:
    """Arguments of ffmpeg's `scale` filter from RGB to limited-range YUV of the same size."""
    return {
        "w": width,
        "h": height,
        "flags": EXACT,
        "out_color_matrix": matrix,
        "out_range": "limited",
    }


def tags(matrix: str) -> dict[str, str]:
    """Arguments of ffmpeg's `setparams` filter that tag frames with what `from_rgb` made."""
    # The 525-line system's tag for BT.601, with its own primaries and transfer.
    tag = {"bt709": "bt709", "bt601": "smpte170m"}[matrix]
    return {"range": "tv", "colorspace": tag, "color_primaries": tag, "color_trc": tag}


def tonemapped(
    video: ffmpeg.nodes.FilterableStream, transfer: str
) -> ffmpeg.nodes.FilterableStream:
    """The video brought from BT.2020 colours, and PQ or HLG if it has it, to BT.709 SDR."""
    source = {"pin": "bt2020", "min": "bt2020nc"}
    target = {"p": "bt709", "m": "bt709", "t": "bt709", "r": "limited"}
    if transfer not in _HDR_TRANSFERS:
        return video.filter("zscale", **source, **target).filter("format", "yuv444p")
    # The customary chain: linear light with 100 nits as white, gamut to BT.709, a filmic curve,
    # and back to a display curve. `desat=0` keeps the hue of bright colours.
    video = video.filter("zscale", **source, tin=transfer, t="linear", npl=100)
    video = video.filter("format", "gbrpf32le").filter("zscale", p="bt709")
    video = video.filter("tonemap", tonemap="hable", desat=0)
    return video.filter("zscale", **target).filter("format", "yuv444p")
