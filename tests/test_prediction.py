"""Where a context begins, what counts as truth, and what a prediction may not see."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pvtok.convert import decode_frames, encode_video
from pvtok.errors import ModelMismatchError, UsageError
from pvtok.evaluation import evaluate_files, evaluate_model
from pvtok.groups import FramesTHWC
from pvtok.prediction import predict_store, predict_video
from pvtok.scenes import render_scene
from pvtok.store import LatentStore, open_store
from pvtok.tokenizer import Tokenizer
from pvtok.video import VideoWriter, read_frames
from tests.models import small_tokenizer

FRAMES = 30


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return small_tokenizer()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames of 40x36, losslessly."""
    path = tmp_path_factory.mktemp("video") / "v.mkv"
    with VideoWriter(path, 40, 36, Fraction(25), lossless=True) as writer:
        for chunk in render_scene(2, FRAMES, 36, 40):
            writer.write(chunk)
    return path


@pytest.fixture(scope="module")
def frames(video: Path) -> FramesTHWC:
    return read_frames(video)


@pytest.fixture(scope="module")
def store(tok: Tokenizer, video: Path) -> LatentStore:
    encode_video(tok, video, video.with_suffix(".zarr"))
    return open_store(video.with_suffix(".zarr"))


@pytest.mark.parametrize(("context", "at"), [(1, 0), (8, 0), (9, 5), (3, 22), (20, 9)])
def test_a_video_context_is_its_frames_and_the_truth_what_follows(
    tok: Tokenizer, video: Path, frames: FramesTHWC, context: int, at: int
) -> None:
    made = predict_video(tok, video, context, at=at, frames=8)
    end = at + context
    np.testing.assert_array_equal(made.context, frames[at:end])
    np.testing.assert_array_equal(made.truth, frames[end : end + 8])
    np.testing.assert_array_equal(made.predicted, tok.predict(frames[at:end], 8))
    assert made.truth_source == ("video" if end < FRAMES else None)


def test_a_truth_cut_short_counts_as_far_as_it_goes(tok: Tokenizer, video: Path) -> None:
    made = predict_video(tok, video, 9, at=18, frames=8)
    assert (len(made.predicted), len(made.truth)) == (8, 3)
    scores, copied = made.against_truth(), made.copy_last_against_truth()
    assert scores is not None
    assert copied is not None
    assert scores.frames == copied.frames == 3


def test_the_end_is_the_last_frames(tok: Tokenizer, video: Path, frames: FramesTHWC) -> None:
    made = predict_video(tok, video, 7, at="end", frames=4)
    np.testing.assert_array_equal(made.context, frames[-7:])
    assert made.truth_source is None
    assert made.against_truth() is None


@pytest.mark.parametrize(("context", "at"), [(31, 0), (9, 22), (1, 30)])
def test_a_context_the_video_does_not_hold(
    tok: Tokenizer, video: Path, store: LatentStore, context: int, at: int
) -> None:
    for predict in (
        lambda: predict_video(tok, video, context, at=at),
        lambda: predict_store(tok, store, context, at=at),
    ):
        with pytest.raises(UsageError, match="30 frames"):
            predict()


def test_a_store_predicts_as_its_stream_goes_on(tok: Tokenizer, store: LatentStore) -> None:
    """From the middle: the decoder knows the stream's past, and nothing of its future."""
    made = predict_store(tok, store, 8, at=9, frames=8)
    latents = store.read(0, 5)  # frames 0..16, of which 9..16 are the context
    _, expected = tok.predict_latents(latents, 8, context_groups=2)
    difference = made.predicted.astype(int) - expected[:, :36, :40].astype(int)
    assert np.abs(difference).max() <= 1
    whole = np.concatenate(list(decode_frames(tok, store)))
    assert np.abs(made.truth.astype(int) - whole[17:25].astype(int)).max() <= 1
    assert made.truth_source == "reconstruction"


def test_evaluation_compares_true_frames_only(
    tok: Tokenizer, video: Path, frames: FramesTHWC
) -> None:
    """30 frames are 8 groups of which the last is filled: the filling does not count."""
    found = evaluate_model(tok, video, with_vmaf=False)
    decoded = tok.decode(tok.encode(frames))[:FRAMES, :36, :40]
    mse = np.square(decoded.astype(float) - frames.astype(float)).mean((1, 2, 3))
    assert found.frames.frames == FRAMES
    assert found.frames.psnr == pytest.approx((10 * np.log10(255**2 / mse)).mean(), abs=0.02)


def test_evaluation_of_a_store_decodes_it(tok: Tokenizer, video: Path, store: LatentStore) -> None:
    direct = evaluate_model(tok, video, with_vmaf=False).frames.psnr
    stored = evaluate_files(video, store.path, tok=tok, with_vmaf=False).frames.psnr
    assert stored == pytest.approx(direct, abs=0.05)


def test_a_store_of_another_model_is_refused_even_where_shapes_fit(store: LatentStore) -> None:
    """At the end there is no truth to decode: the check must not hang on that."""
    other = small_tokenizer()
    other.sha256 = "0" * 64
    with pytest.raises(ModelMismatchError, match="made by model"):
        predict_store(other, store, 5, at="end", frames=4)
