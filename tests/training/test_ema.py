"""The moving average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pvtok.training.ema import MovingAverage


def test_the_average_follows_the_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = MovingAverage(model, 0.5)
    nn.init.ones_(model.weight)
    expected = 0.0
    for step in range(20):
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))  # short at first, then as configured
        expected = decay * expected + (1 - decay)
        assert float(average.values["weight"]) == pytest.approx(expected, rel=1e-6)
    average.copy_to_parameters()
    assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-6)


def test_frozen_weights_keep_their_average_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
    average = MovingAverage(model, 0.999)
    before = average.state_dict()
    model[0].requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    average.update(5)
    after = average.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert not torch.equal(after["1.weight"], before["1.weight"])


def test_state_is_a_copy() -> None:
    model = nn.Linear(2, 2)
    average = MovingAverage(model, 0.9)
    state = average.state_dict()
    kept = {k: v.clone() for k, v in state.items()}
    nn.init.ones_(model.weight)
    average.update(0)
    assert torch.equal(state["weight"], kept["weight"])
    average.load_state_dict(state)
    assert torch.equal(average.values["weight"], kept["weight"])
