"""The norm that stands alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is not installed")

from pvtok.kernels import rms_norm
from pvtok.kernels.halo_norm import launch, norm, reference
from pvtok.kernels.tiles import Tile
from tests.kernels.halo_cases import DTYPES, EPS, Inputs, Named, assert_near, check, planes


@st.composite
def problems(draw: st.DrawFn) -> tuple[Named, Tile | None]:
    side, front = st.integers(1, 5), draw(st.integers(0, 3))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(side), draw(side))
    named = Inputs(draw(st.sampled_from(DTYPES)), draw(st.integers(0, 99))).norm(
        (*shape, draw(st.sampled_from([3, 16, 20, 48]))),
        x_front=draw(st.integers(0, 2)),
        front=front,
        keep=draw(st.integers(0, front)),
        past=draw(st.booleans()),
    )
    return named, draw(st.sampled_from([None, Tile(16, 64, 16, 4, 1), Tile(32, 64, 16, 4, 1)]))


@settings(max_examples=20, deadline=None)
@given(problems())
def test_equals_the_reference(problem: tuple[Named, Tile | None]) -> None:
    named, tile = problem
    check(launch, reference, named, tile=tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [20, 520])
def test_is_rms_norm_and_silu(channels: int, dtype: torch.dtype) -> None:
    # 520 is more than a convolution norms on its way out: what this kernel is for.
    named = Inputs(dtype).norm((2, 2, 3, 4, channels), x_front=1)
    out, _ = norm(**named)
    x, gain = planes(named["x"], 1, channels), named["gain"].cpu()[:channels]
    assert_near(planes(out, 0, channels), F.silu(rms_norm(x, gain, EPS)), dtype)


def test_halves_are_squared_in_fp32() -> None:
    named = Inputs(torch.float16).norm((1, 1, 2, 2, 16))
    named["x"][:, :, :-1, :-1] = 3e4  # its square overflows fp16
    out, _ = norm(**named)
    want = F.silu(named["gain"]).half().expand(2, 2, -1)
    assert_near(out[0, 0, :-1, :-1], want)


def test_the_past_of_the_input_does_not_leak() -> None:
    named = Inputs().norm((2, 2, 3, 4, 16), x_front=2, front=1, keep=1)
    want = norm(**named)
    named["x"][:, :2] = float("nan")
    assert all(torch.equal(g, w) for g, w in zip(norm(**named), want, strict=True))
