"""Rates are those of what was run."""

from __future__ import annotations

import time

import pytest
import torch

from pvtok.bench.machine import Machine, measure


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_are_plausible(dtype: torch.dtype) -> None:
    found = measure(torch.device("cpu"), dtype, size=256)
    a = torch.randn(256, 256).to(dtype)
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        torch.mm(a, a)
        seconds.append(time.perf_counter() - began)
    best = 2 * 256**3 / min(seconds)
    assert best / 1000 < found.matmul_flops < best * 3  # a busy machine is slow, never fast
    assert found.matmul_size == 256
    assert 1e8 < found.copy_bytes < 1e13


def test_the_better_of_two() -> None:
    assert Machine(64, 1.0, 9.0).better(Machine(64, 2.0, 3.0)) == Machine(64, 2.0, 9.0)
