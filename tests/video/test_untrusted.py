"""Names and files that try to be more than they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from pvtok.errors import CorruptVideoError, FrameSizeError, VideoError
from pvtok.video import ReadOptions, VideoReader, probe, read_frames

from .make import pattern, save, smooth

NAMES = [
    "-i.mp4",
    "--help.mkv",
    "http:example.mp4",
    "concat:a|b.mp4",
    "pipe:0.mp4",
    "%d.mp4",
    "frame%03d.gif",
    "two\nlines.mp4",
    "quote ' \" [0:v];,.mp4",
    "a$(touch x)`y`.mp4",
    "größe 世界.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_plain_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = smooth(3, 32, 32)
    save(Path(name), frames)
    assert [str(p) for p in Path().iterdir()] == [name]
    assert read_frames(name).shape == frames.shape
    assert probe(Path(name)).path == name
    Path(name).write_bytes(b"rubbish")
    with pytest.raises(VideoError) as caught:
        read_frames(name)
    assert "\n" not in str(caught.value)


def test_name_that_is_not_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4"))
    with pytest.raises(VideoError, match="not UTF-8"):
        save(path, smooth(2, 32, 32))
    path.touch()
    with pytest.raises(VideoError, match="not UTF-8"):
        probe(path)
    with pytest.raises(VideoError):
        probe("nul\0byte.mp4")


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">\n'
        "<BaseURL>{}</BaseURL></MPD>",
    ],
    ids=["hls", "concat", "dash"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ts"])
def test_playlists_are_refused(tmp_path: Path, playlist: str, suffix: str) -> None:
    target = pattern(tmp_path / "secret.ts")
    path = tmp_path / f"list{suffix}"
    path.write_text(playlist.format(target))
    with pytest.raises(VideoError, match=f"list{suffix}") as caught:
        read_frames(path)
    assert "\n" not in str(caught.value)


def test_special_files_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(VideoError, match="not a regular file"):
            probe(path)


def test_size_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.mp4", smooth(2, 64, 64))
    monkeypatch.setattr(sys.modules["pvtok.video.probe"], "MAX_PIXELS", 1000)
    with pytest.raises(FrameSizeError, match=r"a\.mp4"):
        probe(path)
    monkeypatch.undo()
    with pytest.raises(FrameSizeError, match="too large"):
        VideoReader(path, ReadOptions(size=40_000))


def test_pixel_shape_cannot_blow_frames_up(tmp_path: Path) -> None:
    path = tmp_path / "a.y4m"
    path.write_bytes(b"YUV4MPEG2 W4 H4 F25:1 Ip A60000:1 C444\nFRAME\n" + bytes(4 * 4 * 3))
    with pytest.raises(FrameSizeError, match="too large"):
        probe(path)


def test_frame_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.mp4", smooth(6, 32, 32))
    monkeypatch.setattr("pvtok.video.read.MAX_FRAMES", 4)
    with pytest.raises(VideoError, match="more than 4 frames"):
        read_frames(path)


def test_titles_are_not_mistaken_for_streams(tmp_path: Path) -> None:
    path = pattern(
        tmp_path / "a.mkv",
        *("-metadata", "title=x\n  Stream #0:9: Audio: aac\n  Duration: 99:00:00.00"),
        *("-metadata", "comment=n:   0 pts:      0 fmt:a sar:1/1 s:9x9 i:P "),
    )
    info = probe(path)
    assert not info.has_audio
    assert info.duration == pytest.approx(8 / 25, abs=0.01)
    assert len(read_frames(path)) == 8


def test_picture_named_as_a_video(tmp_path: Path) -> None:
    png = pattern(tmp_path / "a.png", frames=1)
    renamed = png.rename(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match=r"a\.mp4"):
        probe(renamed)


def test_video_named_as_a_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", np.zeros((1, 32, 32, 3), np.uint8)).rename(tmp_path / "a.png")
    with pytest.raises(CorruptVideoError, match=r"a\.png"):
        probe(path)
