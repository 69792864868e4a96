"""`pvtok train`: its options, its errors, and that killing it loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pvtok import Tokenizer
from tests.cli.conftest import Run
from tests.cli.test_errors import one_line
from tests.training.runs import config, equal, one_stage, rows, saved, write

QUICK = (
    "import time, pvtok.training.trainer as t\n"
    "t.STATISTICS_CLIPS = 2\n"
    "step = t.Trainer._step\n"
    "t.Trainer._step = lambda *a: time.sleep({delay}) or step(*a)\n"
    "from pvtok.cli.main import run; run()"
)


def command(*arguments: str | Path, delay: float = 0.0) -> list[str]:
    """The command line in a process of its own, as slow as wanted: there is a middle to hit."""
    return [sys.executable, "-c", QUICK.format(delay=delay), "train", *map(str, arguments)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvtok.training.trainer.STATISTICS_CLIPS", 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "small.json", config())


def test_training_gives_a_model(run: Run, file: Path) -> None:
    done = run("train", file, "--set", "stages.video.steps=2", "--json")
    assert done.code == 0, done.err
    assert done.json["output"] == "runs/small"
    assert done.json["steps"] == done.json["new_steps"] == 5
    assert done.json["psnr"] > 0
    tok = Tokenizer.load(done.json["model"], "cpu")
    assert tok.config.latent_std is not None
    assert "PSNR" in done.err
    # Not a terminal: no bar and no escape codes.
    assert "\x1b" not in done.err
    again = run("train", "runs/small", "--resume", "-q")
    assert again.code == 0
    assert again.err == ""


def test_the_plan_writes_nothing(run: Run, file: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    arguments = ("train", file, "--dry-run", "--set", "optimizer.lr=1e-4", "--nproc", "2")
    plan = run(*arguments, "--json").json
    assert plan["config"]["optimizer"]["lr"] == 1e-4
    assert plan["steps"] == 9
    # Two processes; batches of one or two clips.
    assert plan["stages"][0] == {"name": "video", "steps": 6, "samples": 18}
    assert plan["stages"][1] == {"name": "decoder", "steps": 3, "samples": 12}
    assert plan["parameters"] > 1000
    text = run(*arguments).out
    assert "optimizer.lr = 0.0001" in text
    assert "stage decoder: 3 steps" in text
    assert sorted(tmp_path.iterdir()) == before


def test_files_are_counted(run: Run, scene: Path) -> None:
    plan = run("train", "tiny", "--dry-run", "--json", "--set", f"data.videos={scene}").json
    assert plan["videos"] == 1
    assert plan["config"]["data"]["videos"] == [str(scene)]


def test_mistakes_are_one_line(run: Run, file: Path, tmp_path: Path) -> None:
    one_line(run("train", "huge"), 2, "'huge'", "paper")
    one_line(run("train", file, "--set", "optimizer.rate=1"), 2, "optimizer.rate")
    one_line(run("train", file, "--set", "data.videos=gone"), 2, "gone")
    one_line(run("train", file, "--device", "gpu"), 2, "'gpu'")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    one_line(run("train", file, "-o", "taken"), 1, "taken", "--resume")
    one_line(run("train", file, "-o", "taken", "--resume"), 2, "no run")
    one_line(run("train", file, "-o", "taken", "--nproc", "2"), 1, "taken")
    one_line(run("train", file, "-o", "one", "--set", "losses.lpips=1.0"), 4, "lpips = 0")
    assert not Path("one").exists()
    assert run("train", file, "-o", "one", "--set", "stages.video.steps=1").code == 0
    one_line(run("train", file, "-o", "one", "--resume"), 2, "stages.video.steps differ")


def test_a_loss_that_is_not_finite(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvtok.training.trainer.to_signed", lambda x: x.float() / 0)
    done = run("train", file, "-o", "run")
    one_line(done, 1, "not finite", "loss nan", "optimizer.lr")
    assert saved(Path("run"))["step"] == 0


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until the log has a row at or after `step`."""
    begun = time.monotonic()
    while process.poll() is None and time.monotonic() - begun < 60:
        if (folder / "log.jsonl").exists() and any(r["step"] >= step for r in rows(folder)):
            return
        time.sleep(0.01)


def assert_equal_runs(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    states = saved(a), saved(b)
    for state in states:
        del state["busy"]  # seconds
    assert equal(*states)
    weights = Path("model") / "model.safetensors"
    assert (a / weights).read_bytes() == (b / weights).read_bytes()


@pytest.mark.parametrize("kills", [(4,), pytest.param((2, 6, 8), marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    run: Run, tmp_path: Path, file: Path, kills: tuple[int, ...]
) -> None:
    """The same log and weights, bit for bit, after SIGKILL while steps are taken."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run("train", file, "-o", whole).code == 0
    for step in kills:
        arguments = command(file, "-o", parts, "--resume", delay=0.3)
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for_step(parts, step, process)
        process.kill()
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err.decode()
    assert saved(parts)["step"] < 9
    assert run("train", parts, "--resume").code == 0
    assert_equal_runs(parts, whole)


@pytest.mark.parametrize(
    "sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_keeps_every_step(
    tmp_path: Path, file: Path, sign: signal.Signals
) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(file, "-o", folder, delay=0.2), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for_step(folder, 2, process)
    process.send_signal(sign)
    _, err = process.communicate()
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err
    step = saved(folder)["step"]
    assert 2 <= step < 9
    assert f"stopped after step {step}".encode() in err
    assert b"--resume" in err


@pytest.mark.slow
def test_interrupting_several_processes(tmp_path: Path) -> None:
    """A polite kill of the one that started them stops all after the same step."""
    file = write(tmp_path / "small.json", config(stages=one_stage(steps=200)))
    folder = tmp_path / "run"
    arguments = [sys.executable, "-m", "pvtok.cli.main", "train", str(file), "-o", str(folder)]
    process = subprocess.Popen(
        [*arguments, "--nproc=2", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wait_for_step(folder, 4, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in err
    assert err.count(b"stopped after step") == 1
    # Each step was the batches of both.
    state = saved(folder)
    assert state["samples"] == 4 * state["step"]


@pytest.mark.slow
def test_torchrun_starts_it_too(tmp_path: Path) -> None:
    file = write(tmp_path / "small.json", config(stages=one_stage(steps=2)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "pvtok.cli.main", "train", str(file), "-o", "run", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout)["steps"] == 2
    assert saved(tmp_path / "run")["samples"] == 8
