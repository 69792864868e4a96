"""What a device can do: the rate of a big matrix product, and of a copy, measured on the spot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pvtok.bench.timing import timed_once
from pvtok.kernels.products import matmul

GPU_SIZE = 8192
REPEATS = 5
COPY_BYTES = {"cuda": 2**30, "cpu": 2**27}
"""Far beyond any cache."""
CPU_MILLISECONDS = 100.0
"""A CPU's product is made as large as takes about this long, or `GPU_SIZE`."""


@dataclass(frozen=True)
class Machine:
    """Measured rates of a device in one dtype."""

    matmul_size: int
    matmul_flops: float
    """Operations a second of a square product of random matrices, median of a few."""
    copy_bytes: float
    """Bytes read plus bytes written a second."""

    def better(self, other: Machine) -> Machine:
        """The higher rate of two measurements: a peak is what was reached at best."""
        return Machine(
            self.matmul_size,
            max(self.matmul_flops, other.matmul_flops),
            max(self.copy_bytes, other.copy_bytes),
        )


def measure(device: torch.device, dtype: torch.dtype, size: int | None = None) -> Machine:
    """Measure; `size` of the product None is `GPU_SIZE` on a GPU, and on a CPU found by trying."""
    if size is None:
        size = GPU_SIZE if device.type == "cuda" else _size_for(device, dtype)
    milliseconds = _product(device, dtype, size, REPEATS)
    return Machine(size, 2 * size**3 / milliseconds * 1e3, _copy(device))


def _size_for(device: torch.device, dtype: torch.dtype) -> int:
    size = 512
    while size < GPU_SIZE and _product(device, dtype, size, 3) < CPU_MILLISECONDS / 8:
        size *= 2  # eight times the work
    return size


def _product(device: torch.device, dtype: torch.dtype, size: int, repeats: int) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = [timed_once(lambda: matmul(a, b), device)[0] for _ in range(repeats + 1)]
    return float(np.median(times[1:]))


def _copy(device: torch.device) -> float:
    a = torch.randn(COPY_BYTES[device.type] // 4, device=device)
    b = torch.zeros_like(a)
    times = [timed_once(lambda: b.copy_(a), device)[0] for _ in range(REPEATS + 1)]
    return 2 * a.nbytes / float(np.median(times[1:])) * 1e3
