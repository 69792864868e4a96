"""Operations against independent definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pvtok.kernels import (
    causal_conv3d,
    channels_last,
    fold_upsample_weight,
    next_past,
    rms_norm,
    rms_norm_silu,
    upsample_conv,
    upsample_conv_folded,
)


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_folded_upsampling_in_double(taps: int, size: tuple[int, int], frames: int) -> None:
    x = torch.randn(2, 3, frames, *size, dtype=torch.float64)
    past = torch.randn(2, 3, 1, *size, dtype=torch.float64) if taps == 3 else x[:, :, :0]
    weight = torch.randn(4, 3, taps, 3, 3, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64)
    plain = upsample_conv(x, past, weight, bias)
    folded = upsample_conv_folded(x, past, fold_upsample_weight(weight), bias)
    assert (
        folded.shape
        == plain.shape
        == (2, 4, frames * (2 if taps == 3 else 1), *(2 * s for s in size))
    )
    torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12)


def test_folding_cuts_the_multiplies_as_promised() -> None:
    for taps, before, after in ((1, 9, 4), (3, 27, 8)):
        weight = torch.randn(4, 3, taps, 3, 3)
        folded = fold_upsample_weight(weight)
        phases = folded.shape[0] // 4
        assert weight[0, 0].numel() == before
        assert folded[0, 0].numel() == after
        assert phases == (4 if taps == 1 else 8)


def test_folding_is_differentiable() -> None:
    weight = torch.randn(2, 2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    x, past = torch.randn(1, 2, 2, 3, 3).double(), torch.randn(1, 2, 1, 3, 3).double()
    (a,) = torch.autograd.grad(upsample_conv(x, past, weight, None).square().sum(), weight)
    folded = upsample_conv_folded(x, past, fold_upsample_weight(weight), None)
    (b,) = torch.autograd.grad(folded.square().sum(), weight)
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("stride", [1, 2])
def test_causal_conv_in_chunks(stride: int) -> None:
    x = torch.randn(1, 2, 9, 5, 6, dtype=torch.float64)
    weight = torch.randn(3, 2, 3, 3, 3, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64)
    padded = F.pad(x, (1, 1, 1, 1, 2, 0))
    whole = F.conv3d(padded, weight, bias, (stride, 1, 1))
    past = x.new_zeros(1, 2, 2, 5, 6)
    parts = []
    for chunk in x.split([1, 2, 6] if stride == 2 else [1, 1, 3, 4], dim=2):
        parts.append(causal_conv3d(chunk, past, weight, bias, (stride, 1, 1)))
        past = next_past(chunk, past, 3, stride)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("taps", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_taps_that_meet_the_zero_past_may_be_left_out(frames: int, taps: int, stride: int) -> None:
    x = torch.randn(2, 3, frames, 5, 6, dtype=torch.float64)
    weight = torch.randn(4, 3, taps, 3, 3, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64)
    zeros = x.new_zeros(2, 3, taps - 1, 5, 6)
    every_tap = F.conv3d(torch.cat([zeros, x], 2), weight, bias, (stride, 1, 1), (0, 1, 1))
    torch.testing.assert_close(causal_conv3d(x, None, weight, bias, (stride, 1, 1)), every_tap)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("past_frames", [None, 2])
def test_channels_last_goes_through_a_convolution(
    batch: int, taps: int, past_frames: int | None
) -> None:
    x = torch.randn(batch, 3, 5, 4, 6, dtype=torch.float64)
    past = torch.randn(batch, 3, taps - 1, 4, 6).double() if past_frames else None
    weight = torch.randn(4, 3, taps, 3, 3, dtype=torch.float64)
    expected = causal_conv3d(x, past, weight, None)
    layout = torch.channels_last_3d
    last = causal_conv3d(
        x.contiguous(memory_format=layout), past, weight.contiguous(memory_format=layout), None
    )
    assert channels_last(last)
    assert not channels_last(expected)
    torch.testing.assert_close(last, expected)
    # What a chunk keeps for the next one stays so, too.
    short = x[:, :, :1].contiguous(memory_format=layout)
    if taps == 3:
        kept = next_past(short, past, 3, 1)
        assert channels_last(kept)
        first = torch.zeros_like(short) if past is None else past[:, :, -1:]
        assert torch.equal(kept, torch.cat([first, short], dim=2))


def test_rms_norm_definition_and_locality() -> None:
    x = torch.randn(1, 7, 3, 4, 5)
    gain = torch.rand(7) + 0.5
    y = rms_norm(x, gain, 1e-6)
    expected = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * gain.view(1, 7, 1, 1, 1)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(rms_norm(x[:, :, 1:2], gain, 1e-6), y[:, :, 1:2])


def test_rms_norm_of_halves_is_computed_in_fp32() -> None:
    x = torch.full((1, 4, 1, 1, 1), 3e4, dtype=torch.float16)  # its square overflows fp16
    assert torch.allclose(rms_norm(x, torch.ones(4).half(), 1e-6).float(), torch.ones(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm_and_silu_at_once(dtype: torch.dtype) -> None:
    x = torch.randn(2, 7, 3, 4, 5).to(dtype)
    before, gain = x.clone(), (torch.rand(7) + 0.5).to(dtype)
    at_once = rms_norm_silu(x, gain, 1e-6)
    assert at_once.dtype == dtype
    assert torch.equal(x, before)
    expected = F.silu(rms_norm(x.float(), gain.float(), 1e-6))
    rounding = {"rtol": 1.3e-6 if dtype == torch.float32 else torch.finfo(dtype).eps, "atol": 1e-6}
    torch.testing.assert_close(at_once.float(), expected, **rounding)
