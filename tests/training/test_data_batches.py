"""Batches: repeatable whatever the processes and workers, random within that, and robust."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pvtok.errors import MissingDependencyError, PvtokError, WriteError
from pvtok.training.data import Batch, BatchShape, DataConfig, TrainingData, shape_at
from pvtok.training.data.samples import Samples
from pvtok.training.randomness import numpy_generator
from pvtok.video import ReadOptions, read_frames
from tests.video import make

HEIGHT, WIDTH, FRAMES = 48, 80, 21


def told(file: int, frames: int = FRAMES) -> NDArray[np.uint8]:
    """Frames that tell in each pixel where they are from: column, row, and file and moment."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    return np.stack([3 * x, 5 * y, 60 * file + 2 * t + 20], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    path.mkdir()
    for file in range(3):
        make.save(path / f"{file}.mkv", told(file), lossless=True)
    return path


def data(folder: Path, seed: int = 0, **config: Any) -> TrainingData:
    """Of the fixture's clips; from a cache beside them, which is faster."""
    config = {"cache": str(folder.parent / "cache")} | config
    config = {"videos": (str(folder),), "short_side": HEIGHT, "workers": 0} | config
    return TrainingData(DataConfig(**config), seed)


SHAPES = [BatchShape(5, 32, 2), BatchShape(1, 48, 4), BatchShape(9, 16, 2)]


def batches(
    given: TrainingData, shapes: list[BatchShape] = SHAPES, steps: range = range(6), **options: Any
) -> list[Batch]:
    options = {"source": "videos", "first_sample": 0} | options
    return list(given.batches(shapes, steps=steps, **options))


def assert_same(one: list[Batch], two: list[Batch]) -> None:
    assert [b.indices for b in one] == [b.indices for b in two]
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.clips_BCTHW, b.clips_BCTHW)


# --- Repeatable -----------------------------------------------------------------------------------


def test_batches_are_what_was_asked_for(folder: Path) -> None:
    got = batches(data(folder))
    shapes = [shape_at(SHAPES, 0, step) for step in range(6)]
    assert len(set(shapes)) > 1
    first = 0
    for batch, shape in zip(got, shapes, strict=True):
        size = shape.size
        assert batch.clips_BCTHW.shape == (shape.batch, 3, shape.frames, size, size)
        assert batch.clips_BCTHW.dtype == torch.uint8
        assert batch.clips_BCTHW.is_contiguous()
        assert batch.indices == tuple(range(first, first + shape.batch))
        first += shape.batch


@pytest.mark.parametrize("cache", [True, False])
def test_workers_change_nothing(folder: Path, cache: bool) -> None:
    config = {"procedural": 0.5} if cache else {"cache": None}
    here, there = (batches(data(folder, workers=n, **config)) for n in (0, 2))
    assert_same(here, there)


def test_a_run_goes_on_at_any_step(folder: Path) -> None:
    whole = batches(data(folder))
    for step in (1, 4):
        drawn = sum(len(b.indices) for b in whole[:step])
        rest = batches(data(folder), steps=range(step, 6), first_sample=drawn)
        assert_same(rest, whole[step:])


def test_processes_share_the_samples_of_one(folder: Path) -> None:
    one = batches(data(folder), [BatchShape(5, 32, 4)])
    parts = [batches(data(folder), [BatchShape(5, 32, 2)], rank=r, world=2) for r in (0, 1)]
    for whole, left, right in zip(one, *parts, strict=True):
        assert whole.indices == left.indices + right.indices
        both = torch.cat([left.clips_BCTHW, right.clips_BCTHW])
        assert torch.equal(whole.clips_BCTHW, both)


def test_another_seed_gives_other_samples(folder: Path) -> None:
    a, b = (batches(data(folder, seed), [SHAPES[0]])[0].clips_BCTHW for seed in (0, 1))
    assert not torch.equal(a, b)


