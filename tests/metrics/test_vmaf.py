"""VMAF through a real ffmpeg, and every way it can fail."""

import itertools
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pvtok.errors import MissingDependencyError, PvtokError, UsageError
from pvtok.metrics import VMAF_PROTOCOL, vmaf, why_no_vmaf


@pytest.fixture(scope="module")
def ffmpeg() -> str:
    try:
        from pvtok.video import find_ffmpeg
    except ImportError:
        imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    return find_ffmpeg()


@pytest.fixture(scope="module")
def vmaf_ffmpeg(ffmpeg: str) -> str:
    if reason := why_no_vmaf(ffmpeg, 64, 64):
        pytest.skip(f"no VMAF: {reason}")
    return ffmpeg


def clip(frames: int, height: int = 96, width: int = 128) -> np.ndarray:
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    wave = np.sin((x - 2 * t) / 6.0) * np.cos((y + t) / 9.0 + c) + 0.4 * np.sin(x * y / 200.0)
    return (128 + 85 * wave).clip(0, 255).astype(np.uint8)


def noisy(frames: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, frames.shape)
    return (frames + noise).clip(0, 255).astype(np.uint8)


def cut(frames: np.ndarray, *lengths: int) -> Iterator[np.ndarray]:
    bounds = np.cumsum(lengths)
    assert bounds[-1] == len(frames)
    yield from np.split(frames, bounds[:-1])


def test_equal_content_scores_high_and_noise_lowers_it(vmaf_ffmpeg: str) -> None:
    a = clip(10)
    scores = [vmaf([a], [b], 128, 96, 24, vmaf_ffmpeg) for b in (a, noisy(a, 15), noisy(a, 50))]
    assert scores[0] > 95
    assert scores[0] > scores[1] > scores[2]


def test_chunks_do_not_change_the_score(vmaf_ffmpeg: str) -> None:
    a = clip(9)
    b = noisy(a, 30)
    whole = vmaf([a], [b], 128, 96, 24, vmaf_ffmpeg)
    assert vmaf(cut(a, 1, 8), cut(b, 3, 3, 3), 128, 96, 24, vmaf_ffmpeg) == whole


def test_order_of_reference_and_reconstruction_matters(vmaf_ffmpeg: str) -> None:
    a = clip(6)
    b = noisy(a, 40)
    assert vmaf([a], [b], 128, 96, 24, vmaf_ffmpeg) != vmaf([b], [a], 128, 96, 24, vmaf_ffmpeg)


@pytest.mark.parametrize(("width", "height"), [(33, 35), (321, 241)])
def test_odd_sizes(vmaf_ffmpeg: str, width: int, height: int) -> None:
    a = clip(3, height, width)
    assert vmaf([a], [a], width, height, 29.97, vmaf_ffmpeg) > 95


def test_a_long_clip_needs_no_more_than_the_pipes(vmaf_ffmpeg: str) -> None:
    """Generators are pulled as ffmpeg reads, not collected first."""
    alive = most = 0
    lock = threading.Lock()

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            with lock:
                alive -= 1

    def stream() -> Iterator[np.ndarray]:
        nonlocal alive, most
        frame = clip(1)
        for _ in range(120):
            with lock:
                alive += 1
                most = max(most, alive)
            yield frame.copy().view(Counted)

    assert vmaf(stream(), stream(), 128, 96, 24, vmaf_ffmpeg) > 95
    assert most < 30


def test_streams_of_unequal_length_are_refused(vmaf_ffmpeg: str) -> None:
    a = clip(5)
    with pytest.raises(UsageError, match="5 reference frames and 4 reconstructed"):
        vmaf([a], [a[:4]], 128, 96, 24, vmaf_ffmpeg)


def test_empty_streams_are_refused(vmaf_ffmpeg: str) -> None:
    with pytest.raises(PvtokError):
        vmaf([], [], 128, 96, 24, vmaf_ffmpeg)


def test_wrong_chunks_are_refused_and_end_the_other_stream(vmaf_ffmpeg: str) -> None:
    a = clip(2)
    with pytest.raises(UsageError, match=r"reconstruction chunk is uint8 \(2, 96, 120, 3\)"):
        vmaf(itertools.repeat(a), [a[:, :, :120]], 128, 96, 24, vmaf_ffmpeg)


def test_an_error_of_a_stream_reaches_the_caller(vmaf_ffmpeg: str) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield clip(2)
        raise RuntimeError("the decoder broke")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the decoder broke"):
        vmaf(itertools.repeat(clip(2)), broken(), 128, 96, 24, vmaf_ffmpeg)
    assert threading.active_count() == before


def test_a_failing_ffmpeg_is_quoted(tmp_path: Path) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-filters*) echo " .. libvmaf  VV->V  vmaf"; exit 0;; esac\n'
        "echo 'out of cheese' >&2\nexit 3\n"
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(PvtokError, match="out of cheese"):
        vmaf(itertools.repeat(clip(4)), itertools.repeat(clip(4)), 128, 96, 24, str(fake))


@pytest.mark.skipif(os.name != "posix", reason="needs a shell script as the binary")
def test_an_ffmpeg_without_libvmaf_is_a_reason_not_a_score(tmp_path: Path) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\necho ' ..C scale  V->V  Scale'\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    assert "without libvmaf" in (why_no_vmaf(str(fake), 64, 64) or "")
    with pytest.raises(MissingDependencyError, match="without libvmaf"):
        vmaf([clip(1)], [clip(1)], 128, 96, 24, str(fake))


def test_frames_too_small_are_a_reason(ffmpeg: str) -> None:
    assert "at least 32 pixels" in (why_no_vmaf(ffmpeg, 31, 64) or "")


def test_the_protocol_names_the_model() -> None:
    assert "vmaf_v0.6.1" in VMAF_PROTOCOL
