"""Rendered clips to learn motion from: textured things over a textured ground, seen by a camera.

Cheaper than `pvtok.scenes`, which is made to be looked at; this is made to be trained on. Ground
and things are flat textures in one world. The camera pans, zooms and turns, things move and turn at
constant rates or fall, they pass in front of each other, and any of it may stand still. All of it
is exact below the pixel: every frame is sampled from the textures where the motion says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pvtok.errors import UsageError

Floats = NDArray[np.floating[Any]]
Rng = np.random.Generator

_DENSITY = 1.5
"""Texture elements per pixel. Above one, because bilinear sampling between elements blurs, and the
blur would come and go as things move."""

_SUPPORT = 1.25
"""The ground's side over the frame's. Beyond it the ground goes on as its mirror image."""


def render_clip(rng: Rng, frames: int, size: int) -> Tensor:
    """Render one scene, uint8 `[3, frames, size, size]`, as a function of the generator's state."""
    if frames < 1 or size < 16:
        raise UsageError(
            f"a clip of {frames} frames of {size}x{size} pixels cannot be rendered",
            fix="Use at least 1 frame of at least 16 pixels.",
        )
    # Time 0 is the middle of the clip: whatever is drawn for it is surely seen.
    times = np.arange(frames) - (frames - 1) / 2
    camera = _camera(rng, times, size)
    canvas_TCHW = _ground(rng, camera, size)
    for _ in range(int(rng.integers(1, 6))):
        _paint_thing(rng, canvas_TCHW, camera, times, size)
    canvas_TCHW *= 255 * _light(rng, times)
    return canvas_TCHW.add_(0.5).clamp_(0, 255).to(torch.uint8).transpose(0, 1).contiguous()


# --- Motion: matrices [T, 3, 3] from a thing's own pixels to the frame's, both centred ----------


def _camera(rng: Rng, times: Floats, size: int) -> Floats:
    """From the world to the frame. One scene in five is filmed from a tripod."""
    if rng.random() < 0.2:
        return _similarity(times * 0, times * 0, times * 0, times * 0)
    pan = _velocity(rng, size) * (rng.random() < 0.8)
    zoom = rng.normal(0, 0.008) * (rng.random() < 0.5)
    turn = rng.normal(0, 0.012) * (rng.random() < 0.4)
    return _similarity(pan[0] * times, pan[1] * times, turn * times, zoom * times)


def _velocity(rng: Rng, size: int) -> Floats:
    """Pixels per frame, in any direction: from a crawl to a twentieth of the frame."""
    speed = size * 10 ** rng.uniform(-3.3, -1.3)
    angle = rng.uniform(0, 2 * np.pi)
    return speed * np.array([np.cos(angle), np.sin(angle)])


def _similarity(x: Floats, y: Floats, angle: Floats, log_scale: Floats) -> Floats:
    """Turn and scale about the origin, then shift; all `[T]`."""
    cos, sin = np.cos(angle) * np.exp(log_scale), np.sin(angle) * np.exp(log_scale)
    zero, one = np.zeros_like(x), np.ones_like(x)
    rows = [[cos, -sin, x], [sin, cos, y], [zero, zero, one]]
    return np.moveaxis(np.array(rows), 2, 0)


def _light(rng: Rng, times: Floats) -> Tensor:
    """Brightness of each frame, `[T, 1, 1, 1]`: mostly steady, or slowly changing."""
    change = rng.normal(0, 0.01) * (rng.random() < 0.3)
    gains = rng.uniform(0.7, 1.1) * np.exp(change * times)
    return torch.from_numpy(gains.astype(np.float32)).view(-1, 1, 1, 1)


# --- Painting -----------------------------------------------------------------------------------


def _ground(rng: Rng, camera: Floats, size: int) -> Tensor:
    """The world's texture as the camera sees it, `[T, 3, size, size]` in [0, 1]."""
    texture_CHW = _texture(rng, round(size * _SUPPORT * _DENSITY))
    corners = np.zeros((len(camera), 2))
    return _sampled(texture_CHW, camera, corners, size, size, padding="reflection")


def _paint_thing(rng: Rng, canvas_TCHW: Tensor, camera: Floats, times: Floats, size: int) -> None:
    """Paint one moving thing over the frames."""
    radius = size * rng.uniform(0.06, 0.25)
    x, y = rng.uniform(-0.5, 0.5, 2) * size
    moves = rng.random() < 0.8  # else it stands in the world, and the camera alone moves it
    velocity = _velocity(rng, size) * moves
    falls = size * rng.uniform(0.0002, 0.001) * (moves and rng.random() < 0.25)
    turn = rng.normal(0, 0.04) * (rng.random() < 0.5)
    grows = rng.normal(0, 0.006) * (rng.random() < 0.3)
    motion = camera @ _similarity(
        x + velocity[0] * times,
        y + velocity[1] * times + falls * times**2,
        rng.uniform(0, 2 * np.pi) + turn * times,
        grows * times,
    )
    sprite_CHW = _sprite(rng, radius)
    # A square around it, on whole pixels, that holds it in every frame; moved into the frame where
    # it stands out.
    scale = np.sqrt(np.abs(np.linalg.det(motion[:, :2, :2]))).max()
    reach = np.sqrt(2) * sprite_CHW.shape[-1] / 2 / _DENSITY * scale
    side = min(size, 2 * int(np.ceil(reach)) + 2)
    centres = motion[:, :2, 2] + size / 2
    corners = np.clip(np.floor(centres - side / 2), 0, size - side)
    patch_TCHW = _sampled(sprite_CHW, motion, corners, side, size, padding="zeros")
    for frame, patch, (left, top) in zip(
        canvas_TCHW, patch_TCHW, corners.astype(int).tolist(), strict=True
    ):
        region = frame[:, top : top + side, left : left + side]
        region.mul_(1 - patch[3:]).add_(patch[:3])


