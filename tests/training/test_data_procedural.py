"""Rendered clips: exact motion, variety, and what may stand still."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pvtok.errors import UsageError
from pvtok.training.data import procedural, render_clip


def clip(seed: int, frames: int = 9, size: int = 48) -> torch.Tensor:
    return render_clip(np.random.default_rng(seed), frames, size)


@pytest.mark.parametrize(("frames", "size"), [(1, 16), (5, 32), (17, 64)])
def test_shape_and_range(frames: int, size: int) -> None:
    y = clip(0, frames, size)
    assert y.shape == (3, frames, size, size)
    assert y.dtype == torch.uint8
    assert y.float().std() > 5


def test_a_scene_is_a_function_of_the_generator() -> None:
    assert torch.equal(clip(3), clip(3))
    assert not torch.equal(clip(3), clip(4))


def test_the_number_of_threads_changes_nothing() -> None:
    before, one = torch.get_num_threads(), clip(5)
    try:
        torch.set_num_threads(3)
        assert torch.equal(clip(5), one)
    finally:
        torch.set_num_threads(before)


def test_scenes_vary_in_speed_and_some_stand_still() -> None:
    change = torch.tensor([clip(s).float().diff(dim=1).abs().mean() for s in range(60)])
    assert change.min() < 0.3
    assert change.max() > 8
    mean = torch.tensor([clip(s, 1).float().mean() for s in range(60)])
    assert mean.std() > 20


@pytest.mark.parametrize("corner", [0, 7])
def test_motion_is_exact_below_the_pixel(corner: int) -> None:
    """A texture of its own coordinates, which interpolation keeps, shows where it is seen."""
    size, side, count = 64, 32, 180
    axis = (torch.arange(count) - (count - 1) / 2) / procedural._DENSITY
    texture = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
    x, y, angle, zoom = np.array([[0.0, 0.25, -3.7], [0.0, 1.5, 0.1], [0, 0.3, -2], [0, 0.1, -0.1]])
    motion = procedural._similarity(x, y, angle, zoom)
    corners = np.full((3, 2), [corner, 2 * corner])
    seen = procedural._sampled(texture, motion, corners, side, size, "zeros").double().numpy()
    # Forward again: turned, scaled and moved, they are the frame's own coordinates.
    cos, sin = (f(angle)[:, None, None] * np.exp(zoom)[:, None, None] for f in (np.cos, np.sin))
    across = cos * seen[:, 0] - sin * seen[:, 1] + x[:, None, None]
    down = sin * seen[:, 0] + cos * seen[:, 1] + y[:, None, None]
    pixels = np.arange(side) - (size - 1) / 2 + corner
    np.testing.assert_allclose(across, np.broadcast_to(pixels, across.shape), atol=1e-3)
    np.testing.assert_allclose(
        down, np.broadcast_to(pixels[:, None] + corner, down.shape), atol=1e-3
    )


def test_a_thing_hides_what_is_behind_it() -> None:
    canvas = torch.zeros(3, 3, 64, 64)
    times = np.arange(3) - 1.0
    camera = procedural._similarity(0 * times, 0 * times, 0 * times, 0 * times)
    for seed in range(5):
        ground = canvas + torch.rand(1, generator=torch.Generator().manual_seed(seed))
        painted = [ground.clone(), ground.clone() + 0.3]
        for frames in painted:
            procedural._paint_thing(np.random.default_rng(seed), frames, camera, times, 64)
        behind = (painted[1] - painted[0]).amax(1)
        # Where the thing is, the ground cannot be told; elsewhere it is untouched.
        assert behind.min() == pytest.approx(0, abs=1e-3)
        assert behind.max() == pytest.approx(0.3, abs=1e-3)


def test_ranges() -> None:
    with pytest.raises(UsageError, match="0 frames of 64x64"):
        clip(0, 0, 64)
    with pytest.raises(UsageError, match="8x8"):
        clip(0, 1, 8)
