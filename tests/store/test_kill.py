"""A writer killed at any point leaves something whole or something to go on with."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from pvtok.store import verify_store

from .build import frames_of, make_latents, tree, write

ROOT = Path(__file__).parents[2]


def child(folder: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store.kill_child", str(folder), mode],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_at_every_file_operation(tmp_path: Path) -> None:
    process = child(tmp_path, "exhaustive")
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert int(output.split()[0]) > 50, "the points were not counted"


def test_killed_from_outside_at_random_times(tmp_path: Path) -> None:
    rng = random.Random(0)
    times = range(frames_of(30))
    whole = write(tmp_path / "whole.zarr", make_latents(30), timestamps=times)
    for _ in range(4):
        process = child(tmp_path, "slow")
        time.sleep(rng.uniform(0.2, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = child(tmp_path, "slow")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert tree(tmp_path / "a.zarr") == tree(whole)
    assert verify_store(tmp_path / "a.zarr") == []
    assert not (tmp_path / "a.zarr.partial").exists()