def test_torchs_own_generator_is_left_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    batches(data(folder), steps=range(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_cache_changes_nothing(folder: Path, tmp_path: Path) -> None:
    decoded = batches(data(folder, cache=None))
    for _ in range(2):  # made, and found
        assert_same(decoded, batches(data(folder, cache=str(tmp_path / "new/cache"))))


# --- Random ---------------------------------------------------------------------------------------


class Origin:
    """Where a sample of a `told` file was cut out, and how it was turned."""

    def __init__(self, clip_CTHW: torch.Tensor) -> None:
        # Coding is not quite exact: a least-squares slope over the clip is.
        red, green, blue = clip_CTHW.double()
        self.flipped = bool(red[..., -1].mean() < red[..., 0].mean())
        self.reversed = bool(blue[-1].mean() < blue[0].mean())
        self.x = round(red[..., [0, -1]].mean((0, 1)).min().item() / 3)
        self.y = round(green[:, 0].mean().item() / 5)
        code = round(blue.mean((1, 2)).min().item()) - 20
        self.file, self.t = code // 60, round(code % 60 / 2)


def origins(source: TrainingData, count: int, shape: BatchShape = SHAPES[0]) -> list[Origin]:
    samples = Samples(source.config, source.seed, source.files, source.images)
    return [
        Origin(samples.sample(i, shape.frames, shape.size, "videos").clone()) for i in range(count)
    ]


@pytest.fixture(scope="module")
def drawn(folder: Path) -> list[Origin]:
    return origins(data(folder), 600)


def test_every_epoch_has_every_file_once_in_another_order(drawn: list[Origin]) -> None:
    epochs = [tuple(o.file for o in drawn[i : i + 3]) for i in range(0, 600, 3)]
    assert {tuple(sorted(e)) for e in epochs} == {(0, 1, 2)}
    assert len(set(epochs)) == 6


def test_place_and_moment_are_even_over_all_that_there_are(drawn: list[Origin]) -> None:
    for values, places in (
        ([o.x for o in drawn], WIDTH - 32 + 1),
        ([o.y for o in drawn], HEIGHT - 32 + 1),
        ([o.t for o in drawn], FRAMES - 5 + 1),
    ):
        assert set(values) == set(range(places))
        assert np.mean(values) == pytest.approx((places - 1) / 2, rel=0.1)


def test_half_are_mirrored_and_half_run_backwards(drawn: list[Origin]) -> None:
    turned = np.array([[o.flipped, o.reversed] for o in drawn])
    assert np.abs(turned.mean(0) - 0.5).max() < 0.08
    assert abs(np.corrcoef(turned.T)[0, 1]) < 0.15


@pytest.mark.parametrize("off", ["flip", "reverse"])
def test_what_is_off_never_happens_and_nothing_else_changes(
    folder: Path, drawn: list[Origin], off: str
) -> None:
    got = origins(data(folder, **{off: False}), 40)
    for with_it, without in zip(drawn, got, strict=False):
        wanted = {**vars(with_it), {"flip": "flipped", "reverse": "reversed"}[off]: False}
        assert vars(without) == wanted


def test_a_share_is_rendered(folder: Path) -> None:
    source = data(folder, procedural=0.25)
    samples = Samples(source.config, 0, source.files, ())
    plain = Samples(data(folder).config, 0, source.files, ())
    # The others are those that would have come without.
    rendered = [
        not torch.equal(samples.sample(i, 1, 16, "videos"), plain.sample(i, 1, 16, "videos"))
        for i in range(300)
    ]
    assert np.mean(rendered) == pytest.approx(0.25, abs=0.07)


def test_rendering_needs_no_files() -> None:
    source = TrainingData(DataConfig(procedural=1.0, workers=0), 0)
    for kind, shape in (("videos", BatchShape(5, 32, 2)), ("images", BatchShape(1, 32, 2))):
        (batch,) = batches(source, [shape], range(1), source=kind)
        assert batch.clips_BCTHW.shape == (2, 3, shape.frames, 32, 32)


def test_shapes_are_drawn_evenly() -> None:
    counts = [sum(shape_at(SHAPES, 1, step) is s for step in range(900)) for s in SHAPES]
    assert min(counts) > 250


# --- Images ---------------------------------------------------------------------------------------


def test_images_are_scaled_and_cropped(tmp_path: Path, folder: Path) -> None:
    Image.fromarray(told(0)[0]).resize((160, 96)).save(tmp_path / "large.png")
    Image.fromarray(told(1)[0]).save(tmp_path / "photo.JPG", quality=95)
    Image.fromarray(told(2)[0]).resize((20, 12)).save(tmp_path / "small.webp", lossless=True)
    source = data(folder, images=(str(tmp_path),))
    got = batches(source, [BatchShape(1, 48, 3)], range(2), source="images")
    assert not source.failures
    assert [p.name for p in source.images] == ["large.png", "photo.JPG", "small.webp"]
    for batch in got:
        places = [Origin(clip) for clip in batch.clips_BCTHW]
        assert sorted(p.file for p in places) == [0, 1, 2]
        assert all(p.y <= 1 for p in places)


def test_without_images_single_frames_are_taken(folder: Path) -> None:
    shape = [BatchShape(1, 32, 3)]
    as_images = batches(data(folder), shape, source="images")
    assert {Origin(c).file for b in as_images for c in b.clips_BCTHW} == {0, 1, 2}


# --- Files that are hard to read ------------------------------------------------------------------


def formats(shared_video: Path, *names: str, **config: Any) -> TrainingData:
    paths = tuple(str(shared_video / "formats" / name) for name in names)
    return TrainingData(DataConfig(videos=paths, short_side=64, workers=0, **config), 0)


BAD = {
    "derived_truncated_nasa.mp4": "damaged or not a video",
    "oneframe_output.mp4": "1 frames of 5",
}


@pytest.mark.parametrize("cached", [False, True])
def test_bad_files_are_skipped_for_the_next(
    shared_video: Path, tmp_path: Path, cached: bool
) -> None:
    bad = dict(BAD)
    if cached:  # the whole of it is read, so damage anywhere is seen
        bad["corrupted_decord.mp4"] = "damaged or truncated: 49"
    good = ("rot90_nasa.mp4", "odd_321x241_vp9.mp4")
    cache = str(tmp_path) if cached else None
    source = formats(shared_video, *bad, *good, cache=cache)
    shape = [BatchShape(5, 32, 6)]
    first = batches(source, shape, range(2))
    failures = source.failures
    assert {path.name for path, _ in failures} == set(bad)
    assert all(bad[path.name] in reason for path, reason in failures)
    again = batches(formats(shared_video, *bad, *good, cache=cache), shape, range(1, 2),
                    first_sample=6)  # fmt: skip
    assert_same(again, first[1:])
    if cached:
        assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("workers", [0, 1])
def test_if_every_file_is_bad_the_error_is_one_line(shared_video: Path, workers: int) -> None:
    paths = tuple(str(shared_video / "formats" / name) for name in BAD)
    source = TrainingData(DataConfig(videos=paths, workers=workers), 0)
    with pytest.raises(PvtokError, match="none of the 2 files can give 5 frames") as caught:
        batches(source, [BatchShape(5, 32, 1)], range(1))
    assert "\n" not in str(caught.value)
    assert len(source.failures) == 2


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("rot90_video_90.mov", 3),
        ("hdr_10bit_hevc_nasa.mp4", 17),
        ("vfr_rot180_audio_fire2.mp4", 17),
        ("newtonscradle.gif", 17),
        ("mpeg4_webcam.avi", 45),
        ("mkv_asl_milk.mkv", 49),
        ("vp8_rabbit320.webm", 17),
    ],
)
def test_odd_files_give_consecutive_frames(shared_video: Path, name: str, frames: int) -> None:
    source = formats(shared_video, name, flip=False, reverse=False)
    samples = Samples(source.config, 0, source.files, ())
    clip = samples.sample(0, frames, 64, "videos").permute(1, 2, 3, 0).numpy()
    assert not samples.failures
    whole = read_frames(source.files[0], ReadOptions(size=64, tonemap=True))
    T, H, W, _ = whole.shape
    # `sample` places the crop with its third and fourth number.
    chances = numpy_generator(0, "sample", 0).random(6)
    y, x = int(chances[2] * (H - 63)), int(chances[3] * (W - 63))
    crops = [whole[t : t + frames, y : y + 64, x : x + 64] for t in range(T - frames + 1)]
    assert any(np.array_equal(clip, crop) for crop in crops)


