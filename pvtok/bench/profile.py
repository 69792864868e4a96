"""Where the time of one iteration goes, by kind of operation."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

KINDS: tuple[tuple[str, str], ...] = (
    # First match wins. Operations on a CPU and kernels on a GPU.
    ("fused by compile", r"^(graph_\d+_)?cpp_|^triton_|compiled"),
    ("attention", r"attention|softmax|sdpa|flash|fmha"),
    ("convolution", r"conv|fprop|implicit_gemm|halo"),
    ("linear", r"mm$|mm_|matmul|linear|gemm|gemv|dot"),
    ("norm and activation", r"norm|silu|rsqrt|mean|square|pow|sum"),
    (
        "copy and layout",
        r"copy|cat|clone|contiguous|_to$|::to$|pad|stack|empty|fill|zero|index|gather|take|repeat"
        r"|slice|select|view|reshape|permute|transpose|expand|memcpy|memset|nchw|nhwc",
    ),
    ("elementwise", r"add|mul|sub|div|exp|round|clamp|where|elementwise|isfinite|all|eq|gt|lt|ne"),
)
OTHER = "other"


@dataclass(frozen=True)
class Share:
    """A kind of operation, or one operation."""

    kind: str
    name: str
    """Empty for a whole kind."""
    milliseconds: float
    share: float
    calls: int


def breakdown(run: Callable[[], object], device: torch.device, top: int = 10) -> list[Share]:
    """Profile one run that is warm: time by kind, most first, then the `top` operations.

    Time is that of the device: kernels on a GPU, operations without those they call on a CPU.
    """
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    with profile(activities=activities, acc_events=True) as profiler:
        run()
        if gpu:
            torch.cuda.synchronize(device)
    found: dict[str, tuple[float, int]] = {}
    for event in profiler.key_averages():
        time = event.self_device_time_total if gpu else event.self_cpu_time_total
        if event.device_type.name == device.type.upper() and time > 0:
            found[event.key] = (time / 1e3, event.count)
    total = sum(time for time, _ in found.values())
    kinds: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for name, (time, calls) in found.items():
        before = kinds[kind_of(name)]
        kinds[kind_of(name)] = (before[0] + time, before[1] + calls)
    whole = [Share(kind, "", time, time / total, calls) for kind, (time, calls) in kinds.items()]
    single = [
        Share(kind_of(name), name, time, time / total, calls)
        for name, (time, calls) in found.items()
    ]

    def longest(share: Share) -> float:
        return -share.milliseconds

    return sorted(whole, key=longest) + sorted(single, key=longest)[:top]


def kind_of(name: str) -> str:
    """The kind of an operation or kernel, by its name."""
    low = name.lower()
    return next((kind for kind, pattern in KINDS if re.search(pattern, low)), OTHER)
