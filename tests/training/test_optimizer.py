"""Learning rates, clipping and what the optimizer leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pvtok.training.config import OptimizerConfig
from pvtok.training.optimizer import (
    FITTED_RATE,
    Optimizer,
    learning_rate_factor,
    rate_scale,
)


def test_the_schedule_warms_up_and_falls_to_its_end() -> None:
    factors = [learning_rate_factor(step, 1000, 10, 0.1) for step in range(1001)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[500] == pytest.approx(0.55)
    assert factors[1000] == pytest.approx(0.1)
    assert learning_rate_factor(0, 10, 0, 0.1) == 1.0


def test_wide_filters_and_linear_maps_move_less() -> None:
    assert rate_scale("decoder.conv_in.weight", torch.empty(8, 50, 3, 3, 3)) == 500 / 1350
    assert rate_scale("decoder.conv_in.weight", torch.empty(8, 4, 3, 3, 3)) == 1.0
    assert rate_scale("decoder.conv_in.bias", torch.empty(9000)) == 1.0
    assert rate_scale("encoder.patch.linear.weight", torch.empty(8, 3072)) == FITTED_RATE
    assert rate_scale("decoder.extrapolation.repeat.weight", torch.empty(8, 8)) == FITTED_RATE


def test_a_step_is_adamw_on_clipped_gradients() -> None:
    """Against torch's own clipping and optimizer, each parameter at its own rate."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(1000, 4), nn.Linear(4, 2))
    plain = nn.Sequential(nn.Linear(1000, 4), nn.Linear(4, 2))
    plain.load_state_dict(ours.state_dict())
    settings = OptimizerConfig(weight_decay=0.1, fan_in_rates=True, betas=(0.8, 0.9))
    optimizer = Optimizer(ours, settings)
    reference = torch.optim.AdamW(
        [
            {"params": [p], "lr": 1e-2 * (0.5 if p.shape == (4, 1000) else 1.0)}
            for p in plain.parameters()
        ],
        betas=(0.8, 0.9),
        weight_decay=0.1,
    )
    for _ in range(3):
        x = torch.randn(8, 1000) * 10
        for model in (ours, plain):
            model(x).square().mean().backward()
        norm = optimizer.gradient_norm()
        assert float(norm) == pytest.approx(
            float(nn.utils.clip_grad_norm_(plain.parameters(), 1.0))
        )
        assert float(norm) > 1
        optimizer.step(1e-2, norm, 1.0)
        reference.step()
        reference.zero_grad()
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_parameters_without_a_gradient_stay(tmp_path: object) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = Optimizer(model, OptimizerConfig(weight_decay=0.5))
    before = model[0].weight.detach().clone()
    model[1](torch.ones(1, 3)).sum().backward()
    optimizer.step(1.0, optimizer.gradient_norm(), 1.0)
    assert torch.equal(model[0].weight, before)
    assert set(optimizer.state_dict()) == {"1.weight", "1.bias"}


def test_state_goes_by_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(700, 3), nn.Linear(3, 3))
    optimizer = Optimizer(model, OptimizerConfig(fan_in_rates=True))
    x = torch.randn(2, 700)

    def step(optimizer: Optimizer, model: nn.Module) -> None:
        model(x).square().sum().backward()
        optimizer.step(1e-2, optimizer.gradient_norm(), 1.0)

    step(optimizer, model)
    copy = nn.Sequential(nn.Linear(700, 3), nn.Linear(3, 3))
    copy.load_state_dict(model.state_dict())
    # Other groups, the same names.
    other = Optimizer(copy, OptimizerConfig(fan_in_rates=False))
    other.load_state_dict(optimizer.state_dict())
    for name, state in optimizer.state_dict().items():
        for key, value in state.items():
            assert torch.equal(other.state_dict()[name][key], value)
    step(optimizer, model)
    moved = Optimizer(copy, OptimizerConfig(fan_in_rates=True))
    moved.load_state_dict(other.state_dict())
    step(moved, copy)
    for a, b in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b)
