"""Folders of images, and single images, as videos."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pvtok.errors import CorruptVideoError, FrameSizeError, VideoError
from pvtok.groups import FramesTHWC
from pvtok.video.info import VideoInfo
from pvtok.video.limits import check_size
from pvtok.video.names import IMAGE_SUFFIXES, natural_key, one_line, shown
from pvtok.video.options import ReadOptions

IMAGES_FPS = Fraction(25)
"""Images carry no rate; this is taken for it."""


def list_images(path: Path) -> list[Path]:
    """The images of a folder in natural order ("2" before "10"), or the one image that it is.

    Raises:
        VideoError: a folder without images, or that cannot be listed.
    """
    if not path.is_dir():
        return [path]
    try:
        files = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    except OSError as error:
        raise VideoError(f"cannot read {shown(path)}", why=error.strerror or "") from error
    files = [p for p in files if not p.name.startswith(".")]
    if not files:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise VideoError(f"{shown(path)} is a folder with no images in it", why=f"none of {kinds}")
    return sorted(files, key=natural_key)


def probe_images(path: Path, name: str) -> VideoInfo:
    """Describe an image or a folder of images by its first.

    Raises:
        VideoError, CorruptVideoError, FrameSizeError: see `load`.
    """
    files = list_images(path)
    with _opened(files[0]) as image:
        coded, width, height = image.size, *_upright_size(image)
        kind, mode = str(image.format).lower(), image.mode
    return VideoInfo(
        path=name,
        width=width,
        height=height,
        coded_width=coded[0],
        coded_height=coded[1],
        fps=IMAGES_FPS,
        frames=len(files),
        duration=float(len(files) / IMAGES_FPS),
        codec=kind,
        pix_fmt=mode.lower(),
        kind="images",
    )


def load(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One image as uint8 RGB `[H, W, 3]`, upright. Transparency is left out.

    Args:
        size: width and height that it must have.

    Raises:
        FrameSizeError: another size.
        CorruptVideoError: damaged.
    """
    with _opened(path) as image:
        found = _upright_size(image)
        if found != size:
            raise FrameSizeError(
                f"{shown(path)} is {found[0]}x{found[1]} pixels and the first image is "
                f"{size[0]}x{size[1]}",
                fix="All images of a folder must have one size.",
            )
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            # 16-bit gray: Pillow would clip it to 8 bits instead of scaling it.
            high = (np.asarray(upright).astype(np.int64) * 255 + 32767) // 65535
            return np.repeat(high.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.array(upright.convert("RGB"))


def read_images(path: Path, options: ReadOptions, chunk_frames: int) -> Iterator[FramesTHWC]:
    """Yield the images that the options ask for, in chunks `[T, H, W, 3]`."""
    files = list_images(path)
    with _opened(files[0]) as image:
        size = _upright_size(image)
    scaled = options.scaled(*size)
    chosen = choose(len(files), options)
    for first in range(0, len(chosen), chunk_frames):
        yield np.stack(
            [
                _fit(load(files[i], size), scaled, options)
                for i in chosen[first : first + chunk_frames]
            ]
        )


def choose(count: int, options: ReadOptions) -> list[int]:
    """Which of `count` images the options ask for: start, duration, rate and number.

    A rate repeats or skips images, the nearest in time for each new frame.
    """
    first, end = math.ceil(_exact(options.start) * IMAGES_FPS), count
    if options.duration is not None:
        end = math.ceil((_exact(options.start) + _exact(options.duration)) * IMAGES_FPS)
    indices = list(range(min(first, count), min(end, count)))
    if options.fps is not None and indices:
        step = IMAGES_FPS / options.fps
        number = max(1, round(len(indices) / step))
        indices = [indices[min(len(indices) - 1, round(k * step))] for k in range(number)]
    return indices[: options.max_frames]


def _exact(seconds: float) -> Fraction:
    # To the microsecond: 0.08 is meant as 2/25, not as the float just above it.
    return Fraction(round(seconds * 1_000_000), 1_000_000)


def _fit(
    frame: NDArray[np.uint8], scaled: tuple[int, int], options: ReadOptions
) -> NDArray[np.uint8]:
    if (frame.shape[1], frame.shape[0]) != scaled:
        resized = Image.fromarray(frame).resize(scaled, Image.Resampling.BICUBIC)
        frame = np.asarray(resized)
    if options.crop:
        assert options.size is not None
        top, left = (scaled[1] - options.size) // 2, (scaled[0] - options.size) // 2
        frame = frame[top : top + options.size, left : left + options.size]
    return frame


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image with its header read; pixels follow when asked for.

    Raises:
        VideoError, CorruptVideoError, FrameSizeError: here and from within the context.
    """
    try:
        if path.stat().st_size == 0:
            raise CorruptVideoError(f"cannot read {shown(path)}", why="the file is empty (0 bytes)")
        with Image.open(path) as image:
            check_size(*image.size, shown(path))
            if getattr(image, "n_frames", 1) > 1:
                raise VideoError(
                    f"{shown(path)} is an animated image",
                    fix="Convert it to GIF or to a video, or give its frames as a folder.",
                )
            yield image
    except Image.DecompressionBombError as error:
        raise FrameSizeError(f"{shown(path)} is too large", why=str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow's ways to say that a file is damaged.
        raise CorruptVideoError(
            f"cannot read {shown(path)}: damaged or not an image", why=one_line(str(error))
        ) from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the camera's orientation mark is obeyed."""
    orientation = image.getexif().get(0x0112, 1)
    return image.size if orientation < 5 else (image.size[1], image.size[0])
