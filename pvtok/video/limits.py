"""What an untrusted file may ask of us: its size, its container, and what it may refer to."""

from __future__ import annotations

from pvtok.errors import FrameSizeError

MAX_PIXELS = 2**26
"""Pixels of one frame: 8192 x 8192, twice 8K. A larger claim is refused before it is allocated."""

MAX_SIDE = 32_768
"""Pixels of one side of a frame."""

MAX_FRAMES = 10_000_000
"""Frames of one video: more than 90 hours at 30 frames/s."""

PROTOCOLS = "file,pipe"
"""Where nested references may lead: never to the network."""

FORMATS = ",".join(
    [
        *["mov", "matroska", "avi", "gif", "mpegts", "mpeg", "flv", "ogg", "asf", "mxf", "nut"],
        *["ivf", "rm", "dv", "h264", "hevc", "m4v", "mpegvideo", "obu", "av1", "yuv4mpegpipe"],
        # Sound alone: opened, so that the message is "no video stream" and so that a sound track
        # can be taken from them.
        *["mp3", "wav", "w64", "flac", "aac", "ac3", "eac3", "aiff", "caf"],
    ]
)
"""Containers that hold their own data. Playlists (hls, concat, dash, ...) name other files and so
are left out: a text file called clip.mp4 must not make us open anything else."""


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a frame size that is empty or beyond the limits.

    Raises:
        FrameSizeError: with the size and `name` in it.
    """
    if min(width, height) < 1:
        raise FrameSizeError(f"{name}: frames of {width}x{height} pixels are empty")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise FrameSizeError(
            f"{name}: frames of {width}x{height} pixels are too large",
            why=f"the limit is {MAX_PIXELS} pixels and {MAX_SIDE} a side",
            fix="Scale the video down first.",
        )
