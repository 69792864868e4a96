"""Exponential moving average of weights (Polyak and Juditsky 1992)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvtok.training.distributed import distributed_like, gathered, local


class MovingAverage:
    """The average of a module's parameters over recent steps."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(module.named_parameters())
        self.values = {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`. Early on the average is shorter than its decay says,
        so that the start is soon forgotten. Frozen parameters are skipped: rounding would move
        even the average of equal values."""
        decay = min(self.decay, (1 + step) / (10 + step))
        names = [n for n, p in self.parameters.items() if p.requires_grad]
        torch._foreach_lerp_(
            [local(self.values[n]) for n in names],
            [local(self.parameters[n].detach()) for n in names],
            1 - decay,
        )

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Make the weights themselves the average."""
        for name, parameter in self.parameters.items():
            local(parameter).copy_(local(self.values[name]))

    def state_dict(self) -> dict[str, Tensor]:
        """By parameter name: see `gathered`."""
        return gathered(self.values)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.values.items():
            local(value).copy_(local(distributed_like(state[name], value)))
