"""What is known of a video before its frames are read."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

ColorRange = Literal["limited", "full"]
Kind = Literal["video", "images", "gif"]


@dataclass(frozen=True)
class VideoInfo:
    """One video, image folder or image.

    Attributes:
        path: as it was given.
        width, height: of the frames that reading yields at full size, in pixels: after rotation
            and after scaling to square pixels.
        coded_width, coded_height: as they are in the file.
        fps: frames per second; the average where the rate varies.
        frames: how many frames the file says it has, or None. An estimate for planning: a file may
            list frames that cannot be decoded. The exact number is known when all are read.
        duration: seconds from the first frame's start to the last one's end, or None.
        codec: ffmpeg's name of the coding, such as "h264".
        pix_fmt: ffmpeg's name of the pixel format, such as "yuv420p".
        rotation: degrees clockwise (0, 90, 180, 270) by which frames are turned to stand upright.
        sample_aspect: width of a coded pixel over its height.
        color_matrix: by which YUV becomes RGB: "bt709", "bt601", "bt2020", ...; "rgb" or "gray"
            where there is nothing to choose.
        color_range: of the coded values.
        color_assumed: the file does not say its matrix and our rule decided.
        hdr: high dynamic range or wide gamut (PQ or HLG transfer, or BT.2020 colours).
        transfer: ffmpeg's name of the transfer curve, such as "smpte2084" (PQ), or "unknown".
        interlaced: frames are woven of two fields.
        variable_rate: frames are not evenly spaced; None where that is not known.
        has_audio: there is a sound stream.
        audio_codec: ffmpeg's name of the first sound stream's coding, "" without one.
        video_streams: how many there are; the first is read.
        container: ffmpeg's name of the container, such as "mov,mp4,m4a,3gp,3g2,mj2".
        start: seconds from the container's start to the first frame.
        kind: a video, an image folder (or single image), or a GIF.
    """

    path: str
    width: int
    height: int
    coded_width: int
    coded_height: int
    fps: Fraction
    frames: int | None
    duration: float | None
    codec: str
    pix_fmt: str
    rotation: int = 0
    sample_aspect: Fraction = Fraction(1)
    color_matrix: str = "rgb"
    color_range: ColorRange = "full"
    color_assumed: bool = False
    hdr: bool = False
    transfer: str = "unknown"
    interlaced: bool = False
    variable_rate: bool | None = False
    has_audio: bool = False
    audio_codec: str = ""
    video_streams: int = 1
    container: str = ""
    start: float = 0.0
    kind: Kind = "video"
