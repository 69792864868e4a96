"""Files that are broken: an error of one line that names the file and the cause."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pvtok.errors import CorruptVideoError, PvtokError, VideoError
from pvtok.video import ReadOptions, VideoReader, probe, read_frames
from pvtok.video.damage import damage_in
from pvtok.video.process import LogLine, parse_line
from pvtok.video.showinfo import ShownFrame, parse_frame

from .make import ffmpeg, pattern, save, smooth


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    short = path.with_name(f"short{path.suffix}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


def noise(frames: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".gif", ".mov"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = cut(save(tmp_path / f"whole{suffix}", noise()))
    with pytest.raises(CorruptVideoError, match=rf"short\{suffix} is damaged or truncated") as got:
        read_frames(path)
    assert "\n" not in str(got.value)
    with VideoReader(path, ReadOptions(allow_truncated=True)) as reader:
        count = sum(map(len, reader))
    assert 5 < count < 30
    assert any(f"{count} frames were read" in n for n in reader.notices)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_frames_before_the_damage_can_be_had(tmp_path: Path, suffix: str) -> None:
    path = cut(save(tmp_path / f"whole{suffix}", noise()))
    assert len(read_frames(path, ReadOptions(max_frames=4))) == 4
    assert len(read_frames(path, ReadOptions(duration=0.16))) == 4


def test_avi_cut_between_two_frames(tmp_path: Path) -> None:
    # ffmpeg reads it to a silent end: only the header's length tells.
    whole = save(tmp_path / "whole.avi", noise())
    data = whole.read_bytes()
    chunks = [m.start() for m in re.finditer(b"00dc", data[: data.rindex(b"idx1")])]
    path = tmp_path / "short.avi"
    path.write_bytes(data[: chunks[20]])
    with pytest.raises(CorruptVideoError, match="its header states"):
        read_frames(path)


def test_gif_without_its_end(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.gif", smooth(8))
    path = tmp_path / "short.gif"
    path.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(CorruptVideoError, match="trailer"):
        read_frames(path)


def test_wrong_bytes_in_the_middle(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", noise())
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = b"\xff" * 4000
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptVideoError, match=r"a\.mp4"):
        read_frames(path)


def empty(folder: Path) -> Path:
    path = folder / "bad.mp4"
    path.touch()
    return path


def missing(folder: Path) -> Path:
    return folder / "bad.mp4"


def rubbish(folder: Path) -> Path:
    path = folder / "bad.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(10_000))
    return path


def text(folder: Path) -> Path:
    path = folder / "bad.mp4"
    path.write_text("not a video\n" * 100)
    return path


def bare_folder(folder: Path) -> Path:
    path = folder / "bad"
    path.mkdir()
    (path / "readme.txt").touch()
    return path


def sound_only(folder: Path) -> Path:
    path = folder / "bad.mp3"
    ffmpeg("-f", "lavfi", "-i", "sine", "-t", "0.3", path)
    return path


def sound_with_cover(folder: Path) -> Path:
    path = folder / "bad.m4a"
    cover = pattern(folder / "cover.png", frames=1)
    sources = ("-f", "lavfi", "-t", "0.3", "-i", "sine", "-i", cover)
    ffmpeg(*sources, "-map", 0, "-map", 1, "-c:v", "copy", "-disposition:v", "attached_pic", path)
    return path


def no_index(folder: Path) -> Path:
    whole = pattern(folder / "whole.mp4")
    path = folder / "bad.mp4"
    path.write_bytes(whole.read_bytes()[:-600])
    return path


def header_only(folder: Path) -> Path:
    whole = save(folder / "whole.mp4", noise())
    path = folder / "bad.mp4"
    data = whole.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 8])
    return path


@pytest.mark.parametrize(
    ("make", "kind", "cause"),
    [
        (missing, VideoError, "No such file"),
        (empty, CorruptVideoError, "0 bytes"),
        (rubbish, CorruptVideoError, "ffmpeg: "),
        (text, CorruptVideoError, "ffmpeg: "),
        (no_index, CorruptVideoError, "ffmpeg: "),
        (header_only, CorruptVideoError, "ffmpeg: "),
        (bare_folder, VideoError, "no images"),
        (sound_only, VideoError, "sound only"),
        (sound_with_cover, VideoError, "sound only"),
    ],
)
def test_unreadable(
    tmp_path: Path, make: Callable[[Path], Path], kind: type[PvtokError], cause: str
) -> None:
    path = make(tmp_path)
    for use in (probe, VideoReader, read_frames):
        with pytest.raises(VideoError) as caught:
            use(path)
        assert type(caught.value) is kind
        message = str(caught.value)
        assert "bad" in message
        assert cause in message
        assert "\n" not in message


def test_what_only_sounds_bad_is_no_damage() -> None:
    assert not damage_in(LogLine("error", "mmco: unref short failure"), begun=True)
    assert not damage_in(LogLine("info", "title: the truncated story"), begun=False)
    assert damage_in(LogLine("warning", "corrupt decoded frame"), begun=False)


def test_damage_in_a_line_of_another_thread() -> None:
    # As two of ffmpeg's threads wrote it, one into the middle of the other's line.
    line = LogLine(
        "info",
        "n:  16 pts:    640 pts_time:0.64    duration:     40 duration_time:0.04    fmt:yuv420p "
        "cl:left sar:0/1 s:64x48 i:P iskey:0 type:P File ended prematurely",
    )
    assert damage_in(line, begun=True) == "File ended prematurely"
    assert parse_frame(line.text) == ShownFrame(640, "yuv420p", Fraction(1), 64, 48, False)


def test_log_lines_are_taken_apart() -> None:
    assert parse_line(b"[in#0/mov @ 0x55] [dec:h264 @ 0x7f] [error] no [x] here\n") == LogLine(
        "error", "no [x] here"
    )
    assert parse_line(b"[info]   Stream #0:0\r\n") == LogLine("info", "  Stream #0:0")
    assert parse_line(b"\xff\xfe") == LogLine("", "��")
