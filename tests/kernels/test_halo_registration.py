"""The kernels as PyTorch operators: schemas, tracing, gradients, limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from pvtok.kernels import causal_conv3d, fold_upsample_weight, rms_norm, upsample_conv
from pvtok.kernels.halo import interior, pack_channels, pack_weight, to_halo
from pvtok.kernels.halo_conv import conv
from pvtok.kernels.halo_down import down
from pvtok.kernels.halo_norm import norm
from pvtok.kernels.halo_pixels import pixels_in, pixels_out
from pvtok.kernels.halo_shortcut import shortcut
from pvtok.kernels.halo_up import pack_folded, up
from pvtok.kernels.registration import MAX_ROWS
from pvtok.model.resample import depth_to_space, space_to_depth
from tests.kernels.halo_cases import DEVICE, EPS, Inputs, Named, assert_near

SMALL = (1, 1, 1, 2, 16)
OPERATORS: dict[str, tuple[Any, Callable[[], Named]]] = {
    "conv": (
        conv,
        lambda: Inputs().conv(
            SMALL, taps=(2, 1), front=1, keep=1, past=True, norm=True, raw=True, residual_front=0
        ),
    ),
    "conv, bare": (conv, lambda: Inputs().conv(SMALL, taps=(1, 1))),
    "down": (
        down,
        lambda: Inputs().down(
            SMALL, time=False, front=1, keep=1, past=True, norm=True, raw=True, residual=True
        ),
    ),
    "up": (
        up,
        lambda: Inputs().up(
            SMALL, time=False, front=1, keep=1, past=True, norm=True, raw=True, shortcut=True
        ),
    ),
    "norm": (norm, lambda: Inputs().norm(SMALL, x_front=1, front=1, keep=1, past=True)),
    "shortcut": (
        shortcut,
        lambda: {
            "x": Inputs().halo(1, 1, 2, 2, 16, front=1),
            "channels": 32,
            "x_front": 1,
            "time_stride": 2,
            "averaged": 4,
            "first": True,
        },
    ),
    "pixels_in": (
        pixels_in,
        lambda: {
            "frames": torch.zeros(1, 1, 3, 2, 3, dtype=torch.uint8, device=DEVICE),
            "past": Inputs().halo(1, 1, 4, 4, 3),
            "patch": 1,
            "multiple": 4,
            "front": 1,
            "keep": 1,
            "dtype": torch.float32,
        },
    ),
    "pixels_out": (
        pixels_out,
        lambda: {
            "x": Inputs().halo(1, 1, 2, 2, 3, front=1),
            "added": Inputs().normal(1, 3, 1, 2, 2),
            "x_front": 1,
            "patch": 1,
        },
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    "check",
    [
        "test_schema",
        "test_autograd_registration",
        "test_faketensor",
        pytest.param("test_aot_dispatch_dynamic", marks=pytest.mark.slow),
    ],
)
def test_opcheck(check: str, name: str) -> None:
    operator, make = OPERATORS[name]
    named = {
        k: v.requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in make().items()
    }
    torch.library.opcheck(operator, (), named, test_utils=check)


def ends(value: Tensor, gain: Tensor, past: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """What an operation gives back, of planes: output after its past, before the norm, kept."""
    out = torch.cat([past, F.silu(rms_norm(value, gain, EPS))], dim=2)
    return out, value, out[:, :, out.shape[2] - keep :]


def laid(x_BCTHW: Tensor, past_BCKHW: Tensor | None = None) -> Tensor:
    past = None if past_BCKHW is None else to_halo(past_BCKHW.movedim(1, -1))
    return to_halo(x_BCTHW.movedim(1, -1), past, 0 if past is None else past.shape[1])


def opened(results: tuple[Tensor, ...], channels: int) -> tuple[Tensor, ...]:
    return tuple(interior(r, 0, channels).movedim(-1, 1) for r in results)


def assert_same_gradients(
    kernel: Callable[..., tuple[Tensor, ...]],
    plain: Callable[..., tuple[Tensor, ...]],
    leaves: dict[str, Tensor],
) -> None:
    """Of a random function of all results, for all leaves; the plain way in double."""
    ours = [v.clone().requires_grad_() for v in leaves.values()]
    theirs = [v.double().cpu().requires_grad_() for v in leaves.values()]
    got, want = kernel(*ours), plain(*theirs)
    cotangents = [torch.randn_like(w) for w in want]
    for g, w in zip(got, want, strict=True):
        assert_near(g, w, torch.float32)
    ours_grads = torch.autograd.grad(got, ours, [c.to(DEVICE, torch.float32) for c in cotangents])
    for name, g, w in zip(
        leaves, ours_grads, torch.autograd.grad(want, theirs, cotangents), strict=True
    ):
        assert bool(w.any()), name
        torch.testing.assert_close(
            g.double().cpu(), w, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients' library convolutions may use tf32 on a GPU otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)


def test_gradients_of_conv() -> None:
    C, O, shape, i = 12, 20, (2, 3), Inputs()
    leaves = {
        "x": i.normal(1, C, 2, *shape),
        "its past": i.normal(1, C, 2, *shape),
        "weight": i.filters(O, C, 3, 3, 3),
        "bias": i.bias(O),
        "residual": i.normal(1, O, 2, *shape),
        "gain": i.gain(O),
        "past": i.normal(1, O, 2, *shape),
    }

    def kernel(*v: Tensor) -> tuple[Tensor, ...]:
        x, x_past, weight, bias, residual, gain, past = v
        results = conv(
            laid(x, x_past), pack_weight(weight), pack_channels(bias), laid(residual),
            pack_channels(gain), laid(past), 2, 0, 3, 3, False, 2, 2, True, EPS, O, False,
        )  # fmt: skip
        return opened(results, O)

    def plain(*v: Tensor) -> tuple[Tensor, ...]:
        x, x_past, weight, bias, residual, gain, past = v
        return ends(causal_conv3d(x, x_past, weight, bias) + residual, gain, past, 2)

    assert_same_gradients(kernel, plain, leaves)


def test_gradients_of_down() -> None:
    C, O, shape, i = 12, 20, (2, 3), Inputs()
    leaves = {
        "x": i.normal(1, C, 4, 4, 6),
        "its past": i.normal(1, C, 1, 4, 6),
        "weight": i.filters(O, C, 3, 3, 3),
        "bias": i.bias(O),
        "residual": i.normal(1, O, 2, *shape),
        "gain": i.gain(O),
        "past": i.normal(1, O, 1, *shape),
    }

    def kernel(*v: Tensor) -> tuple[Tensor, ...]:
        x, x_past, weight, bias, residual, gain, past = v
        results = down(
            laid(x, x_past), pack_weight(weight), pack_channels(bias), laid(residual),
            pack_channels(gain), laid(past), 1, 3, 2, False, 1, 1, True, EPS, O, False,
        )  # fmt: skip
        return opened(results, O)

    def plain(*v: Tensor) -> tuple[Tensor, ...]:
        x, x_past, weight, bias, residual, gain, past = v
        seen = torch.cat([x_past, x], dim=2)
        value = F.conv3d(seen, weight, bias, (2, 2, 2), (0, 1, 1)) + residual
        return ends(value, gain, past, 1)

    assert_same_gradients(kernel, plain, leaves)


def test_gradients_of_up() -> None:
    C, O, i = 20, 10, Inputs()
    leaves = {
        "x": i.normal(1, C, 2, 2, 2),
        "its past": i.normal(1, C, 1, 2, 2),
        "weight": i.filters(O, C, 3, 3, 3),
        "bias": i.bias(O),
        "gain": i.gain(O),
        "past": i.normal(1, O, 2, 4, 4),
    }

    def kernel(*v: Tensor) -> tuple[Tensor, ...]:
        x, x_past, weight, bias, gain, past = v
        results = up(
            laid(x, x_past), pack_folded(fold_upsample_weight(weight), 8), pack_channels(bias),
            pack_channels(gain), laid(past), 1, 2, 4, False, 2, 2, True, EPS, O, False,
        )  # fmt: skip
        return opened(results, O)

    def plain(*v: Tensor) -> tuple[Tensor, ...]:
        x, x_past, weight, bias, gain, past = v
        shortcut = depth_to_space(x.repeat_interleave(4, dim=1), (2, 2, 2))
        return ends(upsample_conv(x, x_past, weight, bias) + shortcut, gain, past, 2)

    assert_same_gradients(kernel, plain, leaves)


def test_gradients_of_norm_and_shortcut() -> None:
    C, i = 12, Inputs()
    leaves = {"x": i.normal(1, C, 2, 2, 4), "gain": i.gain(C), "past": i.normal(1, C, 1, 2, 4)}

    def kernel(x: Tensor, gain: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        results = norm(laid(x), pack_channels(gain), laid(past), 0, 1, 1, EPS, C)
        mean = shortcut(laid(x), 32, 0, 2, 4, False)
        return *opened(results, C), *opened((mean,), 2 * C)

    def plain(x: Tensor, gain: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        out, _, kept = ends(x, gain, past, 1)
        return out, kept, space_to_depth(x, (2, 2, 2)).unflatten(1, (2 * C, 4)).mean(2)

    assert_same_gradients(kernel, plain, leaves)


def test_more_positions_than_32_bits_count_are_refused() -> None:
    side = 46340
    with torch.device("meta"):
        x = torch.empty(1, 1, side + 1, side + 1, 16)
        weight, bias = torch.empty(16, 16), torch.empty(16)
    arguments = (weight, bias, None, None, None, 0, 0, 1, 1, True, 0, 0, False, EPS, 16, False)
    assert (side + 1) ** 2 > MAX_ROWS
    with pytest.raises(ValueError, match="positions are more than"):
        conv(x, *arguments)
    out, _, _ = conv(x[:, :, 1:].contiguous(), *arguments)
    assert out.numel() > 2**31
