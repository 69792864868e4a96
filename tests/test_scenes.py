"""Procedural scenes: deterministic, moving, any size, fast, and with natural statistics."""

import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtok.errors import UsageError
from pvtok.scenes import render_scene


def clip(seed: int, frames: int, height: int, width: int, fps: float = 24, chunk: int = 16):
    return np.concatenate(list(render_scene(seed, frames, height, width, fps, chunk=chunk)))


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_the_chunk_size_changes_nothing(chunk: int) -> None:
    chunks = list(render_scene(5, 10, 40, 56, chunk=chunk))
    assert [len(c) for c in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    assert np.array_equal(np.concatenate(chunks), clip(5, 10, 40, 56))


def test_a_shorter_clip_is_the_beginning_of_a_longer_one() -> None:
    assert np.array_equal(clip(2, 12, 32, 32)[:5], clip(2, 5, 32, 32))


def test_seeds_give_different_scenes() -> None:
    firsts = [clip(seed, 1, 48, 48)[0].astype(int) for seed in range(6)]
    for i in range(6):
        for j in range(i):
            assert np.abs(firsts[i] - firsts[j]).mean() > 5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 70), st.floats(0.5, 240))
def test_any_size_goes(seed: int, height: int, width: int, fps: float) -> None:
    frames = clip(seed, 3, height, width, fps)
    assert frames.shape == (3, height, width, 3)
    assert frames.dtype == np.uint8


def test_no_frames_is_nothing() -> None:
    assert list(render_scene(0, 0, 8, 8)) == []


@pytest.mark.parametrize("seed", range(8))
def test_scenes_look_like_video_and_not_like_a_test_card(seed: int) -> None:
    frames = clip(seed, 25, 128, 128).astype(np.float64)
    luma = frames.mean(-1)
    assert 40 < luma.mean() < 215
    assert luma.std() > 15
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) > 2000  # colours
    assert (frames >= 255).mean() < 0.1
    # Something moves in every step, and neighbouring frames stay far more alike than distant ones.
    near = np.abs(np.diff(luma, axis=0)).mean((1, 2))
    assert near.min() > 0.3
    assert near.mean() < 0.75 * np.abs(luma[-1] - luma[0]).mean()
    # Neighbouring pixels are alike: amplitude falls with frequency.
    across = luma[0] - luma[0].mean()
    assert (across[:, 1:] * across[:, :-1]).mean() > 0.7 * (across**2).mean()


def test_a_higher_rate_moves_less_per_frame() -> None:
    slow, fast = (clip(3, 8, 96, 96, fps).astype(float) for fps in (12, 96))
    assert np.abs(np.diff(fast, axis=0)).mean() < np.abs(np.diff(slow, axis=0)).mean()
    # The same instants are the same but for the grain.
    assert np.abs(clip(3, 8, 96, 96, 96)[0].astype(float) - slow[0]).mean() < 2.5


def test_wrong_arguments_are_refused_at_the_call() -> None:
    for arguments in ((-1, 1, 8, 8), (0, -1, 8, 8), (0, 1, 0, 8), (0, 1, 8, 0)):
        with pytest.raises(UsageError, match="is below"):
            render_scene(*arguments)
    with pytest.raises(UsageError, match="frames per second"):
        render_scene(0, 1, 8, 8, 0)
    with pytest.raises(UsageError, match="chunk 0"):
        render_scene(0, 1, 8, 8, chunk=0)


def test_scenes_import_no_torch() -> None:
    code = "import sys, pvtok.scenes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_speed() -> None:
    """Sixty frames a second at 256x256 on one core, set-up included."""
    rates = []
    for seed in range(10):
        start = time.process_time()
        clip(seed, 72, 256, 256)
        rates.append(72 / (time.process_time() - start))
    assert np.median(rates) > 60
