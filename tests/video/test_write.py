from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pvtok.errors import (
    FrameSizeError,
    OutputExistsError,
    PvtokError,
    UsageError,
    VideoError,
    WriteError,
)
from pvtok.video import VideoReader, VideoWriter, probe, read_frames

from .make import ffmpeg, psnr, save, smooth

VIDEOS = [".mp4", ".mov", ".mkv", ".webm", ".avi"]


@pytest.mark.parametrize("suffix", VIDEOS)
@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_lossless_round_trip(
    tmp_path: Path, suffix: str, matrix: str, size: tuple[int, int]
) -> None:
    frames = smooth(5, *size)
    path = save(tmp_path / f"a{suffix}", frames, lossless=True, color_matrix=matrix)
    got = read_frames(path)
    info = probe(path)
    assert (info.color_matrix, info.color_range, info.color_assumed) == (matrix, "limited", False)
    if matrix == "bt709":
        np.testing.assert_array_equal(got, frames)
    else:  # a few samples in a million are off by one
        assert psnr(got, frames) > 80


@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_eight_bit_colour_path_is_exact(tmp_path: Path, matrix: str, pix_fmt: str) -> None:
    # Gentle enough that 4:2:0 holds it; what is left is the rounding of the two conversions.
    frames = smooth(5, 240, 320)
    path = tmp_path / "a.mkv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pvtok.video.encode.pixel_format", lambda *_: pix_fmt)
        save(path, frames, lossless=True, color_matrix=matrix)
    got = read_frames(path)
    assert probe(path).pix_fmt == pix_fmt
    assert psnr(got, frames) > (50 if pix_fmt == "yuv444p" else 45)
    assert abs(float(np.mean(got.astype(float) - frames))) < 0.1


@pytest.mark.parametrize("suffix", VIDEOS)
@pytest.mark.parametrize(("frames", "size"), [(17, (48, 64)), (2, (47, 63)), (1, (1, 1))])
def test_count_and_size_are_exact(
    tmp_path: Path, suffix: str, frames: int, size: tuple[int, int]
) -> None:
    path = save(tmp_path / f"a{suffix}", smooth(frames, *size))
    with VideoReader(path) as reader:
        got = np.concatenate(list(reader))
    assert got.shape == (frames, *size, 3)
    assert reader.notices == []


def test_still_frames_are_all_kept(tmp_path: Path) -> None:
    still = np.repeat(smooth(1), 9, axis=0)
    for suffix in [*VIDEOS, ".gif"]:
        assert len(read_frames(save(tmp_path / f"a{suffix}", still))) == 9


@pytest.mark.parametrize("fps", [Fraction(10), Fraction(25), Fraction(50), Fraction(24000, 1001)])
def test_gif(tmp_path: Path, fps: Fraction) -> None:
    frames = smooth(7, 33, 47)
    path = save(tmp_path / "a.gif", frames, fps)
    got = read_frames(path)
    assert got.shape == frames.shape
    assert psnr(got, frames) > 27
    info = probe(path)
    assert info.kind == "gif"
    assert float(info.fps) == pytest.approx(float(fps), rel=0.1)


def test_quality_grows_with_lower_crf(tmp_path: Path) -> None:
    frames = smooth(8)
    for suffix in (".mp4", ".webm"):
        good, poor = (
            psnr(read_frames(save(tmp_path / f"{crf}{suffix}", frames, crf=crf)), frames)
            for crf in (4, 45)
        )
        assert good > 40 > poor


def test_players_get_what_they_show(tmp_path: Path) -> None:
    even = save(tmp_path / "a.mp4", smooth())
    assert probe(even).pix_fmt == "yuv420p"
    data = even.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with VideoWriter(tmp_path / "b.mp4", 63, 47, Fraction(25)) as writer:
        writer.write(smooth(2, 47, 63))
    assert "4:4:4" in writer.notices[0]
    assert probe(save(tmp_path / "c.webm", smooth(2, 47, 63))).pix_fmt == "yuv420p"


# -- times of their own ------------------------------------------------------------------------

TIMES = [0.0, 0.1, 0.15, 0.4, 0.41, 1.0]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_variable_rate_keeps_its_times(tmp_path: Path, suffix: str) -> None:
    frames = smooth(6)
    path = save(tmp_path / f"a{suffix}", frames, timestamps=[5 + t for t in TIMES], lossless=True)
    with VideoReader(path, chunk_frames=4) as reader:
        got = np.concatenate(list(reader))
    np.testing.assert_array_equal(got, frames)
    assert reader.timestamps == pytest.approx(TIMES, abs=1e-3 if "m4v" in suffix else 1.1e-3)
    assert reader.info.variable_rate


@pytest.mark.parametrize("suffix", [".avi", ".gif"])
def test_formats_without_times_say_so(tmp_path: Path, suffix: str) -> None:
    with VideoWriter(tmp_path / f"a{suffix}", 64, 48, Fraction(10), timestamps=TIMES) as writer:
        writer.write(smooth(6))
    assert "evenly spaced" in writer.notices[0]
    assert len(read_frames(tmp_path / f"a{suffix}")) == 6


