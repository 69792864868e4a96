from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import pytest

from pvtok.errors import VideoError
from pvtok.video import color, probe
from pvtok.video.probe import MAX_PACKETS, audio_codec, timing

from .make import ffmpeg, pattern, save, smooth


@pytest.mark.parametrize(
    ("height", "tag", "options", "expected"),
    [
        (48, "untagged", (), ("bt601", "limited", True)),
        (720, "untagged", (), ("bt709", "limited", True)),
        (48, "bt709", ("-vf", "setparams=colorspace=bt709"), ("bt709", "limited", False)),
        (720, "601", ("-vf", "setparams=colorspace=smpte170m"), ("bt601", "limited", False)),
        (48, "625 lines", ("-vf", "setparams=colorspace=bt470bg"), ("bt601", "limited", False)),
        (48, "full", ("-vf", "format=yuv420p,setparams=range=pc"), ("bt601", "full", True)),
        (48, "yuvj", ("-pix_fmt", "yuvj420p"), ("bt601", "full", True)),
    ],
)
def test_colour_comes_from_the_stream(
    tmp_path: Path, height: int, tag: str, options: tuple[str, ...], expected: tuple[object, ...]
) -> None:
    pixels = () if "-pix_fmt" in options else ("-pix_fmt", "yuv420p")
    path = pattern(tmp_path / "a.mp4", *options, *pixels, size=f"64x{height}", frames=2)
    info = probe(path)
    assert (info.color_matrix, info.color_range, info.color_assumed) == expected, tag


def test_unknown_matrix_is_refused() -> None:
    with pytest.raises(VideoError, match=r"a\.mp4.*'ycgco'"):
        color.resolve("yuv420p", "ycgco", "tv", 480, "a.mp4")


def test_non_square_pixels_are_made_square(tmp_path: Path) -> None:
    info = probe(pattern(tmp_path / "a.mp4", "-vf", "setsar=4/3", size="48x32"))
    assert (info.width, info.height) == (64, 32)
    assert (info.coded_width, info.coded_height) == (48, 32)
    assert info.sample_aspect == Fraction(4, 3)


def test_rotation_turns_size_and_pixels(tmp_path: Path) -> None:
    flat = pattern(tmp_path / "a.mp4", "-vf", "setsar=4/3", size="48x32")
    turned = tmp_path / "b.mp4"
    ffmpeg("-display_rotation", 90, "-i", flat, "-c", "copy", turned)
    info = probe(turned)
    assert info.rotation == 270
    assert (info.coded_width, info.coded_height) == (48, 32)
    # Upright it is 32x48 with pixels of 3/4: 24 wide.
    assert (info.width, info.height, info.sample_aspect) == (24, 48, Fraction(4, 3))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(24), Fraction(24000, 1001)])
def test_rate_is_exact(tmp_path: Path, suffix: str, fps: Fraction) -> None:
    info = probe(save(tmp_path / f"a{suffix}", smooth(7, 32, 32), fps))
    assert info.fps == fps
    assert info.frames == 7
    assert info.duration == pytest.approx(7 / fps, abs=0.002)
    assert info.variable_rate is False


@pytest.mark.parametrize("fps", [Fraction(981, 50), Fraction(1, 2), Fraction(750000, 71393)])
@pytest.mark.parametrize("frames", [1, 5])
def test_odd_rate_survives_in_mp4(tmp_path: Path, fps: Fraction, frames: int) -> None:
    info = probe(save(tmp_path / "a.mp4", smooth(frames, 32, 32), fps))
    assert (info.fps, info.frames) == (fps, frames)


def test_sound_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    sources = ("-f", "lavfi", "-i", "testsrc2=s=32x32", "-f", "lavfi", "-i", "sine")
    ffmpeg(*sources, "-t", "0.4", "-c:a", "libmp3lame", path)
    info = probe(path)
    assert info.has_audio
    assert info.audio_codec == audio_codec(path) == "mp3"
    assert audio_codec(save(tmp_path / "b.mp4", smooth(2))) == ""


def listing(times: list[int], duration: int = 1, base: str = "1/1000") -> str:
    lines = [f"0, {t}, {t}, {duration}, 99, 0x00000000" for t in times]
    return "\n".join([f"#tb 0: {base}", *lines])


def test_rounded_times_are_a_constant_rate() -> None:
    found = timing(listing([round(k * 1000 / 30) for k in range(60)], 33))
    assert found.variable is False
    assert found.fps == pytest.approx(30, abs=0.02)


def test_average_of_a_variable_rate() -> None:
    found = timing(listing([0, 100, 200, 600, 700], 100))
    assert found.variable is True
    assert (found.packets, found.duration, found.fps) == (5, Fraction(4, 5), Fraction(25, 4))


def test_packets_to_be_discarded_do_not_count() -> None:
    text = listing([0, 40, 80], 40) + "\n0, 120, 120, 40, 99, 0x00000000, F=0x5"
    assert timing(text).packets == 3


def test_long_listing_is_not_a_count() -> None:
    found = timing(listing(list(range(MAX_PACKETS))))
    assert not found.complete


def test_frames_of_a_long_video_are_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["pvtok.video.probe"], "MAX_PACKETS", 50)
    info = probe(save(tmp_path / "a.mp4", smooth(60, 32, 32)))
    assert (info.frames, info.variable_rate, info.fps) == (60, False, 25)
