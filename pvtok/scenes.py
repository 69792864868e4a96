"""Procedural moving scenes: natural-looking clips of any size, without any data.

A scene is a textured background (dunes, cobbles, wood grain, water or hills under a sky) that a
slowly moving camera pans and zooms over at sub-pixel steps, with soft-edged textured objects that
drift, bounce, turn and pass in front of each other, under a light that wanders, with a little
sensor grain. Textures are smooth noise whose spectrum falls with frequency as that of natural
images does (Field 1987), shaded as if they were reliefs (Perlin 1985; cells: Worley 1996).

Every frame is a function of the scene and of the time alone, so the cut into chunks cannot matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtok.errors import UsageError
from pvtok.groups import FramesTHWC

Floats = NDArray[np.float32]
Rng = np.random.Generator

CHUNK_FRAMES = 16

# Colours from dark to light, sRGB.
_PALETTES = {
    "sand": ("5b3a24", "9a6b3f", "cfa36a", "ecd2a0", "f8ecd0"),
    "moss": ("18240f", "34491c", "5f7431", "93a04e", "c9cf8d"),
    "stone": ("2a2b2e", "55575a", "85847f", "b3aea3", "dcd7c9"),
    "water": ("06283d", "0f4c66", "2b7f94", "72b5b7", "d3ebe2"),
    "wood": ("2c160b", "5a3118", "8b5428", "b98146", "dcb27a"),
    "brick": ("34150f", "6e2a1b", "a4472e", "c9755a", "e6b49a"),
    "dusk": ("1e1633", "4b2a55", "8f4664", "d9786a", "f6c08b"),
    "snow": ("5d7390", "8da3bd", "bccbdc", "e3ebf2", "fbfcfd"),
    "leaf": ("3a1208", "7d2a0d", "bd5a14", "e39a2d", "f4d777"),
    "berry": ("240a1e", "5a1238", "9c2350", "d65774", "f3aebb"),
    "sky": ("2f6aa8", "5b93c9", "94bee1", "c9dff0", "f4f7f8"),
}


def render_scene(
    seed: int,
    frames: int,
    height: int,
    width: int,
    fps: float = 24,
    *,
    chunk: int = CHUNK_FRAMES,
) -> Iterator[FramesTHWC]:
    """Render a scene, chunk by chunk.

    Args:
        seed: which scene; the same seed gives the same frames whatever the chunk size. Two sizes of
            one seed are alike in kind but not the same picture.
        frames: how many frames; 0 yields nothing.
        height, width: frame size, pixels, each at least 1.
        fps: frames per second. Things move by seconds, so a higher rate moves less per frame.
        chunk: frames per chunk; the last one may hold fewer.

    Yields:
        uint8 `[T, height, width, 3]`, sRGB.

    Raises:
        UsageError: an argument out of its range (raised by the call, before the first chunk).
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("frames", frames, 0),
        ("height", height, 1),
        ("width", width, 1),
        ("chunk", chunk, 1),
    ):
        if value < least:
            raise UsageError(f"{name} {value} is below {least}")
    if not (fps > 0 and math.isfinite(fps)):
        raise UsageError(f"{fps} frames per second", why="a rate is finite and above zero")
    return _chunks(seed, frames, height, width, fps, chunk)


def _chunks(
    seed: int, frames: int, height: int, width: int, fps: float, chunk: int
) -> Iterator[FramesTHWC]:
    if not frames:
        return
    scene = _Scene(seed, height, width)
    for start in range(0, frames, chunk):
        out = np.empty((min(chunk, frames - start), height, width, 3), np.uint8)
        for i, frame in enumerate(out):
            scene.draw(start + i, (start + i) / fps, frame)
        yield out


