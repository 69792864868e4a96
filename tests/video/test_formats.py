"""Real files that are hard to read, each with what must come of it; and the ordinary ones."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest

from pvtok.errors import CorruptVideoError, HdrVideoError, PvtokError
from pvtok.video import ReadOptions, VideoReader, probe


class Expected(NamedTuple):
    frames: int
    width: int
    height: int
    fps: Fraction
    notices: tuple[str, ...] = ()
    error: type[PvtokError] | None = None
    options: ReadOptions = ReadOptions()


def rate(n: int, d: int = 1) -> Fraction:
    return Fraction(n, d)


FILES = [
    ("corrupted_decord.mp4", Expected(0, 1280, 720, rate(10), error=CorruptVideoError)),
    (
        "corrupted_decord.mp4",
        Expected(
            49,
            1280,
            720,
            rate(10),
            ("bt709 assumed", "damaged or truncated: 49 frames"),
            options=ReadOptions(allow_truncated=True),
        ),
    ),
    (
        "derived_interlaced_tff.mp4",
        Expected(40, 640, 480, rate(25), ("bt601 assumed", "left woven")),
    ),
    (
        "derived_interlaced_tff.mp4",
        Expected(40, 640, 480, rate(25), ("bt601",), options=ReadOptions(deinterlace=True)),
    ),
    ("derived_truncated_nasa.mp4", Expected(0, 0, 0, rate(1), error=CorruptVideoError)),
    ("hdr_10bit_hevc_nasa.mp4", Expected(0, 320, 180, rate(25), error=HdrVideoError)),
    (
        "hdr_10bit_hevc_nasa.mp4",
        Expected(325, 320, 180, rate(25), ("tone-mapped",), options=ReadOptions(tonemap=True)),
    ),
    ("mkv_asl_milk.mkv", Expected(51, 640, 480, rate(30), ("bt601 assumed",))),
    # One of the 49 entries that the file lists is a placeholder of 1 byte, with no picture.
    ("mpeg4_webcam.avi", Expected(48, 320, 240, rate(30), ("bt601 assumed", "48 hold a picture"))),
    ("multistream_audio_nasa.mp4", Expected(325, 320, 180, rate(25), ("2 video streams",))),
    ("newtonscradle.gif", Expected(36, 200, 150, rate(1800, 41), ("rate varies",))),
    ("odd_1319x836_horse.mp4", Expected(14, 1319, 836, rate(24))),
    ("odd_321x241_vp9.mp4", Expected(25, 321, 241, rate(25), ("bt601 assumed",))),
    ("oneframe_output.mp4", Expected(1, 500, 372, rate(30), ("bt601 assumed",))),
    ("rot90_nasa.mp4", Expected(17, 270, 480, rate(30000, 1001), ("turned by 270",))),
    ("rot90_video_90.mov", Expected(3, 320, 568, rate(30), ("turned by 90",))),
    (
        "vfr_rot180_audio_fire2.mp4",
        Expected(
            25, 1280, 720, rate(750000, 71393), ("bt709 assumed", "turned by 180", "rate varies")
        ),
    ),
    ("vp8_rabbit320.webm", Expected(234, 320, 240, rate(30))),
]


@pytest.mark.parametrize(
    ("name", "expected"), FILES, ids=[f"{n}-{k}" for k, (n, _) in enumerate(FILES)]
)
def test_hard_file(shared_video: Path, name: str, expected: Expected) -> None:
    path = shared_video / "formats" / name
    if expected.error is not None:
        with pytest.raises(expected.error) as caught, VideoReader(path, expected.options) as reader:
            list(reader)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    with VideoReader(path, expected.options) as reader:
        chunks = list(reader)
    assert sum(map(len, chunks)) == reader.frames_read == expected.frames
    assert {c.shape[1:] for c in chunks} == {(expected.height, expected.width, 3)}
    assert (reader.width, reader.height) == (expected.width, expected.height)
    assert reader.info.fps == expected.fps
    assert len(reader.timestamps) == expected.frames
    assert len(reader.notices) == len(expected.notices), reader.notices
    for part, notice in zip(expected.notices, reader.notices, strict=True):
        assert part in notice


def test_every_hard_file_is_in_the_table(shared_video: Path) -> None:
    assert {p.name for p in (shared_video / "formats").iterdir()} == {name for name, _ in FILES}


def test_variable_rate_keeps_its_times(shared_video: Path) -> None:
    path = shared_video / "formats" / "vfr_rot180_audio_fire2.mp4"
    with VideoReader(path, ReadOptions(size=64)) as reader:
        list(reader)
    assert reader.info.variable_rate
    ticks = [round(t * 90_000) for t in reader.timestamps]
    assert ticks[:8] == [0, 9000, 18000, 27000, 36000, 45000, 53098, 61196]
    assert ticks[-1] == 205186


def read_and_compare(row: dict[str, str], path: Path) -> None:
    # Small frames: decoding is the same, and only the count is looked at.
    with VideoReader(path, ReadOptions(size=16), chunk_frames=64) as reader:
        frames = sum(map(len, reader))
    info = reader.info
    assert frames == info.frames == int(row["frames"]), row["file"]
    assert (info.coded_width, info.coded_height) == (int(row["width"]), int(row["height"]))
    assert float(info.fps) == pytest.approx(float(row["fps"]), abs=0.002)
    assert not info.variable_rate
    assert not any("damaged" in n or "hold a picture" in n for n in reader.notices)


def rows(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def test_ordinary_clips_have_exactly_their_frames(shared_video: Path) -> None:
    for row in rows(shared_video, "val"):
        read_and_compare(row, shared_video / row["file"])


@pytest.mark.slow
def test_training_clips_have_exactly_their_frames(shared_video: Path) -> None:
    for row in rows(shared_video, "train"):
        read_and_compare(row, shared_video / row["file"])


def test_hdr_is_known_from_the_pictures_not_the_container(shared_video: Path) -> None:
    # Its container says BT.709; the pictures themselves say BT.2020 and PQ.
    info = probe(shared_video / "formats" / "hdr_10bit_hevc_nasa.mp4")
    assert info.hdr
    assert (info.color_matrix, info.transfer) == ("bt2020", "smpte2084")
