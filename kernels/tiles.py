"""Tile choices: measured ones from a table, a rule for the rest. Nothing is tuned at run time.

The table, `tiles.json`, holds what a search on a GPU found best, under that GPU's name and the
exact problem; `benchmarks/gpu_suite.py` writes it. The rule is for GPUs and problems that nobody
has measured. Which tile is used changes speed only: every output element is summed in the same
order.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

TABLE = Path(__file__).with_name("tiles.json")

MAX_NORMED = 256
"""Channels of a row that one tile can hold: a norm over more is a kernel of its own."""


@dataclass(frozen=True)
class Tile:
    """Rows, output channels and input channels of a program's step; warps; pipeline stages."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Gpu:
    """What a choice may depend on."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """What is to be computed."""

    op: str
    """"conv", "down", "up" or "norm"."""
    dtype: str
    channels_in: int
    channels_out: int
    time_taps: int
    space_taps: int
    normed: bool
    rows: int
    """Positions of the output, rounded up to a power of two: small ones want small tiles."""

    def key(self) -> str:
        norm = "+norm" if self.normed else ""
        return (
            f"{self.op}{norm} {self.dtype} {self.channels_in}->{self.channels_out} "
            f"{self.time_taps}x{self.space_taps}x{self.space_taps} {self.rows}"
        )


def norm_fits(channels: int) -> bool:
    """Whether a convolution with so many outputs can norm them on its way out."""
    return channels <= MAX_NORMED


def tile_for(
    op: str, x: Tensor, out: Tensor, time_taps: int, space_taps: int, *, normed: bool
) -> Tile:
    """The tile for an input and output in halo layout, on the GPU they are on."""
    dtype = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}[x.dtype]
    rows = power_of_two(out.numel() // out.shape[-1])
    problem = Problem(op, dtype, x.shape[-1], out.shape[-1], time_taps, space_taps, normed, rows)
    return choose(problem, gpu_of(x.device))


@functools.cache
def choose(problem: Problem, gpu: Gpu | None) -> Tile:
    """The measured tile if there is one, else the rule's; None is Triton's interpreter."""
    if gpu is None:
        return interpreter_tile(problem)
    measured = table().get(gpu.name, {}).get(problem.key())
    return Tile(*measured) if measured else rule(problem, gpu.capability)


@functools.cache
def table() -> dict[str, dict[str, list[int]]]:
    """GPU name -> problem -> (m, n, k, warps, stages)."""
    found: dict[str, dict[str, list[int]]] = json.loads(TABLE.read_text())
    return found


@functools.cache
def gpu_of(device: torch.device) -> Gpu | None:
    """The GPU behind a device."""
    if device.type != "cuda":
        return None
    return Gpu(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))


def rule(problem: Problem, capability: tuple[int, int]) -> Tile:
    """A tile that compiles without spills and keeps tensor cores busy; not measured."""
    O, wide = problem.channels_out, capability[0] in (9, 10)
    if problem.op == "norm":
        n = power_of_two(O)
        return Tile(max(8, 4096 // n), n, 16, 8 if problem.dtype == "fp32" else 4, 1)
    n_max = 64 if not wide or problem.dtype == "fp32" else 256 if problem.op == "conv" else 128
    n = power_of_two(O)
    if not problem.normed and n > n_max:
        n = next((n for n in (256, 128, 64, 32) if n <= n_max and O % n == 0), 16)
    k = dividing(problem.channels_in, 64 if wide else 32)
    if problem.dtype == "fp32":
        return Tile(max(16, 2048 // n), n, min(k, 16), 8 if n == 256 else 4, 2)
    if not wide:
        m = 64 if n <= 64 and problem.op != "down" else 32
        return Tile(m, n, k, 8 if n == 256 else 4, 3)
    m = 128 if n * 128 <= (128 * 256 if not problem.normed else 128 * 128) else 64
    stages = min(4, 200_000 // (2 * k * (m + n)))
    return Tile(m, n, k, 8 if n >= 128 else 4, stages)


def interpreter_tile(problem: Problem) -> Tile:
    """Large: a program costs the interpreter the same whatever its size."""
    n = power_of_two(problem.channels_out)
    return Tile(1024, n, dividing(problem.channels_in, 1024), 4, 1)


def power_of_two(n: int) -> int:
    """The next power of two, at least 16."""
    return max(16, 1 << (n - 1).bit_length())


def dividing(n: int, limit: int) -> int:
    """The largest power of two up to `limit` that divides `n`."""
    return min(n & -n, limit)