@pytest.mark.parametrize("count", [4, 8])
def test_times_must_match_the_frames(tmp_path: Path, count: int) -> None:
    with pytest.raises(UsageError, match="timestamps"):
        save(tmp_path / "a.mp4", smooth(count), timestamps=TIMES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("times", [[0.0, 0.0], [0.0, 0.2, 0.1], [0.0, float("nan")]])
def test_times_must_grow(tmp_path: Path, times: list[float]) -> None:
    with pytest.raises(UsageError, match="timestamps must"):
        save(tmp_path / "a.mp4", smooth(len(times)), timestamps=times)
    assert not list(tmp_path.iterdir())


# -- sound -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "aac"), (".webm", "opus")])
def test_sound_is_added(tmp_path: Path, suffix: str, codec: str) -> None:
    sound = tmp_path / "sound.m4a"
    ffmpeg("-f", "lavfi", "-i", "sine", "-t", 1, "-c:a", "aac", sound)
    # Shorter and longer than the sound: the frames are what counts.
    for count in (5, 40):
        path = save(tmp_path / f"{count}{suffix}", smooth(count), audio_from=sound)
        info = probe(path)
        assert info.audio_codec == codec
        assert len(read_frames(path)) == info.frames == count


def test_sound_that_is_not_there(tmp_path: Path) -> None:
    silent = save(tmp_path / "silent.mp4", smooth(2))
    with pytest.raises(VideoError, match="no sound"):
        save(tmp_path / "a.mp4", smooth(2), audio_from=silent)
    with pytest.raises(VideoError, match="No such file"):
        save(tmp_path / "a.mp4", smooth(2), audio_from=tmp_path / "missing.mp3")
    assert [p.name for p in tmp_path.iterdir()] == ["silent.mp4"]


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("a.xyz", {}, UsageError),
        ("a.mp4", {"crf": 52}, UsageError),
        ("a.mp4", {"fps": Fraction(0)}, UsageError),
        ("a.mp4", {"color_matrix": "bt2020"}, UsageError),
        ("a.gif", {"lossless": True}, UsageError),
        ("a.gif", {"fps": Fraction(120)}, UsageError),
        ("a.gif", {"audio_from": "x.mp3"}, UsageError),
        ("frames", {"audio_from": "x.mp3"}, UsageError),
        ("nowhere/a.mp4", {}, WriteError),
        ("nowhere/frames", {}, WriteError),
    ],
)
def test_refused(
    tmp_path: Path, name: str, options: dict[str, object], kind: type[PvtokError]
) -> None:
    with pytest.raises(kind) as caught:
        save(tmp_path / name, smooth(2), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        (smooth(2, 48, 62), FrameSizeError),
        (smooth(2)[0], UsageError),
        (smooth(2).astype(np.float32), UsageError),
        (smooth(2)[..., :1], FrameSizeError),
    ],
)
def test_frames_that_do_not_fit(tmp_path: Path, frames: np.ndarray, kind: type[PvtokError]) -> None:
    def write() -> None:
        with VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(25)) as writer:
            writer.write(smooth(2))
            writer.write(frames)

    with pytest.raises(kind):
        write()
    assert not list(tmp_path.iterdir())


def test_strided_frames_are_written_as_seen(tmp_path: Path) -> None:
    frames = smooth(12, 96, 64)[::2, ::2, ::-1]
    path = save(tmp_path / "a.mkv", frames, lossless=True)
    np.testing.assert_array_equal(read_frames(path), frames)


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    for name in ("a.mp4", "frames"):
        with (
            pytest.raises(WriteError, match="no frames"),
            VideoWriter(tmp_path / name, 64, 48, Fraction(25)),
        ):
            pass
    assert not list(tmp_path.iterdir())


def test_rate_that_ffmpeg_cannot_hold_is_rounded_and_said(tmp_path: Path) -> None:
    fps = Fraction(2_500_000_001, 100_000_000)
    with VideoWriter(tmp_path / "a.mp4", 64, 48, fps) as writer:
        writer.write(smooth(2))
    assert "rounded" in writer.notices[0]


# -- all or nothing ----------------------------------------------------------------------------


def test_existing_output_is_kept_unless_asked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mp4", smooth(2))
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="overwrite"):
        save(path, smooth(3))
    assert path.read_bytes() == before
    save(path, smooth(3), overwrite=True)
    assert len(read_frames(path)) == 3


def test_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    writer = VideoWriter(path, 64, 48, Fraction(25))
    writer.write(smooth(2))
    path.write_text("mine")
    with pytest.raises(OutputExistsError), writer:
        pass
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "frames"])
def test_error_leaves_the_old_and_no_rest(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, smooth(2))
    writer = VideoWriter(path, 64, 48, Fraction(25), overwrite=True)
    writer.write(smooth(5))
    with pytest.raises(KeyboardInterrupt), writer:
        raise KeyboardInterrupt
    assert len(read_frames(path)) == 2
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 64, 48, Fraction(25)) as writer:
        writer.write(smooth(5))
        assert not (tmp_path / "a.mp4").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20 kB while this holds, here or in ffmpeg."""
    # The limit's signal would kill; ignored, the write fails as on a full disk.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def noise(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 96, 128, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.gif", "frames"])
def test_file_that_cannot_grow(tmp_path: Path, small_files: None, name: str) -> None:
    with pytest.raises(WriteError, match=name) as caught:
        save(tmp_path / name, noise(30))
    assert "\n" not in str(caught.value)
    assert "File " in str(caught.value)  # too large; size limit exceeded
    assert not list(tmp_path.iterdir())


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not permitted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "frames"])
def test_full_disk(full_disk: Path, name: str) -> None:
    old = save(full_disk / "old.mp4", smooth(2))
    before = old.read_bytes()
    with pytest.raises(WriteError, match="No space left"):
        save(full_disk / name, noise(60))
    with pytest.raises(WriteError, match="No space left"):
        save(old, noise(60), overwrite=True)
    assert [p.name for p in full_disk.iterdir()] == ["old.mp4"]
    assert old.read_bytes() == before


def test_folder_without_permission(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="ermission"):
        save(tmp_path / "a.mp4", smooth(2))
    tmp_path.chmod(0o700)