class _Scene:
    """All that stays the same over a clip; `draw` makes one frame of it."""

    def __init__(self, seed: int, height: int, width: int) -> None:
        rng = np.random.default_rng((seed, 0))
        self._seed, self._height, self._width = seed, height, width
        self._unit = float(min(height, width))
        self._layers = _background(rng, height, width)
        count = int(rng.integers(3, 7))
        sizes = np.sort(rng.uniform(0.07, 0.2, count))  # the nearer, the larger
        self._objects = [_Object(rng, height, width, float(s) * self._unit) for s in sizes]
        self._camera = _Camera(rng, self._unit)
        self._light = rng.uniform(0, 2 * np.pi, 4)
        self._light_speed = rng.uniform(0.15, 0.5, 2) * rng.choice((-1, 1), 2)
        self._light_depth = float(rng.uniform(0.08, 0.22))
        self._warmth = float(rng.uniform(-0.05, 0.05))
        grain = rng.standard_normal((height + 31, width + 31), np.float32)
        grain += np.roll(grain, 1, 0) + np.roll(grain, 1, 1)  # sensors' grain is not quite white
        self._grain = (grain * np.float32(rng.uniform(0.5, 1.2) / 3**0.5))[..., None]

    def draw(self, index: int, time: float, out: FramesTHWC) -> None:
        """Write frame `index`, at `time` seconds, into `out`, uint8 `[H, W, 3]`."""
        x, y, zoom = self._camera.at(time)
        _, canvas = self._layers[0].view(x, y, zoom, self._height, self._width)
        for layer in self._layers[1:]:
            top, view = layer.view(x, y, zoom, self._height, self._width)
            canvas[top:] *= 1 - view[..., 3:]
            canvas[top:] += view[..., :3]
        phase, sway = self._light[:2] + self._light_speed * time
        towards = math.cos(phase), math.sin(phase)
        shadow = 0.4 if len(self._layers) == 1 else 0.12  # things in the air hardly cast any
        for thing in self._objects:
            thing.draw(canvas, time, towards, shadow)
        canvas *= self._lit(towards, sway)
        # Grain is one fixed field, shifted at random for every frame: fresh noise costs more than
        # all the rest of the frame.
        dy, dx = np.random.default_rng((self._seed, 1, index)).integers(0, 32, 2)
        canvas += self._grain[dy : dy + self._height, dx : dx + self._width]
        canvas += 0.5
        np.clip(canvas, 0, 255, out=canvas)
        out[...] = canvas

    def _lit(self, towards: tuple[float, float], sway: float) -> Floats:
        """Gain of the light over the frame, `[H, W, 3]`, times 255."""
        y = np.linspace(-1, 1, self._height, dtype=np.float32)[:, None, None]
        x = np.linspace(-1, 1, self._width, dtype=np.float32)[None, :, None]
        depth = self._light_depth
        level = 0.98 + 0.06 * math.sin(sway)
        tint = np.array([1 + self._warmth, 1, 1 - self._warmth], np.float32)
        rows = level + depth * towards[1] * y - 0.05 * y * y
        columns = depth * towards[0] * x - 0.05 * x * x
        return _f32((rows + columns) * (tint * 255))


class _Camera:
    """Where the camera looks: a drift, a slow wander and a slow zoom."""

    def __init__(self, rng: Rng, unit: float) -> None:
        angle = rng.uniform(0, 2 * np.pi)
        speed = rng.uniform(0.02, 0.16) * unit
        self._drift = speed * math.cos(angle), 0.6 * speed * math.sin(angle)
        self._wander = rng.uniform(0.01, 0.05, 2) * unit
        self._rates = rng.uniform(0.4, 1.3, 3)
        self._phases = rng.uniform(0, 2 * np.pi, 3)
        self._zoom = float(rng.uniform(0.02, 0.12))

    def at(self, time: float) -> tuple[float, float, float]:
        """Pixels right, pixels down, and zoom (at least 1)."""
        waves = np.sin(self._rates * time + self._phases)
        x, y = np.multiply(self._drift, time) + self._wander * waves[:2]
        return float(x), float(y), 1 + self._zoom * float(1 + waves[2])


@dataclass
class _Layer:
    """A texture that repeats without seams, and how it follows the camera.

    Attributes:
        texture: `[h, w, 3]` opaque or `[h, w, 4]` premultiplied, in [0, 1].
        parallax: share of the camera's motion this layer shows: far layers move less.
        vertical: False for a landscape's layers, which must not scroll out of their place.
        top: rows above this one are empty (landscapes only).
    """

    texture: Floats
    parallax: float = 1.0
    vertical: bool = True
    top: int = 0

    def view(self, x: float, y: float, zoom: float, height: int, width: int) -> tuple[int, Floats]:
        """What the camera sees: the first row that is not empty, and `[rows, width, C]` from it.

        Bilinear, one axis after the other: a pan and a zoom need no more.
        """
        zoom = 1 + (zoom - 1) * self.parallax
        rows, row_weight = _steps(
            y * self.parallax if self.vertical else 0.0, zoom, height, self.texture.shape[0]
        )
        start = int(np.searchsorted(rows, self.top - 1)) if self.top else 0
        rows, row_weight = rows[start:], row_weight[start:]
        columns, column_weight = _steps(x * self.parallax, zoom, width, self.texture.shape[1])
        seen = _lerp(self.texture, rows, row_weight[:, None, None], axis=0)
        return start, _lerp(seen, columns, column_weight[:, None], axis=1)


