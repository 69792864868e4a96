"""Validation: the numbers are what they say, on the clips they say."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from pvtok.errors import UsageError
from pvtok.scenes import render_scene
from pvtok.tokenizer import Tokenizer
from pvtok.training.data import TrainingData
from pvtok.training.validation import (
    Clip,
    latent_temporal_distance,
    validate,
    validation_clips,
)
from pvtok.video import VideoWriter
from tests.models import small_tokenizer
from tests.training.runs import config


def scene(seed: int, frames: int, size: int = 32) -> np.ndarray:
    return np.concatenate(list(render_scene(seed, frames, size, size)))


class Perfect(Tokenizer):
    """Reconstructs exactly, and predicts what comes: the known answer."""

    def __init__(self, frames: np.ndarray, off_by: int) -> None:
        self.frames, self.off_by = frames, off_by

    def encode(self, frames, tail="repeat_last"):  # type: ignore[no-untyped-def, override]
        self.frames = frames
        return np.zeros((1 + -(-(len(frames) - 1) // 4), 2, 2, 2), np.float32)

    def decode(self, latents):  # type: ignore[no-untyped-def, override]
        return (self.frames.astype(int) + self.off_by).clip(0, 255).astype(np.uint8)

    def predict(self, context, frames=None, *, detail=True, seed=0):  # type: ignore[no-untyped-def, override]
        after = self.frames[len(context) : len(context) + frames]
        return (after.astype(int) + self.off_by).clip(0, 255).astype(np.uint8)


def test_the_numbers_are_psnr() -> None:
    """Off by 5 everywhere is 20 log10(255 / 5) dB in every frame, however it is averaged."""
    frames = np.full((17, 32, 32, 3), 100, np.uint8)
    frames[9:] = 160  # what copying the last frame of the context misses by 60
    clips = [Clip("a", frames), Clip("b", frames[:10])]
    found = validate(Perfect(frames, 5), clips, context=9, horizon=8, samples=1)
    assert found.psnr == pytest.approx(20 * np.log10(255 / 5))
    assert found.psnr_of_mse == pytest.approx(20 * np.log10(255 / 5))
    assert found.prediction_per_frame == pytest.approx([20 * np.log10(255 / 5)] * 8)
    assert found.copy_last_per_frame == pytest.approx([20 * np.log10(255 / 60)] * 8)
    assert (found.clips, found.predicted_clips, found.wins) == (2, 1, 1)
    row = found.row()
    assert row["prediction_psnr"] == pytest.approx(20 * np.log10(255 / 5))
    assert row["copy_last_psnr"] == pytest.approx(20 * np.log10(255 / 60))


def test_means_over_frames_and_of_errors_differ() -> None:
    frames = np.full((5, 32, 32, 3), 100, np.uint8)

    class Uneven(Perfect):
        def decode(self, latents):  # type: ignore[no-untyped-def, override]
            out = self.frames.copy()
            out[1:] += 1
            out[0] += 10
            return out

    found = validate(Uneven(frames, 0), [Clip("a", frames)], context=9, horizon=8, samples=0)
    each = [20 * np.log10(255 / e) for e in (10, 1, 1, 1, 1)]
    assert found.psnr == pytest.approx(np.mean(each))
    assert found.psnr_of_mse == pytest.approx(10 * np.log10(255**2 / (104 / 5)))
    assert found.sheet is None
    assert found.predicted_clips == 0
    assert "prediction_psnr" not in found.row()


def test_a_real_model_goes_through_the_users_path() -> None:
    tok = small_tokenizer()
    frames = scene(1, 18)
    found = validate(tok, [Clip("a", frames)], context=9, horizon=8, samples=1)
    again = tok.decode(tok.encode(frames))[:18]
    mse = np.square(frames.astype(float) - again).mean((1, 2, 3))
    assert found.psnr == pytest.approx(np.mean(10 * np.log10(255**2 / mse)))
    future = tok.predict(frames[:9], 8)
    mse = np.square(frames[9:17].astype(float) - future).mean((1, 2, 3))
    assert found.prediction_per_frame == pytest.approx(10 * np.log10(255**2 / mse))
    assert found.sheet is not None
    assert found.sheet.shape[1] >= 6 * 32


def test_latent_temporal_distance() -> None:
    """Independent normal latents are the root of two apart whatever their scale; still ones 0."""
    rng = np.random.default_rng(0)
    noise = rng.normal(3, 7, (40, 4, 16, 16)).astype(np.float32)
    assert latent_temporal_distance([noise]) == pytest.approx(2**0.5, rel=0.01)
    assert latent_temporal_distance([noise * 100, noise * 100]) == pytest.approx(2**0.5, rel=0.01)
    still = np.repeat(noise[:1], 5, axis=0)
    assert latent_temporal_distance([still, still + 1]) == 0.0
    assert latent_temporal_distance([noise[:1]]) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for index in range(4):
        path = tmp_path / "clips" / f"{index}.mp4"
        with VideoWriter(path, 48, 40, Fraction(25), crf=20) as writer:
            for chunk in render_scene(index, 12, 40, 48):
                writer.write(chunk)
    return tmp_path / "clips"


def test_held_out_files_are_validated_on(folder: Path) -> None:
    run = config(
        data={"videos": [str(folder)], "procedural": 0.5, "hold_out": 2},
        validation={"limit": 8, "frames": 10, "size": 32},
    )
    data = TrainingData(run.data, run.seed)
    clips, notices = validation_clips(run, data.held_out)
    assert [clip.name for clip in clips] == [path.name for path in data.held_out]
    assert len(clips) == 2
    assert all(clip.frames.shape == (10, 32, 32, 3) for clip in clips)
    assert notices == []
    (folder / data.held_out[0].name).write_bytes(b"no video")
    clips, notices = validation_clips(run, data.held_out)
    assert len(clips) == 1
    assert data.held_out[0].name in notices[0]


def test_clips_can_be_named(folder: Path) -> None:
    run = config(validation={"clips": [str(folder)], "limit": 3})
    clips, _ = validation_clips(run, ())
    assert [clip.name for clip in clips] == ["0.mp4", "1.mp4", "2.mp4"]
    for file in folder.iterdir():
        file.write_bytes(b"no video")
    with pytest.raises(UsageError, match=r"validation\.clips"):
        validation_clips(run, ())


def test_scenes_to_validate_on_are_not_trained_on() -> None:
    run = config(validation={"limit": 2, "frames": 9, "size": 32})
    clips, _ = validation_clips(run, ())
    again, _ = validation_clips(run, ())
    assert [c.frames.shape for c in clips] == [(9, 32, 32, 3)] * 2
    assert np.array_equal(clips[0].frames, again[0].frames)
    assert not np.array_equal(clips[0].frames, clips[1].frames)
    batches = TrainingData(run.data, run.seed).batches(
        [run.stages[0].shapes[0]], source="videos", steps=range(4), first_sample=0
    )
    for batch in batches:
        for sample in batch.clips_BCTHW:
            for clip in clips:
                x = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)
                assert not any(torch.equal(sample.flip(d), x) for d in ([], [1], [3], [1, 3]))
