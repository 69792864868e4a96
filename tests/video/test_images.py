from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvtok.errors import CorruptVideoError, FrameSizeError, OutputExistsError, VideoError
from pvtok.video import ReadOptions, VideoReader, VideoWriter, probe, read_frames
from pvtok.video.images import choose

from .make import save, smooth


def test_folder_round_trip_is_exact(tmp_path: Path) -> None:
    frames = smooth(12, 33, 47)
    folder = save(tmp_path / "frames", frames)
    assert sorted(p.name for p in folder.iterdir())[::11] == ["000000.png", "000011.png"]
    np.testing.assert_array_equal(read_frames(folder), frames)
    info = probe(folder)
    assert (info.kind, info.fps, info.frames) == ("images", 25, 12)
    assert (info.width, info.height) == (47, 33)


def test_trailing_slash_is_a_folder(tmp_path: Path) -> None:
    with VideoWriter(f"{tmp_path}/clip.mp4/", 64, 48, Fraction(25)) as writer:
        writer.write(smooth(2))
    assert len(list((tmp_path / "clip.mp4").iterdir())) == 2


def test_natural_order(tmp_path: Path) -> None:
    for k in (1, 2, 10, 9, 100):
        Image.new("RGB", (4, 4), (k, 0, 0)).save(tmp_path / f"frame{k}.png")
    (tmp_path / "notes.txt").touch()
    assert read_frames(tmp_path)[:, 0, 0, 0].tolist() == [1, 2, 9, 10, 100]


def test_one_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(smooth(1)[0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_frames(tmp_path / "a.png"), smooth(1))


def test_sizes_must_agree(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    Image.new("RGB", (8, 9)).save(tmp_path / "2.png")
    with pytest.raises(FrameSizeError, match=r"2\.png is 8x9 .* 8x8"):
        read_frames(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99])
def test_damaged_image(tmp_path: Path, damage: object) -> None:
    save(tmp_path / "f", smooth(3))
    path = tmp_path / "f" / "000001.png"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(CorruptVideoError, match=r"000001\.png"):
        read_frames(tmp_path / "f")


def test_kinds_of_pixels(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for k, image in enumerate(
        [
            Image.fromarray(ramp),
            Image.fromarray(ramp.astype(np.uint16) * 257),
            Image.fromarray(np.stack([ramp] * 3 + [255 - ramp], -1)),
            Image.fromarray(ramp).convert("P"),
        ]
    ):
        image.save(tmp_path / f"{k}.png")
    got = read_frames(tmp_path)
    np.testing.assert_array_equal(got, np.broadcast_to(ramp[None, :, :, None], (4, 16, 16, 3)))


def test_orientation_mark_is_obeyed(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(1, 16, 32)[0])
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    info = probe(tmp_path / "a.png")
    assert (info.width, info.height) == (16, 32)
    np.testing.assert_array_equal(
        read_frames(tmp_path / "a.png")[0], np.rot90(smooth(1, 16, 32)[0], k=-1)
    )


def test_animated_image_is_refused(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), (k, 0, 0)) for k in (0, 99)]
    pages[0].save(tmp_path / "a.webp", save_all=True, append_images=pages[1:])
    with pytest.raises(VideoError, match="animated"):
        probe(tmp_path / "a.webp")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ReadOptions(), list(range(10))),
        (ReadOptions(start=0.08), list(range(2, 10))),
        (ReadOptions(start=0.08, duration=0.12), [2, 3, 4]),
        (ReadOptions(max_frames=3), [0, 1, 2]),
        (ReadOptions(fps=Fraction(5)), [0, 5]),
        (ReadOptions(fps=Fraction(50), max_frames=4), [0, 0, 1, 2]),
        (ReadOptions(start=9), []),
    ],
)
def test_choice_of_images(options: ReadOptions, expected: list[int]) -> None:
    assert choose(10, options) == expected


def test_size_crop_and_times(tmp_path: Path) -> None:
    save(tmp_path / "f", smooth(5, 40, 60))
    with VideoReader(tmp_path / "f", ReadOptions(size=20, crop=True), chunk_frames=2) as reader:
        assert [c.shape for c in reader] == [(2, 20, 20, 3), (2, 20, 20, 3), (1, 20, 20, 3)]
    assert reader.timestamps == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_only_folders_of_frames_are_replaced(tmp_path: Path) -> None:
    folder = save(tmp_path / "f", smooth(3))
    with pytest.raises(OutputExistsError):
        save(folder, smooth(2))
    save(folder, smooth(2), overwrite=True)
    assert len(list(folder.iterdir())) == 2
    (folder / "thesis.txt").touch()
    with pytest.raises(OutputExistsError, match="other things"):
        save(folder, smooth(2), overwrite=True)
    assert (folder / "thesis.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    assert len(read_frames(save(tmp_path / "f", smooth(2)))) == 2
