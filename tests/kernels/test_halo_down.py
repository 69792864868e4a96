"""The strided convolution and its shortcut against their references and plain definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from pvtok.kernels import halo_shortcut, rms_norm
from pvtok.kernels.halo import interior, pack_channels, pack_weight, to_halo
from pvtok.kernels.halo_down import down, launch, reference
from pvtok.kernels.halo_norm import norm
from pvtok.kernels.halo_shortcut import shortcut
from pvtok.kernels.tiles import Tile
from pvtok.model.resample import space_to_depth
from tests.kernels.halo_cases import (
    DTYPES,
    EPS,
    ON_GPU,
    TILES,
    Inputs,
    Named,
    assert_near,
    assert_zero_border,
    check,
    on_cpu,
    past_planes,
    planes,
    poisoned_memory,
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Named, Tile | None]:
    side, channels, flag = st.integers(1, 4), st.sampled_from([3, 12, 16, 20, 48]), st.booleans()
    O, normed, front = draw(channels), draw(flag), draw(st.integers(0, 3))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(side), draw(side))
    named = Inputs(draw(st.sampled_from(DTYPES)), draw(st.integers(0, 99))).down(
        (*shape, draw(channels)),
        O,
        draw(flag),
        first=draw(flag),
        front=front,
        keep=draw(st.integers(0, front)),
        past=draw(flag),
        norm=normed,
        raw=draw(flag),
        residual=draw(flag),
    )
    wide = [tile for tile in TILES if not normed or tile.n >= O]
    return named, draw(st.sampled_from([None, *wide]))


@settings(max_examples=10, deadline=None)
@given(problems())
def test_equals_the_reference(problem: tuple[Named, Tile | None]) -> None:
    named, tile = problem
    check(launch, reference, named, tile=tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES)
def test_tiles_across_frames_and_batch_items(tile: Tile, dtype: torch.dtype) -> None:
    # 12 rows a frame, 36 an item; 32 -> 20 channels.
    named = Inputs(dtype).down(
        (2, 2, 2, 3, 32), 20, front=1, keep=1, past=True, raw=True, residual=True
    )
    assert 12 % tile.m
    assert 36 % tile.m
    check(launch, reference, named, tile=tile)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("time", [True, False])
def test_is_a_strided_causal_convolution(time: bool, first: bool, dtype: torch.dtype) -> None:
    C, O, inputs = 12, 20, Inputs(dtype)
    weight, bias, gain = (
        inputs.filters(O, C, 3 if time else 1, 3, 3),
        inputs.bias(O),
        inputs.gain(O),
    )
    named = inputs.down((2, 2, 2, 3, C), O, time, first=first, norm=True, raw=True, residual=True)
    named |= {"weight": pack_weight(weight), "bias": pack_channels(bias)}
    named |= {"gain": pack_channels(gain)}
    out, raw, _ = down(**named)

    front = named["x_front"]
    x = torch.cat([past_planes(named["x"], front, front, C), planes(named["x"], front, C)], dim=2)
    padded = F.pad(x, (1, 1, 1, 1, 0, 0))
    stride = (2 if time else 1, 2, 2)
    plain = F.conv3d(padded, weight.double().cpu(), bias.double().cpu(), stride)
    plain = plain + planes(named["residual"], 0, O)
    assert_near(planes(raw, 0, O), plain, dtype)
    assert_near(planes(out, 0, O), F.silu(rms_norm(plain, gain.cpu(), EPS)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("plan", [[1, 4], [3, 2]])
def test_any_chunk_plan_gives_the_same(plan: list[int], dtype: torch.dtype) -> None:
    inputs = Inputs(dtype)
    x, gain = inputs.normal(1, 5, 4, 6, 16), pack_channels(inputs.gain(16))
    named = inputs.down((1, 1, 2, 3, 16))

    def run(plan: list[int]) -> Tensor:
        kept, parts = None, []
        for chunk in x.split(plan, dim=1):
            first = kept is None
            front = 2 if first else 1
            h, kept = norm(to_halo(chunk), gain, kept, 0, front, 1, EPS, 16)
            out, _, _ = down(**named | {"x": h, "first": first, "x_front": front})
            parts.append(interior(out, 0))
        return torch.cat(parts, dim=1)

    tolerance = 0.0 if ON_GPU else 1e-6 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(run(plan), run([5]), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", TILES[1:])
def test_skipping_the_zero_past_changes_nothing(tile: Tile, dtype: torch.dtype) -> None:
    # Told that it is a later step, it takes the second of the two zero frames for its first input.
    named = Inputs(dtype).down((1, 2, 2, 3, 16), first=True, front=1, norm=True)
    skipping, _, _ = launch(**named, tile=tile)
    reading, _, _ = launch(**named | {"first": False, "x_front": 1}, tile=tile)
    assert torch.equal(skipping, reading)


def test_the_zero_past_is_not_read() -> None:
    # 16 rows a frame of the result: each tile lies in one frame.
    named = Inputs().down((1, 2, 3, 3, 16), first=True, front=1, raw=True)
    tile = Tile(16, 16, 16, 4, 2)
    want, _, _ = launch(**named, tile=tile)
    named["x"][:, :2, :-1, :-1] = float("nan")
    got, _, _ = launch(**named, tile=tile)
    assert torch.equal(got, want)


def test_a_batch_item_never_sees_another() -> None:
    named = Inputs().down((2, 2, 2, 3, 16), front=1, norm=True, residual=True)
    want = launch(**named, tile=TILES[1])[0][1]
    named["x"][0, :, :-1, :-1] = float("nan")
    named["residual"][0] = float("nan")
    assert torch.equal(launch(**named, tile=TILES[1])[0][1], want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("time", "channels", "wider"), [(True, 3, 1), (True, 12, 2), (False, 20, 2), (False, 16, 4)]
)
def test_the_shortcut_averages_space_to_depth(
    time: bool, channels: int, wider: int, first: bool, dtype: torch.dtype
) -> None:
    stride = 2 if time else 1
    O, x_front = channels * wider, 1
    averaged = 4 * stride // wider
    named = {
        "x": Inputs(dtype).halo(2, 2 * stride - (stride - 1) * first, 4, 6, channels, front=1),
        "channels": -(-O // 16) * 16,
        "x_front": x_front,
        "time_stride": stride,
        "averaged": averaged,
        "first": first,
    }
    named["x"][:, :1] = float("nan")  # the past is not looked at
    with poisoned_memory():
        got = halo_shortcut.launch(**named)
    assert_zero_border(got)
    assert not got[..., O:].any()
    assert_near(got, halo_shortcut.reference(**on_cpu(named)))
    assert torch.equal(shortcut(**named), got)

    x = planes(named["x"], x_front, channels)
    if first and time:
        x = torch.cat([x[:, :, :1], x], dim=2)
    folded = space_to_depth(x, (stride, 2, 2))
    assert_near(planes(got, 0, O), folded.unflatten(1, (O, averaged)).mean(2), dtype)