def test_only_the_first_frames_are_used_where_that_is_asked(folder: Path, tmp_path: Path) -> None:
    for cache in (None, str(tmp_path)):
        source = data(folder, max_frames=7, cache=cache)
        assert {o.t for o in origins(source, 12)} == {0, 1, 2}


# --- Cache ----------------------------------------------------------------------------------------


def test_a_changed_file_or_scale_is_decoded_anew(tmp_path: Path) -> None:
    cache, clip = tmp_path / "cache", tmp_path / "clips" / "a.mkv"
    clip.parent.mkdir()

    def one(short_side: int = HEIGHT) -> Origin:
        source = data(clip.parent, cache=str(cache), short_side=short_side)
        return origins(source, 1)[0]

    make.save(clip, told(0), lossless=True)
    assert one().file == 0
    (array,) = cache.glob("*.npy")
    stamp = array.stat().st_mtime_ns
    assert one().file == 0
    assert array.stat().st_mtime_ns == stamp
    one(short_side=64)
    assert len(list(cache.iterdir())) == 2
    make.save(clip, told(2), lossless=True, overwrite=True)
    assert one().file == 2
    # What is kept is plain numpy, as long as the video.
    assert np.load(array).shape == (FRAMES, HEIGHT, WIDTH, 3)


def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path: Path, folder: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from pvtok.training.data import cache\n"
        "from pvtok.video import ReadOptions\n"
        "cache.os.fsync = lambda _: os.kill(os.getpid(), 9)\n"  # all is written, but not renamed
        "cache.ClipCache(Path(sys.argv[1])).frames(Path(sys.argv[2]), ReadOptions())\n"
    )
    kept = tmp_path / "cache"
    process = subprocess.run([sys.executable, "-c", code, kept, folder / "0.mkv"], check=False)
    assert process.returncode == -signal.SIGKILL
    (draft,) = kept.iterdir()
    assert draft.suffix == ".tmp"
    os.utime(draft, (0, 0))
    batches(data(folder, cache=str(kept)), [SHAPES[0]], range(2))
    assert {p.suffix for p in kept.iterdir()} == {".npy"}


