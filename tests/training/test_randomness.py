"""Draws are functions of the seed and the key."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from pvtok.training.randomness import numpy_generator, torch_generator

KEYS: list[tuple[int | str, ...]] = [(), ("a",), ("b",), ("a", 1), ("a", "1"), ("a", 2), ("a1",)]


def test_equal_keys_draw_equal_numbers_and_others_do_not() -> None:
    drawn = {
        tuple(numpy_generator(seed, *key).integers(1 << 62, size=3))
        for seed in (0, 1)
        for key in KEYS
        for _ in range(2)
    }
    assert len(drawn) == 2 * len(KEYS)


def test_torch_too() -> None:
    drawn = [torch.randn(4, generator=torch_generator(7, *key)) for key in KEYS]
    again = [torch.randn(4, generator=torch_generator(7, *key)) for key in KEYS]
    assert all(map(torch.equal, drawn, again))
    assert len({tuple(d.tolist()) for d in drawn}) == len(KEYS)


def test_draws_are_the_same_in_another_process() -> None:
    # Python's own hash of a string is not.
    code = (
        "from pvtok.training.randomness import *\n"
        "print(numpy_generator(3, 'x', 5).integers(1 << 62))\n"
        "print(torch_generator(3, 'x').initial_seed())\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = numpy_generator(3, "x", 5).integers(1 << 62), torch_generator(3, "x").initial_seed()
    assert out.stdout.split() == [str(n) for n in here]


def test_neighbouring_steps_are_independent() -> None:
    draws = np.array([numpy_generator(0, "step", step).random() for step in range(2000)])
    assert draws.mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.07
