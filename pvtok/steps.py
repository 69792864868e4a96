"""One step of a stream on a device: what the tokenizer runs, and what is compiled and timed.

A step goes from uint8 frames to latents, or back, with explicit state. Every backend has the same
two functions, so that whoever runs them need not know which it is.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pvtok.kernels.pixels import pixels_to_signed, signed_to_pixels
from pvtok.model import PVVAE, State


class Steps(Protocol):
    """Both directions of a backend. States are the backend's own: hand back what it gave."""

    backend: str
    """What computes: "torch", ..."""

    def encode(self, frames_BTHWC: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Frames uint8 `[B, T, H, W, 3]` on the device, any size -> posterior mean
        `[B, C, t, ceil(H/16), ceil(W/16)]`, next state.

        `T = 1 + 4m` with no state, which begins a stream, and `4m` later.
        """

    def decode(self, z_BCTHW: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        """Latents `[B, C, t, h, w]` in the model's dtype -> frames uint8 `[B, T, 16h, 16w, 3]`,
        whether all were finite before they were rounded (a bool tensor), next state."""


class TorchSteps:
    """Plain PyTorch operations, on any device. Activations are channels-last from end to end."""

    backend = "torch"

    def __init__(self, net: PVVAE) -> None:
        self.net = net

    def encode(self, frames_BTHWC: Tensor, state: State | None) -> tuple[Tensor, State]:
        dtype = self.net.encoder.conv_in.weight.dtype
        x = pixels_to_signed(frames_BTHWC, self.net.config.spatial_ratio, dtype)
        posterior, state = self.net.encode_step(x, state)
        return posterior.mean, state

    def decode(self, z_BCTHW: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        x, state = self.net.decode_step(z_BCTHW, state)
        frames, finite = signed_to_pixels(x)
        return frames, finite, state


class CompiledSteps:
    """Another backend's steps through `torch.compile`, each as one whole graph.

    What was compiled is kept between runs in `$TORCHINDUCTOR_CACHE_DIR`, or else in
    `$XDG_CACHE_HOME/pvtok/compile` (by default `~/.cache`).
    """

    def __init__(self, steps: Steps) -> None:
        # A process's first compilation settles the folder, so it has to be named before.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache_folder()))
        with warnings.catch_warnings():  # the compiler's own import uses what torch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module("torch._inductor.compile_fx")
        self.backend = f"{steps.backend}, compiled"
        self.encode = torch.compile(steps.encode, fullgraph=True, dynamic=False)
        self.decode = torch.compile(steps.decode, fullgraph=True, dynamic=False)


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pvtok" / "compile"


GRAPHED_VALUES = 4 * 17 * 256 * 256 * 3
"""Values a step takes or makes as pixels up to which `GraphedSteps` plays graphs: a batch of four
17x256x256 clips. Larger steps keep a GPU busy for long enough that launches cost nothing, and
every shape's graph holds memory of its own."""
WARM_UPS = 3


@dataclass
class _Graph:
    graph: torch.cuda.CUDAGraph
    x: Tensor
    past: State
    outputs: tuple[Tensor, ...]
    next_state: State


class GraphedSteps:
    """Another backend's steps on a GPU as CUDA graphs, one for each shape, where steps are small.

    A graph reads and writes memory of its own. What comes out is copied from there, so that
    latents, frames and states are values as they are without it.
    """

    def __init__(self, steps: Steps, *, largest: int = GRAPHED_VALUES) -> None:
        self.backend = f"{steps.backend}, graphed"
        self.steps, self.largest = steps, largest
        self._graphs: dict[tuple[object, ...], _Graph] = {}

    def encode(self, frames_BTHWC: Tensor, state: State | None) -> tuple[Tensor, State]:
        if frames_BTHWC.numel() > self.largest:
            return self.steps.encode(frames_BTHWC, state)
        (mean,), state = self._play("encode", _encode(self.steps), frames_BTHWC, state)
        return mean, state

    def decode(self, z_BCTHW: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        B, _, t, h, w = z_BCTHW.shape
        if B * 4 * t * 16 * h * 16 * w * 3 > self.largest:
            return self.steps.decode(z_BCTHW, state)
        (frames, finite), state = self._play("decode", _decode(self.steps), z_BCTHW, state)
        return frames, finite, state

    def _play(
        self, name: str, step: _Step, x: Tensor, state: State | None
    ) -> tuple[tuple[Tensor, ...], State]:
        key = (name, x.shape, x.dtype, x.device, state is None)
        found = self._graphs.get(key)
        if found is None:
            found = self._graphs[key] = _capture(step, x, state)
        found.x.copy_(x)
        if state is not None:
            torch._foreach_copy_(list(found.past.values()), [state[path] for path in found.past])
        found.graph.replay()
        return tuple(y.clone() for y in found.outputs), _copied(found.next_state)


_Step = Callable[[Tensor, State | None], tuple[tuple[Tensor, ...], State]]


def _encode(steps: Steps) -> _Step:
    def step(x: Tensor, state: State | None) -> tuple[tuple[Tensor, ...], State]:
        mean, state = steps.encode(x, state)
        return (mean,), state

    return step


def _decode(steps: Steps) -> _Step:
    def step(x: Tensor, state: State | None) -> tuple[tuple[Tensor, ...], State]:
        frames, finite, state = steps.decode(x, state)
        return (frames, finite), state

    return step


def _capture(step: _Step, x: Tensor, state: State | None) -> _Graph:
    """Run a step often enough that compilation and lazy set-up are over, then record it."""
    x, past = x.clone(), None if state is None else _copied(state)
    side = torch.cuda.Stream(x.device)
    side.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            step(x, past)
    torch.cuda.current_stream(x.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs, next_state = step(x, past)
    return _Graph(graph, x, past or {}, outputs, next_state)


def _copied(state: State) -> State:
    return {path: frames.clone() for path, frames in state.items()}