def test_a_cache_that_cannot_be_written_ends_the_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source = data(folder, cache=str(tmp_path / "file" / "cache"))
    with pytest.raises(WriteError, match="cannot write"):
        batches(source)


# --- Workers --------------------------------------------------------------------------------------


def test_what_is_no_files_fault_reaches_the_user(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PVTOK_FFMPEG", "/nowhere/ffmpeg")
    source = data(folder, cache=None)
    with pytest.raises(MissingDependencyError):
        batches(source)
    assert not source.failures


_RUN = """
import sys
from pvtok.training.data import BatchShape, DataConfig, TrainingData

if __name__ == "__main__":
    data = TrainingData(DataConfig(procedural=1.0, workers=2), 0)
    shapes = [BatchShape(5, 32, 1)]
    for _ in data.batches(shapes, source="videos", steps=range(10**6), first_sample=0):
        print("step", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A process that waits after its first batch, and all its descendants."""
    script = tmp_path / "run.py"
    script.write_text(_RUN)
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "step\n"
            yield process, psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()


def workers_of(descendants: list[psutil.Process]) -> list[psutil.Process]:
    # A worker's parent is the server it was forked from, itself a descendant.
    own = {p.pid for p in descendants}
    return [p for p in descendants if p.ppid() in own]


@pytest.mark.slow
def test_workers_die_with_the_run(
    running: tuple[subprocess.Popen[str], list[psutil.Process]],
) -> None:
    process, descendants = running
    workers = workers_of(descendants)
    assert len(workers) == 2
    process.kill()
    _, alive = psutil.wait_procs(descendants, timeout=30)
    assert not alive


@pytest.mark.slow
def test_a_worker_that_dies_is_reported(
    running: tuple[subprocess.Popen[str], list[psutil.Process]],
) -> None:
    process, descendants = running
    for worker in workers_of(descendants):
        worker.kill()
    time.sleep(0.5)
    _, errors = process.communicate("\n" * 20, timeout=60)
    assert "a process that prepares batches has died" in errors


class _Threads(Samples):
    def sample(self, *_: Any) -> torch.Tensor:
        return torch.tensor([torch.get_num_threads()], dtype=torch.uint8)


def test_a_worker_computes_on_one_thread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvtok.training.data.batches.Samples", _Threads)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    (batch,) = batches(data(folder, workers=1), [SHAPES[0]], range(1))
    assert batch.clips_BCTHW.flatten().tolist() == [1, 1]
