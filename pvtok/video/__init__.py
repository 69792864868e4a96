"""Video files in and out. The only place in the project that knows ffmpeg.

Frames are uint8 RGB arrays `[T, H, W, 3]`, full range 0..255, upright, with square pixels.
"""

from pvtok.video.binary import ffmpeg_version, find_ffmpeg
from pvtok.video.info import VideoInfo
from pvtok.video.options import ReadOptions
from pvtok.video.probe import probe
from pvtok.video.read import VideoReader, read_frames
from pvtok.video.write import VideoWriter

__all__ = [
    "ReadOptions",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "ffmpeg_version",
    "find_ffmpeg",
    "probe",
    "read_frames",
]
