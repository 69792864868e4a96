"""Whether the Triton kernels can run here, and whether they have been checked and measured here.

Imports neither Triton nor the kernels, so that asking costs nothing where they are not wanted.
"""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version

import torch

OLDEST = (3, 6)
"""Triton before this lacks what the kernels use."""
CAPABILITY = (8, 0)
"""Tensor cores for fp16 and bf16 alike begin here."""


def obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot run on `device` in `dtype`, or None where they can.

    On a CPU they run in Triton's interpreter, for study and tests, where `TRITON_INTERPRET=1`, but
    not in bf16: there its matrix products are wrong without a word.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        found = version("triton")
    except PackageNotFoundError:
        found = "of unknown version"
    if tuple(int(n) for n in found.split(".")[:2] if n.isdigit()) < OLDEST:
        return f"Triton {found} is older than {OLDEST[0]}.{OLDEST[1]}"
    if device.type != "cuda":
        if os.environ.get("TRITON_INTERPRET") != "1":
            return f"the kernels need an NVIDIA GPU, not {device.type!r}"
        wrong = dtype == torch.bfloat16
        return "Triton's interpreter multiplies bf16 wrongly" if wrong else None
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has compute capability {capability}"
    return None


def measured(device: torch.device) -> bool:
    """Whether this kind of GPU has a tile table: somebody has run the kernels' checks and
    benchmarks on one."""
    from pvtok.kernels.tiles import table

    return device.type == "cuda" and torch.cuda.get_device_name(device) in table()
