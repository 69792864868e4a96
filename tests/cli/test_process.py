"""What only a process of its own can show: start-up, kills, interrupts, full disks, memory."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

from pvtok.scenes import render_scene
from pvtok.video import VideoWriter
from tests.cli.conftest import Run

PVTOK = [sys.executable, "-m", "pvtok.cli.main"]


def seconds_of_cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_quick() -> None:
    bare = min(seconds_of_cpu([sys.executable, "-c", "pass"]) for _ in range(3))
    full = min(seconds_of_cpu([*PVTOK, "--help"]) for _ in range(5))
    assert full - bare < 0.3


def test_help_and_import_load_no_torch() -> None:
    code = (
        "import sys, pvtok, pvtok.cli.main, typer.testing as t\n"
        "r = t.CliRunner().invoke(pvtok.cli.main.app, ['encode', '--help'])\n"
        "assert r.exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'zarr', 'ffmpeg', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version() -> None:
    shown = subprocess.run([*PVTOK, "--version"], check=True, capture_output=True, text=True)
    assert shown.stdout.startswith("pvtok ")


def files_of(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def long_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough that a kill hits the middle of its encode: 300 frames of 96x96."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    with VideoWriter(path, 96, 96, Fraction(25), crf=28) as writer:
        for chunk in render_scene(5, 300, 96, 96):
            writer.write(chunk)
    return path


SLOWED = [
    sys.executable,
    "-c",
    "import time, pvtok.convert as c, pvtok.tokenizer as t\n"
    "c.CHECKPOINT_SECONDS, t.MAX_CHUNK_GROUPS = 0.2, 1\n"
    "step = t.Tokenizer.encode_step\n"
    "t.Tokenizer.encode_step = lambda *a: time.sleep(0.05) or step(*a)\n"
    "from pvtok.cli.main import run; run()",
]
"""The command line in small, slow steps and a checkpoint every 0.2 s: there is a middle to hit."""


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps in this process, so that results are the same to the byte."""
    monkeypatch.setattr("pvtok.tokenizer.MAX_CHUNK_GROUPS", 1)


@pytest.mark.usefixtures("small_steps")
def test_kill_and_resume_gives_the_same_bytes(run: Run, long_scene: Path, tmp_path: Path) -> None:
    assert run("encode", long_scene, "-o", "whole.zarr").code == 0
    command = [*SLOWED, "encode", str(long_scene), "-o", "a.zarr", "--resume", "--json"]
    random.seed(3)
    kills = 0
    for _ in range(6):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        begun = time.monotonic()
        progress = tmp_path / "a.zarr.partial" / "progress.json"
        seen = progress.read_bytes() if progress.is_file() else b""
        # Wait until it has got further than the last one did, then a random moment more.
        while process.poll() is None and time.monotonic() - begun < 60:
            if progress.is_file() and progress.read_bytes() != seen:
                break
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.5))
        if process.poll() is None:
            process.kill()
            kills += 1
        _, err = process.communicate()
        if Path("a.zarr").exists():  # the last steps were done before the kill
            break
        assert process.returncode == -signal.SIGKILL, err.decode()
        assert not Path("a.zarr").exists()
        assert run("decode", "a.zarr", "-o", "a.mp4").code in (1, 5)
        assert run("verify", "a.zarr").code in (1, 5)
    last = subprocess.run(command, check=True, capture_output=True)
    assert kills >= 2
    assert json.loads(last.stdout.splitlines()[-1])["frames"] == 300
    assert files_of(Path("a.zarr")) == files_of(Path("whole.zarr"))
    assert not Path("a.zarr.partial").exists()


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_keeps_the_work(
    run: Run, long_scene: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    command = [*SLOWED, "encode", str(long_scene), "-o", "a.zarr"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Under a shell that put the tests in the background SIGINT would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    checkpoints = tmp_path / "a.zarr.partial"
    while process.poll() is None and not list(checkpoints.glob("checkpoint-[2-9]*")):
        time.sleep(0.01)
    process.send_signal(sign)
    _, err = process.communicate()
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err
    assert not Path("a.zarr").exists()
    refused = run("encode", long_scene, "-o", "a.zarr")
    assert refused.code == 1
    assert "--resume" in refused.err
    resumed = run("encode", long_scene, "-o", "a.zarr", "--resume", "--json").json
    assert resumed["frames"] == 300
    assert 0 < resumed["new_frames"] < 300


def test_a_full_disk(run: Run, scene: Path, made_store: Path, tmp_path: Path) -> None:
    """A file-size limit fails writes as a full disk does."""
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "from pvtok.cli.main import run; run()"
    )
    for arguments in (
        ["encode", str(scene), "-o", "a.zarr"],
        ["decode", str(made_store), "-o", "a.mp4"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert len([x for x in done.stderr.splitlines() if "error" in x]) == 1, done.stderr
        assert not Path(arguments[-1]).exists()


def peak_memory(command: list[str]) -> int:
    """Peak resident bytes of a command's largest process."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, *command], check=True, capture_output=True, text=True
    )
    return int(shown.stdout) * 1024


@pytest.mark.slow
@pytest.mark.timeout(3300)
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """Ten minutes of 256p against one: within 10 %, for encoding and for decoding.

    PVTOK_MEMORY_MINUTES sets the longer length for a quicker look.
    """
    minutes = int(os.environ.get("PVTOK_MEMORY_MINUTES", "10"))
    minute = list(render_scene(7, 240, 256, 256))
    peaks = {}
    for name, length in (("short", 1), ("long", minutes)):
        video = tmp_path / f"{name}.mp4"
        with VideoWriter(video, 256, 256, Fraction(24), crf=23) as writer:
            for _ in range(6 * length):
                for chunk in minute:
                    writer.write(chunk)
        store, out = tmp_path / f"{name}.zarr", tmp_path / f"{name}-out.mp4"
        peaks[name] = (
            peak_memory([*PVTOK, "encode", str(video), "-o", str(store)]),
            peak_memory([*PVTOK, "decode", str(store), "-o", str(out)]),
        )
    for short, long in zip(peaks["short"], peaks["long"], strict=True):
        assert long <= 1.1 * short, peaks