def _sampled(
    texture_CHW: Tensor, motion: Floats, corners: Floats, side: int, size: int, padding: str
) -> Tensor:
    """A texture as it is seen in squares of the frames, `[T, C, side, side]`.

    Args:
        motion: from the texture's pixels to the frame's, `[T, 3, 3]`.
        corners: x and y of each square in its frame, `[T, 2]`.
    """
    count = texture_CHW.shape[-1]
    # From a square's pixels to the frame's centred ones, back along the motion, and to the
    # texture's coordinates in [-1, 1].
    origin = corners + (1 - size) / 2
    zeros = np.zeros(len(motion))
    square = _similarity(origin[:, 0], origin[:, 1], zeros, zeros)
    theta = (np.linalg.inv(motion) @ square)[:, :2] * (2 * _DENSITY / count)
    across, down, shift = torch.from_numpy(theta.astype(np.float32)).split(1, dim=2)
    axis = torch.arange(side, dtype=torch.float32)
    # By axis, several times as fast as `affine_grid`: [T, 2, side, side], then the pair last.
    grid = (across * axis + shift).unsqueeze(2) + (down * axis).unsqueeze(3)
    return F.grid_sample(
        texture_CHW.expand(len(motion), -1, -1, -1),
        grid.permute(0, 2, 3, 1),
        padding_mode=padding,
        align_corners=False,
    )


# --- Textures -----------------------------------------------------------------------------------


def _noise(rng: Rng, count: int, side: int, slope: float, coarsest: float) -> NDArray[np.float32]:
    """Smooth noise of unit variance, `[count, side, side]`, whose amplitude falls with frequency
    to the power of `slope`: natural images have about 1 (Field 1987).

    Args:
        coarsest: waves per side below which there is nothing.
    """
    across = np.fft.rfftfreq(side)[None] * side
    down = np.fft.fftfreq(side)[:, None] * side
    waves = np.hypot(down, across)
    # Nothing above one wave in four elements either: bilinear sampling would blur it.
    gains = np.where((waves < coarsest) | (waves > side / 4), 0, np.maximum(waves, 1) ** -slope)
    shape = (count, *gains.shape)
    spectrum = rng.standard_normal(shape, np.float32) + 1j * rng.standard_normal(shape, np.float32)
    noise = np.fft.irfft2(spectrum * gains.astype(np.float32), (side, side))
    deviation = np.maximum(noise.std((1, 2), keepdims=True), 1e-12)
    result: NDArray[np.float32] = (noise / deviation).astype(np.float32)
    return result


def _texture(rng: Rng, side: int) -> Tensor:
    """A coloured surface, `[3, side, side]` in [0, 1]: clouds, patches with edges, or stripes."""
    coarsest = float(10 ** rng.uniform(0, 0.8))
    shape, tone = _noise(rng, 2, side, float(rng.uniform(1.6, 3.0)), coarsest)
    (detail,) = _noise(rng, 1, side, float(rng.uniform(1.0, 1.6)), 1.0)
    kind = rng.integers(0, 4)
    # Edges are as steep as sampling allows: a few elements wide.
    steep = side / 24
    if kind == 1:
        mix = _edge(np.sin(rng.uniform(1, 4) * shape) * steep / 3)
    elif kind == 2:
        axis = np.linspace(-1, 1, side, dtype=np.float32)
        waves = rng.uniform(4, 20)
        across, down = (np.sin(waves * axis + phase) for phase in rng.uniform(0, 6.3, 2))
        product = across[None] * (down[:, None] if rng.random() < 0.5 else 1)
        mix = _edge((product + 0.15 * shape) * steep / waves)
    elif kind == 3:
        mix = _edge((shape + rng.normal(0, 0.5)) * steep / 3)
    else:
        mix = 0.5 + 0.25 * shape
    # Three muted colours, as most things have: their brightness differs more than their hue.
    bright = rng.uniform(0.1, 0.9, (3, 1, 1, 1))
    low, high, tint = (bright + rng.normal(0, 0.1, (3, 3, 1, 1))).astype(np.float32)
    colours = low + (high - low) * mix + (tint - 0.5) * 0.25 * tone
    colours += np.float32(rng.uniform(0, 0.1)) * detail
    return torch.from_numpy(np.clip(colours, 0, 1, dtype=np.float32))


def _edge(values: Floats) -> NDArray[np.float32]:
    return np.asarray(np.clip(0.5 + values, 0, 1), np.float32)


def _sprite(rng: Rng, radius: float) -> Tensor:
    """A thing of about `radius` pixels, premultiplied with its opacity, `[4, side, side]`."""
    reach = radius * _DENSITY
    side = 2 * int(np.ceil(1.3 * reach)) + 4
    axis = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / np.float32(reach)
    y, x = axis[:, None], axis[None]
    if rng.random() < 0.5:  # from lozenge through ellipse to box
        power, aspect = rng.uniform(1, 6), rng.uniform(0.4, 1)
        far = (np.abs(x) ** power + np.abs(y / aspect) ** power) ** (1 / power)
    else:  # a pebble, or a star
        angle = np.arctan2(y, x)
        rim = 1 + rng.uniform(0, 0.25) * np.cos(rng.integers(2, 7) * angle + rng.uniform(0, 6.3))
        far = np.hypot(x, y) / rim
    alpha = torch.from_numpy(_edge((1 - far) * reach / 2))[None]
    return torch.cat([_texture(rng, side) * alpha, alpha])
