"""From bytes to the halo layout and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from pvtok.kernels.halo import aligned, interior, to_halo
from pvtok.kernels.halo_pixels import (
    launch_in,
    launch_out,
    pixels_in,
    pixels_out,
    reference_in,
    reference_out,
)
from pvtok.model.resample import depth_to_space, space_to_depth
from tests.kernels.halo_cases import (
    DEVICE,
    DTYPES,
    Inputs,
    assert_near,
    check,
    on_cpu,
    planes,
    poisoned_memory,
)


def clip(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8).to(DEVICE)


def every_byte() -> Tensor:
    """One frame of 16x16 in which each color takes each of its 256 values."""
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16, 1)
    return torch.cat([values, values.flip(2), values.transpose(2, 3)], dim=-1).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize(
    ("size", "front", "keep", "past"),
    [((1, 1), 2, 2, False), ((5, 18), 1, 1, True), ((16, 7), 0, 0, False)],
)
def test_in_equals_the_reference(
    size: tuple[int, int], front: int, keep: int, past: bool, patch: int, dtype: torch.dtype
) -> None:
    H, W = (-(-side // 16) * 16 // patch for side in size)
    C = aligned(3 * patch * patch)
    named: dict[str, Any] = {
        "frames": clip(2, 2, *size),
        "past": Inputs(dtype).halo(2, front, H, W, C) if past else None,
        "patch": patch,
        "multiple": 16,
        "front": front,
        "keep": keep,
        "dtype": dtype,
    }
    check(launch_in, reference_in, named)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_in_is_the_plain_normalisation_of_every_value(patch: int, dtype: torch.dtype) -> None:
    frames = every_byte()[:, :, :13].contiguous()  # 3 rows are repeated
    out, _ = pixels_in(frames, None, patch, 16, 0, 0, dtype)
    x = frames.permute(0, 4, 1, 2, 3).float().cpu() / 127.5 - 1.0
    x = F.pad(x, (0, 0, 0, 3, 0, 0), mode="replicate")
    plain = space_to_depth(x, (1, patch, patch)).to(dtype)
    got = planes(out, 0, 3 * patch * patch)
    assert_near(got, plain, dtype)
    if dtype != torch.float32:  # rounding hides the last bit of the division
        assert torch.equal(got, plain.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_out_equals_the_reference_and_the_plain_way(
    patch: int, added: bool, dtype: torch.dtype
) -> None:
    inputs = Inputs(dtype)
    C = 3 * patch * patch
    named = {
        "x": inputs.halo(2, 2, 3, 5, C, front=1),
        "added": inputs.normal(2, 3, 2, 3 * patch, 5 * patch) if added else None,
        "x_front": 1,
        "patch": patch,
    }
    named["x"][:, 0] = float("nan")  # the past is not looked at
    with poisoned_memory():
        got = launch_out(**named)
    assert got.dtype == torch.uint8
    assert torch.equal(got.cpu(), reference_out(**on_cpu(named)))

    y = depth_to_space(interior(named["x"], 1, C).movedim(-1, 1), (1, patch, patch))
    y = y if named["added"] is None else y + named["added"]
    plain = ((y.permute(0, 2, 3, 4, 1).float() + 1.0) * 127.5).clamp(0, 255).round()
    assert torch.equal(got, plain.to(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_bytes_survive_the_way_in_and_out(patch: int, dtype: torch.dtype) -> None:
    frames = every_byte()
    there, _ = pixels_in(frames, None, patch, 16, 0, 0, dtype)
    back = pixels_out(there, None, 0, patch)
    if dtype == torch.bfloat16:  # eight bits of significand do not tell all values apart
        assert int((back.int() - frames.int()).abs().max()) <= 1
    else:
        assert torch.equal(back, frames)


def test_halves_are_rounded_to_even_and_ends_cut_off() -> None:
    # (v + 1) * 127.5 is exact in fp32 for v = -1 + n / 255 where n / 255 is.
    v = torch.tensor([-1.0, -2.0, 1.0, 3.0, 0.0, float("inf"), -float("inf"), 0.2, -0.2])
    x = to_halo(v.to(DEVICE).view(1, 1, 1, 3, 3))
    got = pixels_out(x, None, 0, 1).cpu().flatten()
    # 0 lies halfway: 127.5 becomes 128, which is even.
    assert got.tolist() == [0, 0, 255, 255, 128, 255, 0, 153, 102]

    # Other halves: v with (v + 1) * 127.5 = n + 0.5 exactly in fp32.
    n = torch.arange(255)
    v = ((n + 0.5) / 127.5 - 1.0).float()
    exact = (v + 1.0) * 127.5 == n + 0.5
    assert int(exact.sum()) > 20
    v, n = v[exact][: int(exact.sum()) // 3 * 3], n[exact][: int(exact.sum()) // 3 * 3]
    x = to_halo(v.to(DEVICE).view(1, 1, 1, -1, 3))
    assert torch.equal(pixels_out(x, None, 0, 1).cpu().flatten().int(), (n + n % 2).int())
