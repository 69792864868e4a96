"""Writes a store in processes that are killed, at chosen points, by SIGKILL.

    python -m tests.store.kill_child FOLDER exhaustive|slow

A point is a file operation: an open, a rename, a removal, a sync, or the middle of a write. Each
run is a fork, so a run costs milliseconds. Imports no library that starts threads.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from pvtok.errors import PvtokError
from pvtok.store import StoreWriter, files, open_store, shard_writer, verify_store

from .build import SMALL, frames_of, make_latents, make_meta, tree

LATENTS = 30
PIECE = 5


def encode(path: Path, overwrite: bool, pause: float = 0.0) -> None:
    """An encode as the command line does it: resume where possible, checkpoint now and then."""
    latents = make_latents(LATENTS)
    options = {**SMALL, "resume": True, "overwrite": overwrite}
    with StoreWriter.create(path, make_meta(), **options) as writer:
        if writer.already_complete:
            return
        assert writer.state in (None, b"done %d" % writer.latents_done)
        for start in range(writer.latents_done, LATENTS, PIECE):
            writer.append(latents[start : start + PIECE])
            if start % (2 * PIECE) == 0:
                writer.checkpoint(b"done %d" % writer.latents_done)
            time.sleep(pause)
        writer.finish(frames=frames_of(LATENTS), timestamps=range(frames_of(LATENTS)))


def die_at(point: int) -> None:
    """Kill this process at its file operation number `point`."""
    events = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
    left = point

    def step() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: object) -> None:
        if event in events and step():
            die()

    whole_write = files.write_all

    def write_all(file: object, data: bytes) -> None:
        if step():
            whole_write(file, data[: len(data) // 2])  # type: ignore[arg-type]
            die()
        whole_write(file, data)  # type: ignore[arg-type]

    def fsync(descriptor: int) -> None:
        if step():
            die()

    files.write_all = shard_writer.write_all = write_all
    os.fsync = fsync
    sys.addaudithook(hook)


def killed(path: Path, overwrite: bool, point: int) -> bool:
    """Run an encode that is killed at `point`; whether it lived that long."""
    process = os.fork()
    if process == 0:
        try:
            die_at(point)
            encode(path, overwrite)
            os._exit(0)
        except BaseException as error:
            print(f"point {point}: {error!r}", file=sys.stderr)
            os._exit(1)
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, f"point {point} failed"
    return False


def check_visible(path: Path, allowed: list[dict[str, bytes]]) -> None:
    """What is seen under the final name is nothing, or one of the whole stores."""
    if path.exists():
        assert tree(path) in allowed, "a store that is neither the old nor the new"
        assert verify_store(path) == []
        return
    try:
        open_store(path)
    except PvtokError:
        return
    raise AssertionError("opened what is not there")


def exhaustive(folder: Path) -> None:
    """Kill at every point there is; then at random points, again and again."""
    # A kill loses nothing that the system was given, so the wait for the disk is spared.
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    encode(folder / "whole.zarr", overwrite=False)
    new = tree(folder / "whole.zarr")
    for overwrite in (False, True):
        old: dict[str, bytes] = {}
        point, done = 0, False
        while not done:
            path = folder / f"{overwrite}-{point}.zarr"
            if overwrite:
                make_old(path)
                old = tree(path)
            done = not killed(path, overwrite, point)
            check_visible(path, [old, new])
            encode(path, overwrite=False if path_is_begun(path) else overwrite)
            assert tree(path) == new, f"point {point}"
            assert not files.partial_of(path).exists(), f"point {point} left a partial"
            point += 1
        print(point, "points")
        rng = np.random.default_rng(point)
        for series in range(8):
            path = folder / f"{overwrite}-series-{series}.zarr"
            runs = 1
            while killed(path, overwrite, int(rng.integers(10, point // 2))) and runs < 200:
                check_visible(path, [new])
                runs += 1
            assert tree(path) == new
            print(runs, "runs")


def path_is_begun(path: Path) -> bool:
    return (files.partial_of(path) / files.PROGRESS_FILE).exists()


def make_old(path: Path) -> None:
    with StoreWriter.create(path, make_meta(tail="drop"), **SMALL) as writer:
        writer.append(make_latents(3, seed=9))
        writer.finish(frames=9)


if __name__ == "__main__":
    if sys.argv[2] == "exhaustive":
        exhaustive(Path(sys.argv[1]))
    else:
        encode(Path(sys.argv[1]) / "a.zarr", overwrite=False, pause=0.03)
