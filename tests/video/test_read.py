from __future__ import annotations

import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pvtok.errors import HdrVideoError, UsageError, VideoError
from pvtok.video import ReadOptions, VideoReader, VideoWriter, probe, read_frames

from .make import ffmpeg, pattern, psnr, save, smooth


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 frames at 10 frames/s, read back bit for bit."""
    return save(
        tmp_path_factory.mktemp("clip") / "a.mp4", smooth(21, 40, 60), Fraction(10), lossless=True
    )


@pytest.mark.parametrize("chunk", [1, 4, 7, 20, 21, 100])
def test_chunks_make_up_the_whole(clip: Path, chunk: int) -> None:
    with VideoReader(clip, chunk_frames=chunk) as reader:
        chunks = list(reader)
    assert [len(c) for c in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    np.testing.assert_array_equal(np.concatenate(chunks), smooth(21, 40, 60))
    assert reader.timestamps == pytest.approx([k / 10 for k in range(21)])
    assert reader.notices == []


def test_times_are_known_while_reading(clip: Path) -> None:
    with VideoReader(clip, chunk_frames=4) as reader:
        for chunk in reader:
            assert len(reader.timestamps) == reader.frames_read
            assert reader.timestamps[-len(chunk)] == pytest.approx(
                (reader.frames_read - len(chunk)) / 10
            )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ReadOptions(start=0.3), range(3, 9)),
        (ReadOptions(start=0.25, duration=0.3), range(3, 6)),
        (ReadOptions(duration=0.3), range(3)),
        (ReadOptions(start=0.2, max_frames=2), range(2, 4)),
        (ReadOptions(max_frames=99), range(9)),
    ],
)
def test_window(tmp_path: Path, suffix: str, options: ReadOptions, expected: range) -> None:
    frames = smooth(9, 32, 48)
    path = save(tmp_path / f"a{suffix}", frames, Fraction(10), lossless=True)
    with VideoReader(path, options) as reader:
        got = np.concatenate(list(reader))
    np.testing.assert_array_equal(got, frames[expected.start : expected.stop])
    assert reader.timestamps == pytest.approx([k / 10 for k in range(len(expected))], abs=1e-3)


def test_window_beyond_the_end(clip: Path) -> None:
    with pytest.raises(VideoError, match="no frames to read"):
        read_frames(clip, ReadOptions(start=60))


@pytest.mark.parametrize(("fps", "count"), [(Fraction(20), 42), (Fraction(5), 11)])
def test_resampled_rate(clip: Path, fps: Fraction, count: int) -> None:
    with VideoReader(clip, ReadOptions(fps=fps)) as reader:
        got = np.concatenate(list(reader))
    assert abs(len(got) - count) <= 1
    assert reader.fps == fps
    assert reader.timestamps == pytest.approx([float(k / fps) for k in range(len(got))])
    np.testing.assert_array_equal(got[0], smooth(1, 40, 60)[0])


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (ReadOptions(size=20), (20, 30)),
        (ReadOptions(size=33), (33, 50)),
        (ReadOptions(size=32, crop=True), (32, 32)),
        (ReadOptions(size=41, crop=True), (41, 41)),
    ],
)
def test_size_and_crop(clip: Path, options: ReadOptions, shape: tuple[int, int]) -> None:
    with VideoReader(clip, options) as reader:
        first = next(iter(reader))
    assert first.shape[1:3] == shape == (reader.height, reader.width)


def test_crop_is_from_the_centre(clip: Path) -> None:
    got = read_frames(clip, ReadOptions(size=40, crop=True))
    np.testing.assert_array_equal(got, smooth(21, 40, 60)[:, :, 10:50])


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0},
        {"crop": True},
        {"start": -1},
        {"start": float("nan")},
        {"duration": 0},
        {"max_frames": 0},
        {"fps": Fraction(0)},
        {"color_matrix": "sepia"},
    ],
)
def test_options_that_cannot_work(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad)).replace("color_", "")):
        ReadOptions(**bad)  # type: ignore[arg-type]


def test_matrix_can_be_overridden(tmp_path: Path) -> None:
    frames = smooth()
    path = save(tmp_path / "a.mp4", frames, lossless=True)
    untagged = tmp_path / "b.mp4"
    tags = "colour_primaries=2:transfer_characteristics=2:matrix_coefficients=2"
    strip = ("-c", "copy", "-bsf:v", f"h264_metadata={tags}", "-movflags", "-write_colr")
    ffmpeg("-i", path, *strip, untagged)
    with VideoReader(untagged) as reader:
        guessed = np.concatenate(list(reader))
    assert any("bt601 assumed" in n for n in reader.notices)
    assert psnr(guessed, frames) < 35
    with VideoReader(untagged, ReadOptions(color_matrix="bt709")) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader)), frames)
    assert reader.notices == []


def test_full_range_is_read_as_such(tmp_path: Path) -> None:
    gray = np.full((2, 32, 32, 3), 200, np.uint8)
    path = tmp_path / "a.mkv"
    ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "32x32", "-i", "pipe:0"),
        *("-vf", "scale=out_range=pc,format=yuv444p", "-qp", 0, path),
        data=gray.tobytes(),
    )
    assert probe(path).color_range == "full"
    assert np.abs(read_frames(path).astype(int) - 200).max() <= 1


def test_rotation_and_pixel_shape_reach_the_frames(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mkv", smooth(3, 32, 48), lossless=True)
    turned = tmp_path / "b.mp4"
    ffmpeg("-display_rotation", -90, "-i", path, "-c", "copy", turned)
    np.testing.assert_array_equal(
        read_frames(turned), np.rot90(smooth(3, 32, 48), k=-1, axes=(1, 2))
    )
    wide = pattern(tmp_path / "c.mp4", "-vf", "setsar=3/2", size="32x32", frames=2)
    assert read_frames(wide).shape == (2, 32, 48, 3)


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67", "bt2020-10"])
def test_hdr_needs_a_decision(tmp_path: Path, transfer: str) -> None:
    tags = f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv"
    path = pattern(tmp_path / "a.mkv", "-vf", f"format=yuv420p10le,{tags}", frames=3)
    with pytest.raises(HdrVideoError, match=r"a\.mkv.*--tonemap"):
        VideoReader(path)
    with VideoReader(path, ReadOptions(tonemap=True)) as reader:
        frames = np.concatenate(list(reader))
    assert frames.shape == (3, 48, 64, 3)
    assert frames.max() > 128 > frames.min()
    assert "tone-mapped" in reader.notices[0]


def test_ten_bit_sdr_is_ordinary(tmp_path: Path) -> None:
    path = pattern(tmp_path / "a.mp4", "-pix_fmt", "yuv420p10le", frames=3)
    assert read_frames(path).shape == (3, 48, 64, 3)


def test_change_of_size_within_a_video_is_told(tmp_path: Path) -> None:
    parts = [
        pattern(tmp_path / f"{s}.h264", "-pix_fmt", "yuv420p", size=s, frames=5)
        for s in ("64x48", "96x72")
    ]
    path = tmp_path / "a.h264"
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    with VideoReader(path) as reader:
        frames = np.concatenate(list(reader))
    assert frames.shape[1:] == (48, 64, 3)
    assert any("frame size changes" in n for n in reader.notices)


def log_threads() -> int:
    return sum(t.name == "ffmpeg-log" for t in threading.enumerate())


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A video far larger than any pipe, so that a reader who stops leaves ffmpeg in its middle."""
    path = tmp_path / "long.mp4"
    with VideoWriter(path, 640, 480, Fraction(25), crf=40) as writer:
        for _ in range(10):
            writer.write(np.zeros((10, 480, 640, 3), np.uint8))
    return path


def test_abandoned_iteration_leaves_nothing(endless: Path) -> None:
    for frames in VideoReader(endless, chunk_frames=2):
        assert len(frames) == 2
        break
    assert log_threads() == 0


def test_leaving_the_context_stops_ffmpeg(endless: Path) -> None:
    with VideoReader(endless, chunk_frames=2) as reader:
        chunks = iter(reader)
        next(chunks)
        process = reader._process
        assert process is not None
    assert process._popen.poll() is not None
    assert log_threads() == 0


def test_reads_once(clip: Path) -> None:
    with VideoReader(clip) as reader:
        list(reader)
        with pytest.raises(VideoError, match="read already"):
            list(reader)
