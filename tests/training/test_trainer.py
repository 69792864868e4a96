"""The loop: what it changes and what it leaves alone, resuming, learning, failing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pvtok import Tokenizer, checkpoint
from pvtok.configs import ModelConfig
from pvtok.errors import NonFiniteError, OutputExistsError, StoreError, UsageError
from pvtok.model import PVVAE
from pvtok.training import trainer as module
from pvtok.training.data import Batch, BatchShape, TrainingData, render_clip, to_signed
from pvtok.training.randomness import numpy_generator
from pvtok.training.run_folder import RunFolder
from pvtok.training.start import PatchFit, start_fitted
from pvtok.training.trainer import Progress, Trainer
from tests.models import SMALL, small_model
from tests.training.runs import config, equal, one_stage, rows, saved, weights


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STATISTICS_CLIPS", 4)
        patch.setattr(module, "START_BLOCKS", 20)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run, undisturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert Trainer(config(), folder).run().finished
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is a linear code: the lowest frequencies of a block, which need no fitting."""
    t, y, x = (torch.arange(n) / n + 0.5 / n for n in (4, 16, 16))
    waves = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (0, 0, 2), (0, 2, 0), (0, 1, 2)]
    blocks = [
        torch.einsum("c,t,y,x->ctyx", colour, *(torch.cos(torch.pi * f * a) for f, a in axes))
        for axes in ([(f, t), (g, y), (h, x)] for f, g, h in waves)
        for colour in torch.eye(3)
    ]
    net = PVVAE(SMALL["patch4"])
    fit = PatchFit(
        mean=torch.zeros(3072),
        basis=torch.stack([b.flatten() / b.norm() for b in blocks], dim=1),
        experts=torch.eye(24)[:, :6].expand(4, 24, 6),
        scale=torch.full((6,), 10.0),
        repeat=torch.eye(25)[:, :24],
        rows=torch.zeros(2, 25, 24),
    )
    start_fitted(net, fit)
    folder = tmp_path_factory.mktemp("start") / "model"
    checkpoint.save(net, folder)
    return folder


def test_a_run_leaves_a_model_a_log_and_checkpoints(tmp_path: Path) -> None:
    said: list[str] = []
    steps: list[Progress] = []
    run = Trainer(config(), tmp_path / "run", say=said.append, progress=steps.append)
    done = run.run()
    assert done.finished
    assert done.steps == done.new_steps == 9
    assert [s.step for s in steps] == list(range(1, 10))
    assert {s.stage for s in steps} == {"video", "decoder"}
    log = rows(tmp_path / "run")
    assert [r["step"] for r in log if r["kind"] == "train"] == [2, 4, 6, 8, 9]
    assert [r["step"] for r in log if r["kind"] == "validation"] == [0, 4, 8, 9]
    last = next(r for r in log if r["step"] == 9)
    assert last["lr"] < 1e-3
    assert {"loss", "mse", "difference", "kl", "gradient_norm", "k", "shape"} <= last.keys()
    assert done.validation is not None
    assert log[-2]["psnr"] == done.validation["psnr"]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    pictures = sorted((tmp_path / "run" / "samples").iterdir())
    assert len(pictures) == 4
    with Image.open(pictures[-1]) as picture:
        assert min(picture.size) > 3 * 32
    tok = Tokenizer.load(tmp_path / "run" / "model", "cpu", "fp32")
    assert tok.config.latent_mean is not None
    assert tok.sha256 == log[-1]["sha256"]
    state = saved(tmp_path / "run")
    assert tok.net.state_dict().keys() == state["model"].keys()
    for name, value in tok.net.state_dict().items():
        # Buffers are constants of the model and have no average.
        kept = state["average"].get(name, state["model"][name])
        assert torch.equal(value, kept.half().float()), name


def test_statistics_normalise_the_latents_of_training_clips(tmp_path: Path) -> None:
    Trainer(config(stages=one_stage()), tmp_path / "run").run()
    net, found = checkpoint.load(tmp_path / "run" / "model")
    batches = TrainingData(config().data, 3).batches(
        [BatchShape(5, 32, 4)], source="videos", steps=range(1), first_sample=0
    )
    with torch.inference_mode():
        z = net.encode_step(to_signed(next(iter(batches)).clips_BCTHW))[0].mean
    mean, std = found.config.latent_mean, found.config.latent_std
    # The weights lost digits in fp16, the statistics are of those before.
    torch.testing.assert_close(z.mean((0, 2, 3, 4)), torch.tensor(mean), atol=5e-3, rtol=5e-2)
    z_std = z.transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close(z_std, torch.tensor(std), atol=5e-3, rtol=5e-2)