def _steps(offset: float, zoom: float, count: int, period: int) -> tuple[NDArray[np.int64], Floats]:
    """Texture positions of `count` pixels: whole parts (not wrapped) and fractions."""
    middle = (count - 1) / 2
    at = offset % period + middle + (np.arange(count) - middle) / zoom
    whole = np.floor(at).astype(np.int64)
    return whole % period, (at - whole).astype(np.float32)


def _lerp(source: Floats, whole: NDArray[np.int64], weight: Floats, axis: int) -> Floats:
    low = source.take(whole, axis)
    high = source.take((whole + 1) % source.shape[axis], axis)
    high -= low
    high *= weight
    high += low
    return _f32(high)


class _Object:
    """A soft-edged textured thing that moves about the frame, `radius` pixels large."""

    def __init__(self, rng: Rng, height: int, width: int, radius: float) -> None:
        self._radius = radius = max(radius, 1.0)
        self._sprite = _sprite(rng, radius)
        self._size = self._sprite.shape[0]
        self._flat = self._sprite.reshape(-1, 4)
        self._room = np.array([width, height]) + 0.6 * radius  # they may leave the frame a little
        self._from = rng.uniform(0, 1, 2) * self._room
        angle = rng.uniform(0, 2 * np.pi)
        speed = rng.uniform(0.08, 0.5) * min(height, width)
        self._velocity = speed * np.array([math.cos(angle), math.sin(angle)])
        self._turn = float(rng.normal(0, 0.7))
        self._angle = float(rng.uniform(0, 2 * np.pi))
        self._falls = bool(rng.random() < 0.4)
        self._fall_height = float(rng.uniform(0.3, 0.75)) * height
        self._fall_seconds = float(rng.uniform(0.9, 1.8))
        self._roundness = float(rng.uniform(0.15, 0.55))
        self._shine = float(rng.choice((0.0, 0.0, 0.15, 0.35)))

    def at(self, time: float) -> tuple[float, float]:
        """Centre, pixels: a straight path folded at the walls, or thrown and bouncing."""
        path = (self._from + self._velocity * time) % (2 * self._room)
        x, y = np.minimum(path, 2 * self._room - path) - 0.3 * self._radius
        if self._falls:
            flight = (time + self._from[1]) / self._fall_seconds % 1
            y = self._room[1] - self._radius - 4 * self._fall_height * flight * (1 - flight)
        return float(x), float(y)

    def draw(
        self, canvas: Floats, time: float, towards: tuple[float, float], shadow: float
    ) -> None:
        """Paint shadow and object over `canvas`, `[H, W, 3]` in [0, 1]."""
        x, y = self.at(time)
        self._shade(canvas, x, y, towards, shadow)
        ys, dy = _span(y, self._size / 2, canvas.shape[0])
        xs, dx = _span(x, self._size / 2, canvas.shape[1])
        if not (len(dy) and len(dx)):
            return
        patch = self._turned(dy, dx, self._angle + self._turn * time)
        ny, nx = dy / np.float32(self._radius), dx / np.float32(self._radius)
        light_x, light_y = towards
        # A sphere's shading to second order: bright towards the light, dark at the rim.
        bulge = self._roundness
        rows = 1 + bulge * (0.45 * light_y * ny - 0.4 * ny * ny)
        gain = rows[:, None] + (bulge * (0.45 * light_x * nx - 0.4 * nx * nx))[None]
        alpha = patch[..., 3:]
        patch[..., :3] *= gain[..., None]
        if self._shine:
            spot = np.exp(-(((ny - 0.45 * light_y) / 0.22) ** 2))[:, None] * (
                self._shine * np.exp(-(((nx - 0.45 * light_x) / 0.22) ** 2))
            )
            patch[..., :3] += spot[..., None] * alpha
        region = canvas[ys, xs]
        region *= 1 - alpha
        region += patch[..., :3]

    def _shade(
        self, canvas: Floats, x: float, y: float, towards: tuple[float, float], depth: float
    ) -> None:
        """A soft shadow away from the light."""
        reach = 0.85 * self._radius
        ys, dy = _span(y - 0.3 * self._radius * towards[1], 2.2 * reach, canvas.shape[0])
        xs, dx = _span(x - 0.3 * self._radius * towards[0], 2.2 * reach, canvas.shape[1])
        rows, columns = np.exp(-((dy / reach) ** 2)), np.exp(-((dx / reach) ** 2))
        canvas[ys, xs] *= (1 - (depth * rows)[:, None] * columns[None])[..., None]

    def _turned(self, dy: Floats, dx: Floats, angle: float) -> Floats:
        """The sprite turned by `angle` radians at offsets from its centre, `[h, w, 4]`."""
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        middle = np.float32((self._size - 1) / 2)
        # Outside the sprite its empty rim repeats.
        last = np.float32(self._size - 1.001)
        u = np.clip((cos * dx)[None] + (sin * dy + middle)[:, None], 0, last)
        v = np.clip((-sin * dx)[None] + (cos * dy + middle)[:, None], 0, last)
        left, top = u.astype(np.int32), v.astype(np.int32)
        u -= left
        v -= top
        first = top * self._size + left
        taps = [self._flat.take(first + step, 0) for step in (0, 1, self._size, self._size + 1)]
        across = u[..., None]
        upper = taps[0] + (taps[1] - taps[0]) * across
        lower = taps[2] + (taps[3] - taps[2]) * across
        lower -= upper
        lower *= v[..., None]
        lower += upper
        return _f32(lower)


