"""Turns, counts and percentiles."""

from __future__ import annotations

import time

import pytest
import torch

from pvtok.bench.timing import LEAST_TIMED, Counts, Times, interleave

CPU = torch.device("cpu")


def test_contenders_take_turns() -> None:
    order: list[int] = []
    runs = [lambda i=i: order.append(i) for i in range(3)]
    told: list[int] = []
    times = interleave(runs, CPU, Counts(1, 2), told.append)
    assert order == told == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert [len(t.milliseconds) for t in times] == [2, 2, 2]
    assert all(t.extra_bytes is None for t in times)


def test_time_allowed_ends_the_rounds_but_not_too_early() -> None:
    (slow,) = interleave([lambda: time.sleep(0.02)], CPU, Counts(0, 50, seconds=0.0))
    assert len(slow.milliseconds) == LEAST_TIMED
    assert slow.median >= 20
    (quick,) = interleave([lambda: None], CPU, Counts(0, 50, seconds=30))
    assert len(quick.milliseconds) == 50


def test_percentiles() -> None:
    found = Times([float(i) for i in range(101)]).percentiles()
    assert found == pytest.approx({"p5_ms": 5, "p50_ms": 50, "p95_ms": 95})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_and_time_of_a_gpu() -> None:
    device = torch.device("cuda")
    (times,) = interleave([lambda: torch.empty(2**20, device=device).sum()], device, Counts(1, 3))
    assert times.extra_bytes is not None
    assert 2**22 <= times.extra_bytes < 2**23
    assert all(ms > 0 for ms in times.milliseconds)