@pytest.mark.parametrize("stop_at", [3, 6, 7, 9])
def test_resuming_changes_nothing(tmp_path: Path, whole: Path, stop_at: int) -> None:
    """Stopped inside a row of the log, between stages, while fine-tuning or before the last
    validation, and gone on with: the same log, weights and optimizer, bit for bit."""
    parts = tmp_path / "parts"

    def stop(progress: Progress) -> None:
        # One more step is taken after the request, at which all processes learn of it.
        if progress.step == stop_at - 1:
            run.stop()

    run = Trainer(config(), parts, progress=stop)
    assert not run.run().finished
    assert saved(parts)["step"] == stop_at
    assert Trainer(config(), parts, resume=True).run().new_steps == 9 - stop_at
    assert rows(parts) == rows(whole)
    states = saved(parts), saved(whole)
    for state in states:
        del state["busy"]
    assert equal(*states)
    for file in ("model.safetensors", "config.json"):
        assert (parts / "model" / file).read_bytes() == (whole / "model" / file).read_bytes()


def test_a_complete_run_is_left_as_it_is(tmp_path: Path) -> None:
    Trainer(config(stages=one_stage()), tmp_path / "run").run()
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    again = Trainer(config(stages=one_stage()), tmp_path / "run", resume=True).run()
    assert again.finished
    assert again.new_steps == 0
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before


def test_a_folder_is_one_run_of_one_configuration(tmp_path: Path) -> None:
    Trainer(config(stages=one_stage()), tmp_path / "run").run()
    with pytest.raises(OutputExistsError, match="--resume"):
        Trainer(config(stages=one_stage()), tmp_path / "run")
    with pytest.raises(UsageError, match=r"optimizer\.lr, stages\.video\.steps differ"):
        changed = config(stages=one_stage(steps=5), optimizer={"lr": 2e-3})
        Trainer(changed, tmp_path / "run", resume=True)
    looked_at = config(stages=one_stage(), validation={"every": 1}, checkpoints={"keep": 5})
    open_run = Trainer(looked_at, tmp_path / "run", resume=True)
    with pytest.raises(StoreError, match="in use"):
        RunFolder(tmp_path / "run").open(looked_at, resume=True)
    open_run.run()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UsageError, match="no run"):
        Trainer(looked_at, tmp_path / "other", resume=True)


def test_fine_tuning_the_decoder_leaves_the_encoder_bit_for_bit(tmp_path: Path) -> None:
    """The averaged one too; and it is the averaged one that the decoder is tuned to."""
    run = Trainer(config(), tmp_path / "run")
    at_stage: dict[str, Tensor] = {}

    def watch(progress: Progress) -> None:
        if progress.step == 6:
            at_stage.update({k: v.clone() for k, v in run.average.values.items()})

    run._progress = watch
    run.run()
    for name, value in at_stage.items():
        frozen = name.startswith("encoder.")
        assert torch.equal(value, run.average.values[name]) == (frozen or "padding" in name), name
        if frozen:
            assert torch.equal(value, weights(run)[name])
    assert all(p.grad is None for p in run.model.encoder.parameters())


def test_everything_is_trained_where_something_is_dropped(tmp_path: Path) -> None:
    run = Trainer(config(stages=one_stage(steps=6)), tmp_path / "run")
    before = weights(run)
    run.run()
    still = [name for name, value in weights(run).items() if torch.equal(value, before[name])]
    assert still == []


def test_without_a_share_of_prediction_nothing_is_dropped(tmp_path: Path) -> None:
    stages = one_stage(predictive_share=0.0)
    run = Trainer(config(stages=stages, log_every=1), tmp_path / "run")
    before = weights(run)["padding_token"]
    run.run()
    assert {r["k"] for r in rows(tmp_path / "run") if r["kind"] == "train"} == {0.0}
    assert torch.equal(weights(run)["padding_token"], before)


@pytest.mark.parametrize(("precision", "recompute"), [("fp32", False), ("bf16", True)])
def test_overfitting_one_clip(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Path,
    precision: str,
    recompute: bool,
) -> None:
    """The whole loop learns: in forty steps one clip rises by several dB from a linear code."""
    clip = render_clip(numpy_generator(0, "overfit"), 5, 32)

    def same(*_: Any, steps: range, **__: Any) -> Any:
        return (Batch(clip[None], (0,)) for _ in steps)

    monkeypatch.setattr(TrainingData, "batches", same)
    settings = {
        "lr": 3e-3,
        "precision": precision,
        "gradient_checkpointing": recompute,
        "warmup_steps": 5,
    }
    stages = one_stage(steps=40, max_drop_ratio=0.0)
    run = config(
        start=str(start), optimizer=settings, stages=stages, log_every=1, validation={"every": 0}
    )
    Trainer(run, tmp_path / "run").run()
    mse = [r["mse"] for r in rows(tmp_path / "run") if r["kind"] == "train"]
    gain = 10 * np.log10(mse[0] / np.mean(mse[-3:]))
    assert gain > 4, (gain, mse)


def test_gradient_checkpointing_is_exact(tmp_path: Path) -> None:
    for name, on in (("off", False), ("on", True)):
        run = config(stages=one_stage(), optimizer={"gradient_checkpointing": on})
        Trainer(run, tmp_path / name).run()
    assert equal(saved(tmp_path / "off")["model"], saved(tmp_path / "on")["model"])