def _f32(values: NDArray[np.floating[Any]]) -> Floats:
    """As float32: one wide intermediate would make every later one wide, and twice as slow."""
    return np.asarray(values, np.float32)


def _unit(values: NDArray[np.floating[Any]]) -> Floats:
    return _f32(np.clip(values, 0, 1))


def _span(centre: float, reach: float, count: int) -> tuple[slice, Floats]:
    """Pixels within `reach` of `centre` along an axis of `count`, and their offsets from it."""
    low = min(max(math.ceil(centre - reach), 0), count)
    high = max(min(math.floor(centre + reach) + 1, count), low)
    return slice(low, high), (np.arange(low, high) - centre).astype(np.float32)


# --- Textures, made once per scene -------------------------------------------------------------


def _background(rng: Rng, height: int, width: int) -> list[_Layer]:
    ground: Callable[[Rng, int, int], Floats] = (_dunes, _cobbles, _wood, _water)[
        int(rng.integers(0, 4))
    ]
    # Larger than the frame, so that what leaves on one side is long in coming back.
    h, w = height + max(height // 4, 8), width + max(width // 2, 8)
    if rng.random() < 0.3:
        return _hills(rng, height + 2, w)
    return [_Layer(ground(rng, h, w))]


def _noise(
    rng: Rng, h: int, w: int, scale: float, slope: float = 1.5, stretch: float = 1.0
) -> Floats:
    """Seamless smooth noise of mean 0 and deviation 1, `[h, w]`.

    Args:
        scale: size of the largest features, pixels.
        slope: how fast amplitude falls with frequency: 1 is rough, 2 is soft.
        stretch: features are this much longer along x.
    """
    fy = np.fft.fftfreq(h)[:, None]
    fx = np.fft.rfftfreq(w)[None] * stretch
    f = np.hypot(fy, fx)
    gain = (f + 1 / scale) ** -slope * np.exp(-((f / 0.3) ** 2))  # too fine would shimmer
    gain *= f >= 0.5 / scale
    gain[0, 0] = 0
    phases = rng.standard_normal((2, *f.shape), np.float32)
    field = np.fft.irfft2((phases[0] + 1j * phases[1]) * gain, (h, w))
    return _f32(field / (field.std() + 1e-9))


def _relief(heights: Floats, strength: float, angle: float) -> Floats:
    """Brightness of a surface lit from `angle`, around 1, `[h, w]`."""
    slope_y = np.roll(heights, -1, 0) - np.roll(heights, 1, 0)
    slope_x = np.roll(heights, -1, 1) - np.roll(heights, 1, 1)
    slope = slope_x * math.cos(angle) + slope_y * math.sin(angle)
    return _f32(1 + strength * np.tanh(slope / (2 * slope.std() + 1e-9)))


def _colours(values: NDArray[np.floating[Any]], palette: str) -> Floats:
    """Values of deviation about 1 to colours, `[..., 3]` in [0, 1]."""
    stops = np.array([list(bytes.fromhex(c)) for c in _PALETTES[palette]], np.float32) / 255
    # A table: interpolating every pixel of three channels is slow.
    at = np.linspace(0, 1, len(stops))
    table = np.stack([np.interp(np.linspace(0, 1, 1024), at, stops[:, i]) for i in range(3)], 1)
    index = (511.5 * (1 + np.tanh(0.8 * values))).astype(np.int32)
    return _f32(_f32(table)[index])


def _dunes(rng: Rng, h: int, w: int) -> Floats:
    unit = min(h, w)
    heights = _noise(rng, h, w, unit * float(rng.uniform(0.3, 0.7)), float(rng.uniform(1.7, 2.1)))
    tones = heights + 0.25 * _noise(rng, h, w, unit * 0.08, 1.2)
    palettes = rng.choice(("sand", "moss", "stone", "brick", "snow", "dusk"), 2, replace=False)
    patches = _noise(rng, h, w, unit * 0.6, 1.9)[..., None]
    mix = 0.5 + 0.5 * np.tanh(3 * patches)
    colours = _colours(tones, palettes[0]) * mix + _colours(tones, palettes[1]) * (1 - mix)
    return _unit(colours * _relief(heights, 0.4, rng.uniform(0, 6.3))[..., None])


def _wood(rng: Rng, h: int, w: int) -> Floats:
    unit = min(h, w)
    warp = _noise(rng, h, w, unit * 0.6, 2.4, 2.5)
    rings = np.sin(warp * float(rng.uniform(4, 9)))
    fibres = _noise(rng, h, w, unit * 0.5, 1.3, 12)
    tones = 0.45 * rings + 0.4 * warp + 0.4 * fibres
    colours = _colours(tones, str(rng.choice(("wood", "wood", "sand", "stone"))))
    return _unit(colours * _relief(fibres, 0.12, 1.57)[..., None])


def _water(rng: Rng, h: int, w: int) -> Floats:
    unit = min(h, w)
    heights = _noise(
        rng, h, w, unit * float(rng.uniform(0.1, 0.3)), 1.8, float(rng.uniform(1.5, 3))
    )
    deep = _noise(rng, h, w, unit * 0.8, 2.0)
    colours = _colours(0.5 * heights + 0.7 * deep - 0.4, str(rng.choice(("water", "sky"))))
    glints = np.maximum(_relief(heights, 1.0, rng.uniform(0, 6.3)) - 1.45, 0)
    return _unit(colours + 0.9 * glints[..., None])


def _cobbles(rng: Rng, h: int, w: int) -> Floats:
    """Rounded stones: shaded by the distance to the nearest two of jittered grid points."""
    cells = int(rng.integers(6, 13))
    ny, nx = cells, max(3, round(cells * w / h))
    point = rng.uniform(0.1, 0.9, (ny, nx, 2)).astype(np.float32)
    tone = rng.standard_normal((ny, nx), np.float32)
    y = (np.arange(h, dtype=np.float32) * ny / h)[:, None] + 0.09 * _noise(rng, h, w, h / 6, 2.4)
    x = (np.arange(w, dtype=np.float32) * nx / w)[None] + 0.09 * _noise(rng, h, w, h / 6, 2.4)
    cell_y, cell_x = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    nearest = np.full((h, w), 9, np.float32)
    second = nearest.copy()
    tones = np.zeros((h, w), np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            iy, ix = (cell_y + dy) % ny, (cell_x + dx) % nx
            p = point[iy, ix]
            distance = np.hypot(cell_y + dy + p[..., 0] - y, cell_x + dx + p[..., 1] - x)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            nearest = np.where(closer, distance, nearest)
            tones = np.where(closer, tone[iy, ix], tones)
    joint = second - nearest
    heights = np.sqrt(np.clip(joint / 0.35, 0, 1)) + 0.06 * _noise(rng, h, w, h / 10, 1.2)
    stone = _colours(
        0.6 * tones + 0.35 * _noise(rng, h, w, h / 12, 1.1),
        str(rng.choice(("stone", "sand", "brick", "snow"))),
    )
    gap = np.clip(joint / 0.12, 0.18, 1)
    return _unit(stone * (gap * _relief(heights, 0.35, rng.uniform(0, 6.3)))[..., None])


def _hills(rng: Rng, h: int, w: int) -> list[_Layer]:
    """A sky with clouds and three ridges; the farther, the paler and the slower."""
    sky = str(rng.choice(("sky", "dusk", "sky")))
    down = np.linspace(-1.6, 1.4, h, dtype=np.float32)[:, None]
    colours = _colours(down * 0.8 + np.zeros((1, w), np.float32), sky)
    clouds = _noise(rng, h, w, h * 0.45, 1.75, 2.2) + 0.4 * down + float(rng.uniform(-0.8, 0.4))
    cover = (1 - np.exp(-1.3 * np.maximum(clouds, 0)))[..., None]
    haze = colours[-1].mean(0)
    white = np.float32(0.7) + 0.3 * haze
    layers = [_Layer(colours + (white - colours) * cover, 0.15, vertical=False)]
    palettes = rng.choice(("moss", "moss", "stone", "leaf", "dusk", "sand", "snow"), 3)
    for i, palette in enumerate(palettes):
        near = (i + 1) / 3
        top = h * (0.35 + 0.2 * i + rng.uniform(-0.05, 0.05))
        sharp = float(rng.uniform(1.6, 2.6))  # from crags to downs
        ridge = top + h * (0.08 - 0.012 * i) * _noise(rng, 1, w, w * 0.45, sharp)[0]
        below = np.arange(h, dtype=np.float32)[:, None] - ridge[None]
        alpha = np.clip(below + 0.5, 0, 1)[..., None]
        ground = _noise(rng, h, w, h * (0.15 + 0.3 * near), 1.5, 1.6)
        depth = np.clip(below / h, 0, 0.5)  # slopes darken downwards
        land = _colours(0.5 * ground - 0.1 - 0.9 * depth, str(palette))
        land *= _relief(ground, 0.25, 3.9)[..., None]
        air = (1 - near) * 0.75 + 0.1
        land = land + (haze - land) * np.float32(air)
        picture = np.concatenate([np.clip(land, 0, 1) * alpha, alpha], 2).astype(np.float32)
        first = int(np.argmax(alpha[..., 0].any(axis=1)))
        layers.append(_Layer(picture, 0.3 + 0.7 * near, vertical=False, top=first))
    return layers


def _sprite(rng: Rng, radius: float) -> Floats:
    """A shape of about `radius` pixels with its texture, premultiplied `[S, S, 4]`."""
    size = 2 * math.ceil(1.45 * radius) + 5
    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    y, x = axis[:, None] / radius, axis[None] / radius
    angle, far = np.arctan2(y, x), np.hypot(x, y)
    kind = int(rng.integers(0, 5))
    if kind == 0:  # disc
        edge = np.ones_like(far)
    elif kind == 1:  # pebble or cloud-like blob
        edge = np.ones_like(far)
        for k in range(2, 6):
            edge += rng.uniform(0, 0.3) / k * np.cos(k * angle + rng.uniform(0, 6.3))
    elif kind == 2:  # flower or star
        edge = 0.85 + rng.uniform(0.12, 0.28) * np.cos(int(rng.integers(4, 8)) * angle)
    else:  # box, lozenge or capsule: a superellipse
        power, aspect = float(rng.choice((1.5, 3.0, 6.0))), float(rng.uniform(0.45, 1.0))
        direction = np.abs(np.cos(angle)) ** power + np.abs(np.sin(angle) / aspect) ** power
        edge = 0.95 / direction ** (1 / power)
    softness = max(1.0, radius * float(rng.uniform(0.015, 0.05)))
    alpha = np.clip((edge - far) * radius / softness + 0.5, 0, 1)
    if kind == 4:  # a hole makes it a frame or a ring
        alpha *= np.clip((far - 0.45 * edge) * radius / softness + 0.5, 0, 1)
    alpha *= alpha * (3 - 2 * alpha)
    alpha[[0, 1, -2, -1]] = 0
    alpha[:, [0, 1, -2, -1]] = 0
    colours = _skin(rng, x, y, size, radius)
    return np.concatenate([colours * alpha[..., None], alpha[..., None]], 2).astype(np.float32)


def _skin(rng: Rng, x: Floats, y: Floats, size: int, radius: float) -> Floats:
    """Texture of an object, `[size, size, 3]`: mottled, striped or spotted."""
    mottle = _noise(rng, size, size, radius * float(rng.uniform(0.3, 1.2)), 1.9)
    values = float(rng.uniform(0.15, 0.6)) * mottle + float(rng.normal(0.1, 0.4))
    pattern = int(rng.integers(0, 4))
    waves = float(rng.uniform(4, 10))
    if pattern == 1:
        values = values + np.tanh(3 * np.sin(waves * x + 0.5 * mottle + 0 * y))
    elif pattern == 2:
        values = values + np.tanh(4 * (np.sin(waves * x) * np.sin(waves * y) - 0.25))
    palette = str(rng.choice([name for name in _PALETTES if name != "sky"]))
    return _unit(_colours(values, palette) * _relief(mottle, 0.12, 3.9)[..., None])
