"""Times of several things that take turns, so that a machine's moods meet them all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

Run = Callable[[], object]
LEAST_TIMED = 5
"""Rounds that are timed however short the time allowed."""


@dataclass(frozen=True)
class Counts:
    """How often each contender runs."""

    warm_up: int
    timed: int
    seconds: float | None = None
    """Stop timing after so long, though not before `LEAST_TIMED` rounds."""


@dataclass
class Times:
    """What was measured of one contender."""

    milliseconds: list[float] = field(default_factory=list)
    extra_bytes: int | None = None
    """Most GPU memory one call took beyond what was taken before it; None on a CPU."""

    @property
    def median(self) -> float:
        return float(np.median(self.milliseconds))

    def percentiles(self) -> dict[str, float]:
        low, middle, high = np.percentile(self.milliseconds, (5, 50, 95))
        return {"p5_ms": float(low), "p50_ms": float(middle), "p95_ms": float(high)}


def interleave(
    runs: Sequence[Run],
    device: torch.device,
    counts: Counts,
    progress: Callable[[int], None] | None = None,
) -> list[Times]:
    """Run each of `runs` once a round, starting with another one every round.

    Args:
        progress: called with the number of each one that has just run.

    Returns:
        One `Times` for each. Memory is watched from the first warm-up on: what building plans and
        capturing graphs takes, a user has to have as well.
    """
    results = [Times() for _ in runs]
    began = time.monotonic()
    for round_ in range(counts.warm_up + counts.timed):
        done = round_ - counts.warm_up
        if done == 0:
            began = time.monotonic()
        late = counts.seconds is not None and time.monotonic() - began > counts.seconds
        if done >= LEAST_TIMED and late:
            break
        for i in range(len(runs)):
            turn = (i + round_) % len(runs)
            milliseconds, extra = timed_once(runs[turn], device)
            result = results[turn]
            if extra is not None:
                result.extra_bytes = max(extra, result.extra_bytes or 0)
            if done >= 0:
                result.milliseconds.append(milliseconds)
            if progress:
                progress(turn)
    return results


def timed_once(run: Run, device: torch.device) -> tuple[float, int | None]:
    """Milliseconds of one call by the device's own clock, and the memory it took beyond before."""
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return (time.perf_counter() - began) * 1e3, None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with torch.cuda.device(device):
        start, end = _event(), _event()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end), torch.cuda.max_memory_allocated(device) - before


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)