def test_a_loss_that_is_not_finite_stops_the_run_before_its_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trainer(config(stages=one_stage()), tmp_path / "run")
    good: dict[str, Tensor] = {}
    original = module.reconstruction_terms

    def fail_at_two(y: Tensor, x: Tensor, losses: Any) -> Any:
        if run.step == 2:
            good.update(weights(run))
            y = y * torch.inf
        return original(y, x, losses)

    monkeypatch.setattr(module, "reconstruction_terms", fail_at_two)
    with pytest.raises(NonFiniteError, match=r"step 2 .*'video'.*mse (inf|nan).*lower optimizer"):
        run.run()
    state = saved(tmp_path / "run")
    assert state["step"] == 2
    assert equal(state["model"], good)
    monkeypatch.undo()
    # What is kept can be gone on from, and begun from.
    assert Trainer(config(stages=one_stage()), tmp_path / "run", resume=True).run().finished
    start = config(stages=one_stage(), start=str(tmp_path / "run" / "model"))
    assert Trainer(start, tmp_path / "next").run().finished


def test_only_whole_bytes_are_clips() -> None:
    x = to_signed(torch.tensor([0, 255], dtype=torch.uint8))
    assert x.tolist() == [-1.0, 1.0]
    with pytest.raises(TypeError, match="float"):
        to_signed(torch.rand(2))


def test_starting_from_a_checkpoint(tmp_path: Path) -> None:
    net = small_model("patch4")
    checkpoint.save(net, tmp_path / "start")
    run = Trainer(config(start=str(tmp_path / "start")), tmp_path / "run")
    assert equal(weights(run), dict(net.state_dict()))
    run.close()
    other = config(start=str(tmp_path / "start"), model={"widths": [16, 16, 16]})
    with pytest.raises(UsageError, match=r"model\.widths"):
        Trainer(other, tmp_path / "other")


def test_the_start_is_fitted_to_training_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def fit(clips: Iterator[Tensor], model: ModelConfig, *, seed: int) -> PatchFit:
        seen.extend(clips)
        assert model.patch_features == SMALL["patch4"].patch_features
        assert seed == 3
        return PatchFit(
            mean=torch.zeros(3072),
            basis=torch.randn(3072, 24),
            experts=torch.randn(4, 24, 6),
            scale=torch.arange(1.0, 7.0),
            repeat=torch.eye(25)[:, :24],
            rows=torch.zeros(2, 25, 24),
        )

    monkeypatch.setattr(module, "fit_patch_code", fit)
    run = Trainer(config(start="fitted"), tmp_path / "run")
    run.close()
    # 20 blocks for each of 4 experts, of which a clip of 32x32 has 4; batches are whole.
    assert [clip.shape for clip in seen] == [(3, 9, 32, 32)] * 20
    assert {clip.dtype for clip in seen} == {torch.uint8}
    patch = run.model.encoder.patch
    assert patch is not None
    assert patch.scale.tolist() == [1, 2, 3, 4, 5, 6]


def test_every_sample_has_its_own_noise(tmp_path: Path) -> None:
    run = Trainer(config(), tmp_path / "run")
    noise, padding = run._noise((4, 5), torch.Size((2, 3, 9, 32, 32)), 1)
    assert noise.shape == (2, 8, 2, 2, 2)
    assert padding is None
    other, _ = run._noise((5,), torch.Size((1, 3, 9, 32, 32)), 1)
    assert torch.equal(noise[1:], other)
    assert not torch.equal(noise[0], noise[1])
    run.close()
    gaussian = Trainer(config(model={"padding": "gaussian"}), tmp_path / "gaussian")
    _, padding = gaussian._noise((4, 5), torch.Size((2, 3, 9, 32, 32)), 1)
    assert padding is not None
    assert padding.shape == (2, 8, 1, 2, 2)
    gaussian.close()


def test_adversarial_training(tmp_path: Path) -> None:
    """The discriminator learns from its step on, resumes, and can be told apart in the log."""
    losses = {
        "adversarial": 0.1,
        "adversarial_start": 2,
        "discriminator_width": 4,
        "discriminator_levels": 2,
        "lecam": 0.01,
    }
    wanted = config(losses=losses, log_every=1)
    Trainer(wanted, tmp_path / "whole").run()

    def stop(progress: Progress) -> None:
        if progress.step == 4:
            run.stop()

    run = Trainer(wanted, tmp_path / "parts", progress=stop)
    assert run.discriminator is not None
    untrained = {k: v.clone() for k, v in run.discriminator.state_dict().items()}
    run.run()
    Trainer(wanted, tmp_path / "parts", resume=True).run()
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    states = saved(tmp_path / "parts"), saved(tmp_path / "whole")
    for state in states:
        del state["busy"]
    assert equal(*states)
    train = [r for r in rows(tmp_path / "whole") if r["kind"] == "train"]
    assert [("discriminator" in r) for r in train] == [False] * 2 + [True] * 7
    assert all(r["adversarial_weight"] > 0 for r in train[2:])
    trained = states[0]["discriminator"]
    assert all(not torch.equal(trained[k], v) for k, v in untrained.items() if "original" in k)


def test_config_file_is_whole(tmp_path: Path) -> None:
    Trainer(config(stages=one_stage()), tmp_path / "run").run()
    document = json.loads((tmp_path / "run" / "config.json").read_text())
    assert document == config(stages=one_stage()).to_dict()
