"""`pvtok bench`: its rows, its refusals, its notices."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pvtok import checkpoint
from pvtok.bench import contenders, machine
from pvtok.configs import PRESETS
from pvtok.model import State
from pvtok.steps import Steps
from tests.cli.conftest import Run
from tests.models import SMALL, small_model

SHORT = ("--batch", 2, "--frames", 5, "--size", "32x48", "--warm-up", 1, "--timed", 5)
ROW_KEYS = {
    "name",
    "stage",
    "dtype",
    "backend",
    "batch",
    "frames",
    "height",
    "width",
    "it_per_s",
    "frames_per_s",
    "peak_memory_bytes",
    "tflops",
    "peak_share",
    "device",
    "torch",
    "commit",
    "check",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "small"
    checkpoint.save(small_model("patch4"), folder)
    return folder


@pytest.fixture(autouse=True)
def _quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of the machine are measured, but on less."""
    monkeypatch.setattr(machine, "CPU_MILLISECONDS", 4.0)
    monkeypatch.setitem(machine.COPY_BYTES, "cpu", 2**20)


class Broken:
    """Another backend's steps with one row of every decoded frame black."""

    backend = "broken"

    def __init__(self, steps: Steps) -> None:
        self.inner = steps

    def encode(self, frames_BTHWC: Tensor, state: State | None) -> tuple[Tensor, State]:
        return self.inner.encode(frames_BTHWC, state)

    def decode(self, z_BCTHW: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        y, finite, state = self.inner.decode(z_BCTHW, state)
        y[:, :, 7] = 0
        return y, finite, state


def test_rows(run: Run, model: Path) -> None:
    done = run("bench", "--model", model, *SHORT, "--against", "torch", "--json", "--stage",
               "encode,decode,both", "--save", "rows.jsonl")  # fmt: skip
    assert done.code == 0, done.err
    rows = done.json["rows"]
    assert [(row["stage"], row["backend"]) for row in rows] == [
        (stage, "torch") for stage in ("encode", "decode", "both") for _ in range(2)
    ]
    for row in rows:
        assert row.keys() >= ROW_KEYS
        assert row["check"].startswith("passed")
        assert row["timed"] == 5
        assert row["frames_per_s"] == pytest.approx(row["it_per_s"] * 10)
        assert row["it_per_s"] == pytest.approx(1e3 / row["p50_ms"])
        assert row["p5_ms"] <= row["p50_ms"] <= row["p95_ms"]
        assert row["tflops"] == pytest.approx(row["it_per_s"] * row["flops"]["least"] / 1e12)
        assert row["peak_share"] == pytest.approx(row["tflops"] / row["peak_tflops"])
        assert row["peak_memory_bytes"] is None
        assert row["peak_memory_reason"]
        assert row["protocol"].startswith("paper, but ")
    assert rows[4]["flops"]["least"] == sum(rows[i]["flops"]["least"] for i in (0, 2))
    saved = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert saved == rows


def test_a_broken_backend_gets_no_speed(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contenders, "CompiledSteps", Broken)
    done = run("bench", "--model", model, *SHORT, "--against", "compile", "--json")
    assert done.code == 1
    good, bad = done.json["rows"]
    assert good["it_per_s"] > 0
    assert bad["backend"] == "broken"
    assert bad["check"].startswith("failed")
    for key in ("it_per_s", "frames_per_s", "tflops", "peak_share"):
        assert bad[key] is None
    assert bad["timed"] == 0
    table = run("bench", "--model", model, *SHORT, "--against", "compile")
    assert table.code == 1
    assert "failed" in table.out
    files = run("bench", "--model", model, *SHORT, "--compile", "--stage", "io", "--json")
    assert files.code == 1
    assert [row["frames_per_s"] for row in files.json["rows"]] == [None, None]


def test_a_backend_that_cannot_run_gets_no_speed(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crashing(Broken):
        def decode(self, z_BCTHW: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
            raise torch.OutOfMemoryError("tried to allocate 9 TiB")

    monkeypatch.setattr(contenders, "CompiledSteps", Crashing)
    done = run("bench", "--model", model, *SHORT, "--compile", "--json")
    assert done.code == 1
    assert "9 TiB" in done.json["rows"][0]["check"]


def test_table_and_profile(run: Run, model: Path) -> None:
    done = run("bench", "--model", model, *SHORT, "--profile")
    assert done.code == 0
    for word in ("it/s", "TFLOP/s", "of peak", "convolution", "passed", "GB/s"):
        assert word in done.out
    profiled = run("bench", "--model", model, *SHORT, "--profile", "--json").json["profile"]
    assert sum(p["share"] for p in profiled if not p["name"]) == pytest.approx(1.0)


def test_files_end_to_end(run: Run, model: Path, scene: Path) -> None:
    done = run("bench", "--model", model, *SHORT, "--stage", "io", "--json")
    assert done.code == 0, done.err
    encode, decode = done.json["rows"]
    assert (encode["direction"], decode["direction"]) == ("encode", "decode")
    for row in (encode, decode):
        assert (row["frames"], row["height"], row["width"]) == (5, 32, 48)
        assert row["share_of_model"] == pytest.approx(
            row["frames_per_s"] / row["model_frames_per_s"]
        )
    short = ("--timed", 5, "--warm-up", 0, "--batch", 1, "--size", 32)
    own = run("bench", "--model", model, *short, "--stage", "io", "--video", scene, "--json")
    assert [row["frames"] for row in own.json["rows"]] == [22, 22]
    assert own.json["rows"][0]["width"] == 70


def test_presets_without_weights_say_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "small", SMALL["plain"])
    done = run("bench", "--model", "small", *SHORT, "--seed", 3, "--json")
    assert done.code == 0
    assert "random, of seed 3" in done.err
    assert done.json["rows"][0]["weights"] == "random, seed 3"


def test_half_precision_on_a_cpu_is_real_and_said(run: Run, model: Path) -> None:
    done = run("bench", "--model", model, *SHORT, "--fp16", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    assert done.json["rows"][0]["dtype"] == "fp16"
    assert "no fast path" in done.err


def test_fewer_iterations_on_a_cpu_are_said(run: Run, model: Path) -> None:
    some = SHORT[:6]
    plan = run("bench", "--model", model, *some, "--device", "cpu", "--dry-run", "--json")
    assert plan.code == 0
    assert "not the paper's 4, 50 and 100" in plan.err
    assert (plan.json["warm_up"], plan.json["seconds"]) == (1, 30)
    told = run("bench", "--model", model, *some, "--device", "cpu", "--dry-run", "--timed", 100)
    assert "paper" not in told.err
    done = run("bench", "--model", model, *some, "--device", "cpu", "--seconds", 0, "--json")
    assert done.json["rows"][0]["timed"] == 5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--frames", 16], 2, "1 + 4n"),
        (["--size", "big"], 2, "big"),
        (["--size", "0"], 2, "0"),
        (["--batch", "0"], 2, "batch 0"),
        (["--timed", "0"], 2, "timed 0"),
        (["--stage", "train"], 2, "train"),
        (["--stage", ""], 2, "stage"),
        (["--against", "tensorrt"], 2, "tensorrt"),
        (["--against", "diffusers:AutoencoderKL"], 2, "AutoencoderKLWan"),
        (["--kernels", "triton"], 4, "triton"),
        (["--kernels", "compile"], 2, "compile"),
        (["--fp16", "--bf16"], 2, "--fp16 and --bf16"),
        (["--model", "huge"], 4, "huge"),
        (["--video", "x.mp4"], 2, "--stage io"),
        (["--stage", "io", "--video", "none.mp4"], 1, "none.mp4"),
    ],
)
def test_bad_input(run: Run, arguments: list[Any], code: int, words: str) -> None:
    done = run("bench", "--batch", 1, "--frames", 5, "--size", 32, *arguments)
    assert done.code == code, (done.out, done.err)
    lines = [line for line in done.err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert words in lines[0]


def test_a_missing_rival_says_how_to_install_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    done = run("bench", *SHORT, "--against", "diffusers:AutoencoderKLWan")
    assert done.code == 4
    assert "pip install 'pvtok[diffusers]'" in done.err
