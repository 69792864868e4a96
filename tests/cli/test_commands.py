"""The contract of each command: results, JSON keys, files, exit codes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import pvtok
from pvtok.video import probe, read_frames
from tests.cli.conftest import Run

ENCODE_KEYS = {
    "output",
    "frames",
    "latent_shape",
    "width",
    "height",
    "fps",
    "seconds",
    "frames_per_second",
    "model",
}


def test_the_main_job(run: Run, scene: Path) -> None:
    """encode, info, verify, predict as the owner wrote it, decode, eval: in one folder."""
    encoded = run("encode", scene, "-o", "latents.zarr", "--json")
    assert encoded.code == 0
    assert encoded.json.keys() >= ENCODE_KEYS
    assert encoded.json["frames"] == 22
    assert encoded.json["latent_shape"] == [7, 64, 4, 5]
    assert (encoded.json["width"], encoded.json["height"]) == (70, 50)
    assert encoded.json["model"] == "tiny"

    info = run("info", "latents.zarr", "--json").json
    assert info["kind"] == "video"
    assert info["complete"] is True
    assert (info["frames"], info["width"], info["height"]) == (22, 70, 50)
    assert info["latent_shape"] == [7, 64, 4, 5]
    assert info["dtype"] == "float16"

    verified = run("verify", "latents.zarr", "--json")
    assert verified.code == 0
    assert verified.json["ok"] is True

    predicted = run("predict", "--context", "8", "--json")
    assert predicted.code == 0
    assert predicted.json["output"] == "predicted.mp4"
    assert predicted.json["context_frames"] == 9  # whole groups
    assert "rounded up" in predicted.err
    assert predicted.json["predicted_frames"] == 8
    assert probe("predicted.mp4").frames == 17

    decoded = run("decode", "latents.zarr", "-o", "out.mp4", "--json")
    assert decoded.code == 0
    assert decoded.json["frames"] == 22
    original, copy = probe(scene), probe("out.mp4")
    assert (copy.width, copy.height, copy.fps) == (70, 50, original.fps)
    assert len(read_frames("out.mp4")) == len(read_frames(scene)) == 22

    scores = run("eval", scene, "latents.zarr", "--json").json
    assert scores["frames"] == 22
    assert scores["psnr"] > 20
    assert 0 < scores["ssim"] <= 1
    assert scores["ms_ssim"] is None
    assert "176" in scores["ms_ssim_reason"]
    for missing in ("lpips", "rfvd"):
        assert scores[missing] is None
        assert scores[f"{missing}_reason"]
    assert "posterior" not in scores["protocol"]
    assert "PSNR" in scores["protocol"]


def test_eval_without_a_reconstruction_agrees_with_the_store(
    run: Run, scene: Path, made_store: Path
) -> None:
    direct = run("eval", scene, "--no-vmaf", "--json").json
    stored = run("eval", scene, made_store, "--no-vmaf", "--json").json
    assert direct["psnr"] == pytest.approx(stored["psnr"], abs=0.02)  # float16 in between
    same = run("eval", scene, scene, "--json").json
    assert same["psnr"] == 100.0
    assert same["equal_frames"] == 22
    assert same["vmaf"] > 90


def test_python_reads_what_the_command_line_wrote(made_store: Path, scene: Path) -> None:
    store = pvtok.open_store(made_store)
    tok = pvtok.Tokenizer.load("tiny", device="cpu")
    z = tok.encode(read_frames(scene))
    np.testing.assert_allclose(store.read(), z, atol=2e-2)
    normal = store.read(0, 3, normalized=True)
    assert store.mean is not None
    assert store.std is not None
    expected = (store.read(0, 3).astype(np.float32) - store.mean[:, None, None]) / store.std[
        :, None, None
    ]
    np.testing.assert_allclose(normal, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(store.zarr_group()["latents"][2:5], store.latents[2:5])


@pytest.mark.parametrize("window", ["0:5", "7:13", "-3:", ":1", "20:22"])
def test_a_window_equals_the_same_frames_of_the_whole(
    run: Run, made_store: Path, window: str
) -> None:
    assert run("decode", made_store, "-o", "whole").code == 0
    assert run("decode", made_store, "-o", "part", "--frames", window).code == 0
    a, b = (int(n) if n else None for n in window.split(":"))
    whole, part = read_frames("whole").astype(int), read_frames("part").astype(int)
    assert len(part) == len(whole[a:b])
    assert np.abs(part - whole[a:b]).max() <= 1


@pytest.mark.parametrize("name", ["out.gif", "out.webm", "out.mkv", "frames"])
def test_decode_formats(run: Run, made_store: Path, name: str) -> None:
    done = run("decode", made_store, "-o", name, "--frames", "0:6", "--json")
    assert done.code == 0
    assert read_frames(name).shape == (6, 50, 70, 3)


def test_reading_options(run: Run, scene: Path) -> None:
    done = run(
        "encode", scene, "-o", "small.zarr", "--size", "32", "--crop", "--max-frames", "9", "--json"
    )
    assert done.json["latent_shape"] == [3, 64, 2, 2]
    assert (done.json["width"], done.json["height"], done.json["frames"]) == (32, 32, 9)


def test_tail_policies(run: Run, scene: Path) -> None:
    assert run("encode", scene, "-o", "a.zarr", "--tail", "drop", "--json").json["frames"] == 21
    refused = run("encode", scene, "-o", "b.zarr", "--tail", "error")
    assert refused.code == 1
    assert "22 frames" in refused.err
    assert not Path("b.zarr").exists()


def test_dry_run_writes_nothing(run: Run, scene: Path, made_store: Path, tmp_path: Path) -> None:
    plan = run("encode", scene, "-o", "a.zarr", "--dry-run", "--json").json
    assert plan["latent_shape"] == [7, 64, 4, 5]
    assert plan["bytes"] == 7 * 64 * 4 * 5 * 2
    assert plan["memory_bytes"] > 0
    assert run("decode", made_store, "-o", "a.mp4", "--dry-run").code == 0
    assert run("predict", made_store, "--dry-run").code == 0
    assert list(tmp_path.iterdir()) == []


def test_predicting_beyond_the_end_has_no_truth(run: Run, scene: Path) -> None:
    done = run("predict", scene, "--context", "5", "--at", "end", "--frames", "3", "--json").json
    assert done["psnr"] is None
    assert done["psnr_copy_last"] is None
    assert done["predicted_frames"] == 3
    frames = read_frames("predicted.mp4")
    assert len(frames) == 8


def test_predicted_frames_stand_in_a_border(run: Run, scene: Path) -> None:
    assert run("predict", scene, "--context", "5", "--frames", "4", "-o", "out").code == 0
    corner = read_frames("out")[:, 0, 0].astype(int)
    orange = np.array([255, 140, 0])
    assert (np.abs(corner[5:] - orange).sum(1) == 0).all()
    assert (np.abs(corner[:5] - orange).sum(1) > 100).all()


def test_prediction_scores_are_those_of_the_frames(run: Run, scene: Path) -> None:
    done = run("predict", scene, "--context", "9", "--frames", "8", "--json").json
    assert len(done["psnr_per_frame"]) == len(done["psnr_copy_last_per_frame"]) == 8
    assert done["psnr"] == pytest.approx(np.mean(done["psnr_per_frame"]))
    source = read_frames(scene).astype(float)
    mse = np.square(source[9:17] - source[8]).mean((1, 2, 3))
    expected = 10 * np.log10(255**2 / mse)
    assert done["psnr_copy_last_per_frame"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert done["truth"] == "video"


def test_a_store_predicts_what_its_video_predicts(run: Run, scene: Path, made_store: Path) -> None:
    """From the same whole groups; float16 latents in between."""
    a = run("predict", scene, "--context", "9", "--no-detail", "-o", "a", "--json").json
    b = run("predict", made_store, "--context", "9", "-o", "b", "--json").json
    assert (a["truth"], b["truth"]) == ("video", "reconstruction")
    difference = read_frames("a")[9:].astype(int) - read_frames("b")[9:].astype(int)
    assert np.abs(difference).mean() < 1.0


@pytest.mark.parametrize(
    ("context", "at", "shown", "truth"),
    [
        (1, "0", 1, 8),
        (8, "0", 9, 8),
        (4, "1", 4, 8),
        (5, "7", 8, 8),
        (3, "18", 4, 1),
        (5, "end", 5, 0),
    ],
)
def test_context_of_a_store_is_rounded_up_to_groups(
    run: Run, made_store: Path, context: int, at: str, shown: int, truth: int
) -> None:
    """Groups of the 22 frames: 0, 1-4, 5-8, 9-12, 13-16, 17-20, 21 and its filling."""
    done = run(
        "predict",
        made_store,
        "--context",
        context,
        "--at",
        at,
        "--frames",
        "8",
        "-o",
        "p",
        "--json",
    )
    assert done.code == 0
    assert done.json["context_frames"] == shown
    assert done.json["predicted_frames"] == 8
    assert done.json["truth_frames"] == truth
    assert run("decode", made_store, "-o", "all").code == 0
    start = {"0": 0, "1": 1, "7": 5, "18": 17, "end": 17}[at]
    frames, whole = read_frames("p").astype(int), read_frames("all").astype(int)
    shown_frames = whole[start : start + shown]
    assert np.abs(frames[: len(shown_frames)] - shown_frames).max() <= 1


def test_models_and_info_of_a_checkpoint(run: Run) -> None:
    rows = run("models", "--json").json["models"]
    assert [r["name"] for r in rows] == ["tiny"]
    assert rows[0]["parameters"] <= 12e6
    assert rows[0]["bytes"] <= 25e6
    assert run("models", "tiny", "--json").json["latent"] == "t4s16c64"
    assert run("info", rows[0]["folder"], "--json").json["kind"] == "model"


def test_info_of_a_video(run: Run, scene: Path) -> None:
    info = run("info", scene, "--json").json
    assert (info["kind"], info["width"], info["height"], info["frames"]) == ("video", 70, 50, 22)
    assert info["fps_ratio"] == [30000, 1001]


def test_doctor(run: Run) -> None:
    done = run("doctor", "--json")
    names = {c["name"]: c["status"] for c in done.json["checks"]}
    assert done.code == 0
    for name in ("ffmpeg", "torch", "operations", "model"):
        assert names[name] == "ok"


def test_a_changed_model_is_refused(run: Run, made_store: Path) -> None:
    from pvtok import checkpoint
    from tests.models import small_model

    checkpoint.save(small_model("patch4"), "other")
    for command in (
        ["decode", made_store, "-o", "out.mp4", "--model", "other"],
        ["predict", made_store, "--model", "other"],
    ):
        done = run(*command)
        assert done.code == 1
        assert "made by model 'tiny'" in done.err
    assert not Path("out.mp4").exists()


def test_a_store_of_an_unknown_model_asks_for_it(run: Run, scene: Path) -> None:
    from pvtok import checkpoint
    from tests.models import small_model

    checkpoint.save(small_model("patch4"), "other")
    assert run("encode", scene, "-o", "a.zarr", "--model", "other").code == 0
    done = run("decode", "a.zarr", "-o", "a.mp4")
    assert done.code == 4
    assert "--model" in done.err
    assert run("decode", "a.zarr", "-o", "a.mp4", "--model", "other").code == 0


def test_a_damaged_store_is_refused_everywhere(run: Run, made_store: Path) -> None:
    shutil.copytree(made_store, "bad.zarr")
    chunk = max(Path("bad.zarr").rglob("*"), key=lambda p: p.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[100] ^= 4
    chunk.write_bytes(data)
    verified = run("verify", "bad.zarr", "--json")
    assert verified.code == 5
    assert verified.json["ok"] is False
    assert verified.json["faults"]
    for command in (
        ["decode", "bad.zarr", "-o", "out.mp4"],
        ["predict", "bad.zarr", "-o", "out.mp4"],
    ):
        done = run(*command)
        assert done.code == 5
        assert len(done.err.strip().splitlines()[-1]) > 0
        assert not Path("out.mp4").exists()


def test_every_help_has_an_example(run: Run) -> None:
    for command in ("encode", "decode", "predict", "eval", "info", "verify", "doctor", "models"):
        done = run(command, "--help")
        assert done.code == 0
        assert f"pvtok {command}" in done.out
        assert "--json" in done.out
