"""What the presets ask of the kernels: every operation of a step, on tensors without memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from pvtok.configs import PRESETS
from pvtok.kernels import (
    halo_conv,
    halo_down,
    halo_norm,
    halo_pixels,
    halo_shortcut,
    halo_up,
)
from pvtok.model import PVVAE, halo

LAUNCHES = {
    "conv": halo_conv.launch,
    "down": halo_down.launch,
    "shortcut": halo_shortcut.launch,
    "up": halo_up.launch,
    "norm": halo_norm.launch,
    "pixels_in": halo_pixels.launch_in,
    "pixels_out": halo_pixels.launch_out,
}
TILED: dict[str, ModuleType] = {
    "conv": halo_conv,
    "down": halo_down,
    "up": halo_up,
    "norm": halo_norm,
}
"""Operations whose `launch` takes a tile."""
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Call:
    """One operation with its arguments, tensors on the meta device."""

    op: str
    args: tuple[Any, ...]

    def describe(self) -> str:
        """Equal for calls that do the same work."""
        parts = [
            f"{tuple(a.shape)}{a.dtype}" if isinstance(a, Tensor) else str(a) for a in self.args
        ]
        return f"{self.op} {' '.join(parts)}"

    def materialised(self, device: torch.device) -> tuple[Any, ...]:
        """The arguments with random numbers; zeros would be multiplied faster."""
        return tuple(_random(a, device) if isinstance(a, Tensor) else a for a in self.args)


def calls(
    preset: str,
    dtype: torch.dtype,
    *,
    frames: Sequence[int] = (17, 16),
    size: tuple[int, int] = (256, 256),
    batch: int = 1,
    directions: Sequence[str] = ("encode", "decode"),
) -> list[Call]:
    """The distinct operations of a preset's consecutive steps."""
    with torch.device("meta"):
        net = PVVAE(PRESETS[preset]).to(dtype).prepare_inference()
    found: dict[str, Call] = {}
    saved = {op: getattr(halo, op) for op in LAUNCHES}

    def noting(op: str) -> Any:
        def run(*args: Any) -> Any:
            call = Call(op, args)
            found.setdefault(call.describe(), call)
            return saved[op](*args)

        return run

    try:
        for op in LAUNCHES:
            setattr(halo, op, noting(op))
        with torch.inference_mode():
            steps = halo.HaloSteps(net)
            encoding = decoding = None
            for count in frames:
                clip = torch.empty(batch, count, *size, 3, dtype=torch.uint8, device="meta")
                if "encode" in directions:
                    _, encoding = steps.encode(clip, encoding)
                if "decode" in directions:
                    t = (count + 3) // 4
                    channels = net.config.latent_channels
                    z = torch.empty(
                        (batch, channels, t, size[0] // 16, size[1] // 16),
                        dtype=dtype,
                        device="meta",
                    )
                    _, _, decoding = steps.decode(z, decoding)
    finally:
        for op, saved_op in saved.items():
            setattr(halo, op, saved_op)
    return list(found.values())


def _random(like: Tensor, device: torch.device) -> Tensor:
    if like.dtype == torch.uint8:
        return torch.randint(0, 256, like.shape, dtype=torch.uint8, device=device)
    return torch.randn(like.shape, dtype=like.dtype, device=device)
