"""The folded upsampling convolution against its reference, and against the unfolded definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from pvtok.kernels import fold_upsample_weight, rms_norm, upsample_conv
from pvtok.kernels.halo import interior, pack_channels, to_halo
from pvtok.kernels.halo_norm import norm
from pvtok.kernels.halo_up import launch, pack_folded, reference, up
from pvtok.kernels.tiles import Tile
from pvtok.model.resample import depth_to_space
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
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Named, Tile | None]:
    side, channels, flag = st.integers(1, 3), st.sampled_from([3, 12, 16, 20, 48]), st.booleans()
    C, O, normed, time = draw(channels), draw(channels), draw(flag), draw(flag)
    front = draw(st.integers(0, 3))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(side), draw(side))
    named = Inputs(draw(st.sampled_from(DTYPES)), draw(st.integers(0, 99))).up(
        (*shape, C),
        O,
        time,
        first=draw(flag),
        shortcut=O * (8 if time else 4) % C == 0 and draw(flag),
        front=front,
        keep=draw(st.integers(0, front)),
        past=draw(flag),
        norm=normed,
        raw=draw(flag),
    )
    wide = [tile for tile in TILES if not normed or tile.n >= O]
    return named, draw(st.sampled_from([None, *wide]))


@settings(max_examples=8, deadline=None)
@given(problems())
def test_equals_the_reference(problem: tuple[Named, Tile | None]) -> None:
    named, tile = problem
    check(launch, reference, named, tile=tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tile", "time"), [(TILES[0], False), (TILES[1], False), (TILES[2], True)])
def test_tiles_across_frames_and_batch_items(tile: Tile, time: bool, dtype: torch.dtype) -> None:
    # 12 rows a source frame, 36 an item with what stands for the past; 32 -> 24 channels.
    front = 2 if time else 1
    named = Inputs(dtype).up(
        (2, 2, 2, 3, 32), 24, time, front=front, keep=1, past=True, raw=True, shortcut=True
    )
    assert 12 % tile.m
    assert 36 % tile.m
    check(launch, reference, named, tile=tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("time", [True, False])
def test_is_the_unfolded_upsampling_convolution(
    time: bool, first: bool, dtype: torch.dtype
) -> None:
    C, O, inputs, factor = 20, 10, Inputs(dtype), 2 if time else 1
    weight = inputs.filters(O, C, 3 if time else 1, 3, 3)
    bias, gain = inputs.bias(O), inputs.gain(O)
    named = inputs.up((2, 2, 2, 3, C), O, time, first=first, norm=True, raw=True, shortcut=True)
    folded = fold_upsample_weight(weight.float()).to(dtype)
    named |= {"weight": pack_folded(folded, 4 * factor), "bias": pack_channels(bias)}
    named |= {"gain": pack_channels(gain)}
    out, raw, _ = up(**named)

    front = factor - 1
    x, past = planes(named["x"], front, C), past_planes(named["x"], front, front, C)
    plain = upsample_conv(x, past, weight.double().cpu(), bias.double().cpu())
    plain = plain + depth_to_space(x.repeat_interleave(named["repeats"], dim=1), (factor, 2, 2))
    plain = plain[:, :, 1:] if time and first else plain
    # Folded filters are rounded after the taps are added, so 16-bit ones are not quite the same.
    assert_near(planes(raw, 0, O), plain, dtype)
    assert_near(planes(out, 0, O), F.silu(rms_norm(plain, gain.cpu(), EPS)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plan", [[1, 2], [2, 1]])
def test_any_chunk_plan_gives_the_same(plan: list[int], dtype: torch.dtype) -> None:
    inputs = Inputs(dtype)
    x, gain = inputs.normal(1, 3, 2, 3, 16), pack_channels(inputs.gain(16))
    named = inputs.up((1, 1, 2, 3, 16), shortcut=True)

    def run(plan: list[int]) -> Tensor:
        kept, parts = None, []
        for chunk in x.split(plan, dim=1):
            first = kept is None
            h, kept = norm(to_halo(chunk), gain, kept, 0, 1, 1, EPS, 16)
            out, _, _ = up(**named | {"x": h, "first": first})
            parts.append(interior(out, 0))
        return torch.cat(parts, dim=1)

    whole = run([3])
    assert whole.shape[1] == 5
    tolerance = 0.0 if ON_GPU else 1e-6 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(run(plan), whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_skipping_the_zero_past_changes_nothing(dtype: torch.dtype) -> None:
    named = Inputs(dtype).up((1, 2, 2, 3, 16), first=True, norm=True)
    skipping, _, _ = launch(**named, tile=TILES[1])
    reading, _, _ = launch(**named | {"first": False}, tile=TILES[1])
    assert torch.equal(skipping, reading[:, 1:])


@pytest.mark.parametrize("front", [0, 2])
def test_the_zero_past_is_not_read(front: int) -> None:
    # 16 rows a source frame: each tile lies in one.
    named = Inputs().up((1, 2, 3, 3, 16), first=True, front=front, raw=True)
    tile = Tile(16, 16, 16, 4, 2)
    want, _, _ = launch(**named, tile=tile)
    named["x"][:, :1, :-1, :-1] = float("nan")
    got, _, _ = launch(**named, tile=tile)
    assert torch.equal(got, want)


def test_a_batch_item_never_sees_another() -> None:
    named = Inputs().up((2, 2, 2, 3, 16), time=False, front=1, norm=True, shortcut=True)
    want = launch(**named, tile=TILES[1])[0][1]
    named["x"][0, :, :-1, :-1] = float("nan")
    assert torch.equal(launch(**named, tile=TILES[1])[0][1], want)
