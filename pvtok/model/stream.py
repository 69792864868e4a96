"""Streaming state: an explicit value that goes in and comes out of every step.

A state maps the path of each module that looks back in time to the frames it keeps. It is never
stored on a module and never indexed by call order. No state (`None`) is a stream's beginning, whose
past is zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

State = dict[str, Tensor]
"""Module path -> the past frames it keeps, `[B, C, K, H, W]`."""


class Stream:
    """One step of a stream: hands out the past by module path, gathers what the next step needs."""

    def __init__(self, state: Mapping[str, Tensor] | None) -> None:
        self.first = state is None
        """Whether this chunk begins the stream."""
        self._past = state or {}
        self.next_state: State = {}

    def past(self, module: StreamModule) -> Tensor | None:
        """What `module` kept; None at the beginning, where the past is zeros."""
        return None if self.first else self.kept(module)

    def kept(self, module: StreamModule) -> Tensor:
        """What `module` kept in the step before; not for a stream's first step."""
        return self._past[module.path]

    def keep(self, module: StreamModule, frames: Tensor) -> None:
        self.next_state[module.path] = frames


class StreamModule(nn.Module):
    """A module that keeps frames between steps; `path` names it in the state."""

    path: str


def name_stream_modules(root: nn.Module) -> None:
    """Give every `StreamModule` under `root` its path there."""
    for path, module in root.named_modules():
        if isinstance(module, StreamModule):
            module.path = path
