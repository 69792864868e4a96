"""AdamW, its learning rate over a stage, and gradient clipping."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pvtok.training.config import OptimizerConfig
from pvtok.training.distributed import distributed_like, gathered, local, whole

FULL_RATE_FAN_IN = 500
FITTED_RATE = 0.001
"""At 0.05 Adam's noise moved the maps of `tiny` by 1 to 6 % in 850 steps, which cost 0.35 dB."""


def rate_scale(name: str, parameter: Tensor) -> float:
    """Share of the learning rate: Adam moves every weight alike, so that wide filters would move
    their output most; and the fitted maps start at their optimum and hold small weights."""
    if any(part in name for part in (".patch.", ".extrapolation.repeat.", ".extrapolation.rows")):
        return FITTED_RATE
    fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
    return min(1.0, FULL_RATE_FAN_IN / fan_in)


def learning_rate_factor(step: int, steps: int, warmup_steps: int, final_lr_ratio: float) -> float:
    """Share of the base rate at `step` of a stage: linear warm-up, times a cosine to
    `final_lr_ratio` at the stage's end."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return warmup * (final_lr_ratio + (1 - final_lr_ratio) * cosine)


class Optimizer:
    """AdamW over a module's named parameters.

    Parameters without a gradient (frozen, or the padding token where nothing was dropped) are left
    as they are, their moments too.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        self.parameters = dict(module.named_parameters())
        self.scales = {
            name: rate_scale(name, p) if config.fan_in_rates else 1.0
            for name, p in self.parameters.items()
        }
        # One group for each scale, so that parameters are updated many at a time.
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in self.parameters.items() if self.scales[n] == s], "scale": s}
            for s in sorted(set(self.scales.values()))
        ]
        self.adamw = torch.optim.AdamW(
            groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def gradient_norm(self) -> Tensor:
        """Euclidean norm over all gradients; a scalar."""
        return whole(torch.nn.utils.get_total_norm(self.gradients()))

    def step(self, lr: float, norm: Tensor, clip_norm: float) -> None:
        """Clip the gradients, whose norm is `norm`, update, and forget the gradients."""
        scale = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in self.gradients():
            local(gradient).mul_(scale)
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["scale"]
        self.adamw.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """State by parameter name, however the parameters lie: see `gathered`."""
        return {
            name: gathered(self.adamw.state[p])
            for name, p in self.parameters.items()
            if p in self.adamw.state
        }

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        for name, values in state.items():
            parameter = self.parameters[name]
            self.adamw.state[parameter] = {
                key: value.clone() if value.ndim == 0 else distributed_like(value, parameter)
                for key, value in values.items()
            }
