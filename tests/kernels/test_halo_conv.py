"""The convolution in halo layout against its reference, and against convolutions of planes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is not installed")

from pvtok.kernels import causal_conv3d, rms_norm
from pvtok.kernels.halo import interior, pack_channels, pack_weight, to_halo
from pvtok.kernels.halo_conv import conv, launch, reference
from pvtok.kernels.halo_norm import norm
from pvtok.kernels.tiles import Tile
from tests.kernels.halo_cases import (
    DTYPES,
    EPS,
    ON_GPU,
    TILES,
    Inputs,
    Named,
    assert_near,
    check,
    past_planes,
    planes,
    poisoned_memory,
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Named, Tile | None]:
    side, channels, flag = st.integers(1, 5), st.sampled_from([3, 12, 16, 20, 48]), st.booleans()
    O, normed, front = draw(channels), draw(flag), draw(st.integers(0, 3))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(side), draw(side))
    named = Inputs(draw(st.sampled_from(DTYPES)), draw(st.integers(0, 99))).conv(
        (*shape, draw(channels)),
        O,
        draw(st.sampled_from([(3, 3), (2, 3), (1, 3), (3, 1), (1, 1)])),
        first=draw(flag),
        x_more=draw(st.integers(0, 1)),
        front=front,
        keep=draw(st.integers(0, front)),
        past=draw(flag),
        norm=normed,
        raw=draw(flag),
        residual_front=draw(st.sampled_from([None, 0, 2])),
    )
    # A norm needs the whole row of channels in one tile.
    wide = [tile for tile in TILES if not normed or tile.n >= O]
    return named, draw(st.sampled_from([None, *wide]))


@settings(max_examples=12, deadline=None)
@given(problems())
def test_equals_the_reference(problem: tuple[Named, Tile | None]) -> None:
    named, tile = problem
    check(launch, reference, named, tile=tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES)
def test_tiles_across_frames_and_batch_items(tile: Tile, dtype: torch.dtype) -> None:
    # 12 rows a frame, 36 an item: no tile ends with either. 32 -> 20: blocks of k, and of n at 16.
    inputs = Inputs(dtype)
    named = inputs.conv(
        (2, 2, 2, 3, 32), 20, (2, 3), front=1, keep=1, past=True, raw=True, residual_front=1
    )
    assert 12 % tile.m
    assert 36 % tile.m
    check(launch, reference, named, tile=tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("taps", [(3, 3), (1, 1)])
def test_is_a_causal_convolution(taps: tuple[int, int], first: bool, dtype: torch.dtype) -> None:
    B, T, H, W, C, O = 2, 3, 4, 5, 12, 20
    inputs, (kt, ks) = Inputs(dtype), taps
    weight, bias, gain = inputs.filters(O, C, kt, ks, ks), inputs.bias(O), inputs.gain(O)
    named = inputs.conv((B, T, H, W, C), O, taps, first=first, raw=True, residual_front=0)
    named |= {"weight": pack_weight(weight), "bias": pack_channels(bias)}
    named |= {"gain": pack_channels(gain), "channels": O}
    out, raw, _ = conv(**named)

    x, front = named["x"], named["x_front"]
    past = past_planes(x, front, kt - 1, C)
    plain = causal_conv3d(planes(x, front, C), past, weight.double().cpu(), bias.double().cpu())
    plain = plain + planes(named["residual"], 0, O)
    assert_near(planes(raw, 0, O), plain, dtype)
    normed = F.silu(rms_norm(plain, gain.cpu(), EPS))
    assert_near(planes(out, 0, O), normed, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plan", [[1, 4], [2, 1, 2], [4, 1]])
def test_any_chunk_plan_gives_the_same(plan: list[int], dtype: torch.dtype) -> None:
    """The kept frames of what stands before a convolution make its streams seamless."""
    B, T, H, W, C = 2, 5, 2, 3, 16
    inputs = Inputs(dtype)
    x, gain = inputs.normal(B, T, H, W, C), pack_channels(inputs.gain(C))
    named = inputs.conv((B, 1, H, W, C))

    def run(plan: list[int]) -> torch.Tensor:
        kept, parts = None, []
        for chunk in x.split(plan, dim=1):
            first = kept is None
            h, kept = norm(to_halo(chunk), gain, kept, 0, 2, 2, EPS, C)
            out, _, _ = conv(**named | {"x": h, "first": first})
            parts.append(interior(out, 0))
        return torch.cat(parts, dim=1)

    # Every element is summed in the same order on a GPU; NumPy's products depend on their sizes.
    tolerance = 0.0 if ON_GPU else 1e-6 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(run(plan), run([5]), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("taps", "tile"), [((3, 3), TILES[1]), ((2, 3), TILES[2])])
def test_skipping_the_zero_past_changes_nothing(
    tile: Tile, taps: tuple[int, int], dtype: torch.dtype
) -> None:
    named = Inputs(dtype).conv((1, 3, 2, 5, 16), taps=taps, first=True, front=2, norm=True)
    skipping, _, _ = launch(**named, tile=tile)
    reading, _, _ = launch(**named | {"first": False}, tile=tile)
    assert torch.equal(skipping, reading)


@pytest.mark.parametrize("front", [0, 2])
def test_the_zero_past_is_not_read(front: int) -> None:
    # 16 rows a frame: each tile lies in one frame, and needs none of the past.
    named = Inputs().conv((2, 3, 3, 3, 16), first=True, front=front, raw=True)
    tile = Tile(16, 16, 16, 4, 2)
    want, _, _ = launch(**named, tile=tile)
    named["x"][:, :2, :-1, :-1] = float("nan")
    got, _, _ = launch(**named, tile=tile)
    assert torch.equal(got, want)


@pytest.mark.skipif(ON_GPU, reason="counts steps in the interpreter")
def test_skipped_taps_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.interpreter import InterpreterBuilder

    steps = 0
    create_dot = InterpreterBuilder.create_dot

    def counted(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        return create_dot(*args)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted)
    named = Inputs().conv((1, 3, 3, 3, 16), first=True, front=2)
    launch(**named, tile=Tile(16, 16, 16, 4, 2))
    # Two past frames of the output, then frames that see 1, 2 and 3 frames by 9 taps.
    assert steps == 9 * (0 + 0 + 1 + 2 + 3)


def test_the_residuals_past_does_not_leak() -> None:
    named = Inputs().conv((2, 2, 3, 4, 16), front=1, keep=1, raw=True, residual_front=2)
    want = launch(**named, tile=TILES[1])
    named["residual"][:, :2] = float("nan")
    with poisoned_memory():
        got = launch(**named, tile=TILES[1])
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("norm", [True, False])
def test_a_batch_item_never_sees_another(norm: bool) -> None:
    named = Inputs().conv((2, 2, 3, 4, 16), front=1, norm=norm, residual_front=0)
    want = launch(**named, tile=TILES[1])[0][1]
    named["x"][0, :, :-1, :-1] = float("nan")
    named["residual"][0] = float("nan")
    assert torch.equal(launch(**named, tile=TILES[1])[0][1], want)
