"""The Python API: shapes, ranges, streams, prediction, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pvtok
from pvtok.errors import (
    FrameSizeError,
    MissingDependencyError,
    ModelMismatchError,
    NonFiniteError,
    TailError,
    UsageError,
)
from pvtok.groups import FramesTHWC
from pvtok.tokenizer import Tokenizer
from tests.models import small_tokenizer


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return small_tokenizer()


def video(frames: int, height: int = 32, width: int = 32, seed: int = 0) -> FramesTHWC:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 6, 9, 16, 17])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (1, 1), (33, 17), (16, 40)])
def test_any_length_and_size(tok: Tokenizer, frames: int, height: int, width: int) -> None:
    z = tok.encode(video(frames, height, width))
    groups, h, w = 1 + -(-(frames - 1) // 4), -(-height // 16), -(-width // 16)
    assert z.shape == (groups, 8, h, w)
    assert z.dtype == np.float32
    y = tok.decode(z)
    assert y.shape == (1 + 4 * (groups - 1), 16 * h, 16 * w, 3)
    assert y.dtype == np.uint8
    assert y[:frames, :height, :width].shape == (frames, height, width, 3)


def test_padding_repeats_edges_and_last_frames(tok: Tokenizer) -> None:
    frames = video(6, 20, 20)
    padded = np.pad(frames, ((0, 3), (0, 12), (0, 12), (0, 0)), mode="edge")
    np.testing.assert_array_equal(tok.encode(frames), tok.encode(padded))


def test_tail_policies(tok: Tokenizer) -> None:
    frames = video(7)
    np.testing.assert_array_equal(tok.encode(frames, tail="drop"), tok.encode(frames[:5]))
    with pytest.raises(TailError, match="7 frames"):
        tok.encode(frames, tail="error")


def test_streams_equal_whole_clips(tok: Tokenizer) -> None:
    frames = video(21)
    whole = tok.encode(frames)
    parts = list(tok.encode_stream(np.split(frames, [2, 3, 11, 20])))
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)
    decoded = np.concatenate(list(tok.decode_stream(np.split(whole, [1, 4]))))
    difference = np.abs(decoded.astype(int) - tok.decode(whole).astype(int))
    assert difference.max() <= 1


def test_a_long_stream_holds_few_frames(tok: Tokenizer) -> None:
    """Latents come out while frames still go in."""
    given = 0

    def chunks():  # type: ignore[no-untyped-def]
        nonlocal given
        for _ in range(50):
            given += 16
            yield video(16, 128, 128)

    next(tok.encode_stream(chunks()))
    assert given <= 16 * 5


def test_tensors_come_back_as_tensors(tok: Tokenizer) -> None:
    frames = video(5)
    z = tok.encode(torch.from_numpy(frames))
    assert isinstance(z, torch.Tensor)
    assert z.dtype == torch.float32
    np.testing.assert_array_equal(z.numpy(), tok.encode(frames))
    y = tok.decode(z)
    assert isinstance(y, torch.Tensor)
    assert y.dtype == torch.uint8
    assert isinstance(tok.predict(torch.from_numpy(frames), frames=2), torch.Tensor)


@pytest.mark.parametrize("context", [1, 2, 8, 9, 17, 30])
@pytest.mark.parametrize("horizon", [1, 4, 8, 21])
def test_prediction_of_any_length(tok: Tokenizer, context: int, horizon: int) -> None:
    future = tok.predict(video(context, 20, 36), frames=horizon)
    assert future.shape == (horizon, 20, 36, 3)
    assert future.dtype == np.uint8


def test_prediction_sees_only_the_context(tok: Tokenizer) -> None:
    frames = video(20)
    np.testing.assert_array_equal(
        tok.predict(frames[:9], frames=8), tok.predict(frames[:9].copy(), frames=8)
    )
    other = frames.copy()
    other[8] ^= 255
    assert not np.array_equal(tok.predict(frames[:9], 8), tok.predict(other[:9], 8))


def test_a_short_context_is_filled_at_its_front(tok: Tokenizer) -> None:
    frames = video(8)
    filled = np.concatenate([frames[:1], frames])
    np.testing.assert_array_equal(tok.predict(frames, 4), tok.predict(filled, 4))


def test_a_prefix_of_a_longer_prediction_is_the_shorter_one(tok: Tokenizer) -> None:
    frames = video(9)
    np.testing.assert_array_equal(tok.predict(frames, 12)[:8], tok.predict(frames, 8))


def test_default_horizon_reaches_the_training_length(tok: Tokenizer) -> None:
    assert len(tok.predict(video(9))) == 8
    assert len(tok.predict(video(1))) == 16
    assert len(tok.predict(video(40))) == 8


def test_gaussian_padding_follows_the_seed() -> None:
    gaussian = small_tokenizer("patch2")
    frames = video(5)
    a, b, c = (gaussian.predict(frames, 4, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_predicting_from_latents_equals_predicting_from_frames(tok: Tokenizer) -> None:
    frames = video(9)
    z = tok.encode(frames)
    context, future = tok.predict_latents(z, 8)
    np.testing.assert_array_equal(context, tok.decode(z))
    np.testing.assert_array_equal(future, tok.predict(frames, 8))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((4, 32, 32), np.uint8),
        np.zeros((4, 3, 32, 32), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((4, 0, 32, 3), np.uint8),
    ],
)
def test_frames_of_a_wrong_shape(tok: Tokenizer, frames: FramesTHWC) -> None:
    with pytest.raises(FrameSizeError, match="\\("):
        tok.encode(frames)


def test_frames_of_a_wrong_dtype(tok: Tokenizer) -> None:
    with pytest.raises(UsageError, match="float64"):
        tok.encode(np.zeros((4, 32, 32, 3)))  # type: ignore[call-overload]


def test_a_stream_of_changing_size(tok: Tokenizer) -> None:
    with pytest.raises(FrameSizeError, match="stream"):
        list(tok.encode_stream([video(3), video(3, 48, 32)]))


def test_latents_that_cannot_be_decoded(tok: Tokenizer) -> None:
    with pytest.raises(ModelMismatchError, match="64"):
        tok.decode(np.zeros((2, 64, 2, 2), np.float32))
    with pytest.raises(NonFiniteError):
        tok.decode(np.full((2, 8, 2, 2), np.nan, np.float32))
    with pytest.raises(FrameSizeError):
        tok.decode(np.zeros((8, 2, 2), np.float32))


def test_a_model_that_overflows_is_stopped(tok: Tokenizer) -> None:
    broken = small_tokenizer()
    with torch.no_grad():
        broken.net.encoder.conv_in.weight.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="encoder"):
        broken.encode(video(1))


def test_empty_context_and_horizon(tok: Tokenizer) -> None:
    with pytest.raises(UsageError, match="context"):
        tok.predict(video(4)[:0])
    with pytest.raises(UsageError, match="frames = 0"):
        tok.predict(video(4), frames=0)


def test_loading_what_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError, match="no-such-model"):
        Tokenizer.load("no-such-model")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(MissingDependencyError, match="triton"):
        Tokenizer.load(device="cpu", kernels="triton")
    with pytest.raises(UsageError, match="fp8"):
        Tokenizer.load(dtype="fp8")
    with pytest.raises(UsageError, match="tpu"):
        Tokenizer.load(device="tpu")
    if torch.cuda.device_count() < 8:
        with pytest.raises(MissingDependencyError, match="cuda:7"):
            Tokenizer.load(device="cuda:7")


def test_the_bundled_model() -> None:
    loaded = pvtok.Tokenizer.load("tiny", device="cpu")
    assert loaded.config.latent_channels == 64
    assert loaded.config.latent_mean is not None
    assert loaded.config.latent_std is not None
    assert min(loaded.config.latent_std) > 0
    assert sum(p.numel() for p in loaded.net.parameters()) <= 12e6
    z = loaded.encode(video(5, 40, 40))
    assert z.shape == (2, 64, 3, 3)


def test_compiling_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    loaded = Tokenizer.load("tiny", "cpu", compile=True)
    assert loaded.steps.backend == "torch"
    assert "compiler" in " ".join(loaded.notices)


@pytest.mark.parametrize("native", [True, False])
def test_the_default_dtype_follows_the_processor(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert Tokenizer.load("tiny", "cpu").dtype_name == ("bf16" if native else "fp32")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert Tokenizer.load("tiny", "cpu").dtype_name == "fp32"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_stays_near_fp32(dtype: str) -> None:
    frames = np.broadcast_to(
        np.linspace(40, 200, 64, dtype=np.uint8)[None, :, None, None], (5, 64, 64, 3)
    )
    full, half = (Tokenizer.load("tiny", "cpu", d) for d in ("fp32", dtype))
    a, b = (t.decode(t.encode(frames)).astype(int) for t in (full, half))
    mse = float(np.square(a - b).mean())
    assert 10 * np.log10(255**2 / max(mse, 1e-3)) > 35
