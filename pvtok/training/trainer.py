"""The training loop: stages of steps, resumable at any of them, on one process or many.

What a step computes is a function of the weights, the seed and the step. So a run that was stopped
goes on as if it had not been, and processes that share a batch do what one would with all of it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from PIL import Image
from torch import Tensor, nn

from pvtok import checkpoint
from pvtok.errors import NonFiniteError, UsageError
from pvtok.groups import whole_groups
from pvtok.model import PVVAE
from pvtok.store.files import writing
from pvtok.tokenizer import Tokenizer
from pvtok.training.adversarial import (
    LeCam,
    PatchDiscriminator3d,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from pvtok.training.config import Stage, TrainConfig
from pvtok.training.data import Batch, BatchShape, TrainingData, to_signed
from pvtok.training.distributed import World, data_parallel, gathered, load_into, shard
from pvtok.training.ema import MovingAverage
from pvtok.training.losses import LossConfig, Terms, reconstruction_terms
from pvtok.training.objective import draw_dropped_groups, predictive_reconstruction
from pvtok.training.optimizer import Optimizer, learning_rate_factor
from pvtok.training.perceptual import PerceptualLoss
from pvtok.training.randomness import torch_generator
from pvtok.training.run_folder import SAMPLES_FOLDER, RunFolder
from pvtok.training.run_log import RunLog
from pvtok.training.start import fit_patch_code, start_fitted
from pvtok.training.validation import Clip, validate, validation_clips

START_BLOCKS = 6000
"""Blocks of two moving groups for each expert that a fitted start looks at; half of them count."""
STATISTICS_CLIPS = 128
"""Training clips that the latents' mean and deviation are taken over."""

APART = ("padding_token",)
"""Parameters that have no gradient in steps that drop nothing."""


@dataclass(frozen=True)
class Progress:
    """Said after every step."""

    step: int
    steps: int
    stage: str
    values: Mapping[str, float]
    """Loss terms of this step, unweighted."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path
    steps: int
    new_steps: int
    seconds: float
    finished: bool
    """False where it was asked to stop."""
    validation: dict[str, Any] | None


class TrainingModule(nn.Module):
    """Predictive reconstruction as a forward pass, which is what parallel wrappers wrap."""

    def __init__(self, model: PVVAE) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x_BCTHW: Tensor, dropped: int, noise_BCthw: Tensor, padding_BCkhw: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return predictive_reconstruction(self.model, x_BCTHW, dropped, noise_BCthw, padding_BCkhw)


class Trainer:
    """A run in a folder.

    Args:
        resume: go on with the run that is in the folder, if there is one.
        say: takes notices, in the first process only.
        progress: called after every step, in the first process only.

    Raises:
        PvtokError: many kinds, before anything is computed: the data, the folder, the start or a
            weights file are not as they must be.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        world: World | None = None,
        *,
        resume: bool = False,
        say: Callable[[str], None] = lambda text: None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.config, self.world = config, world or World()
        self.folder = RunFolder(folder)
        quiet: Callable[[Any], None] = lambda _: None  # noqa: E731
        self._say = say if self.world.first else quiet
        self._progress = progress if self.world.first else quiet
        self._stopping = False
        self._said: set[Path] = set()
        self.data = TrainingData(config.data, config.seed)
        self._clips: list[Clip] | None = None
        self.log: RunLog | None = None
        """In the first process."""
        self.world.in_first(lambda: self.folder.check(config, resume=resume))
        self._build()  # what is missing for it is said before a folder is made
        self.world.in_first(lambda: self.folder.open(config, resume=resume))
        try:
            saved = self.folder.load()
            if saved is None:
                self._start()
            self._wrap()
            if saved is not None:
                self._restore(saved)
            self.world.in_first(lambda: self._open_log(-1 if saved is None else self.step))
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Ask a running `run` to end after this step, in such a way that it can be resumed."""
        self._stopping = True

    def close(self) -> None:
        """Give the folder free; `run` does it at its end."""
        if self.log is not None:
            self.log.close()
        self.folder.close()

    def _open_log(self, step: int) -> None:
        self.log = RunLog(self.folder.path, step, self._say)

    # Making what is trained.

    def _build(self) -> None:
        config, device = self.config, self.world.device
        torch.manual_seed(config.seed)
        self.model = PVVAE(config.model).to(device)
        self.step = self.samples = 0
        self.busy = 0.0
        """Seconds of steps since the last row of the log."""
        self.pending: dict[str, list[float]] = {}
        """Sum and count of every value since the last row of the log."""
        losses = [stage.losses for stage in config.stages]
        self.perceptual = self._perceptual(losses)
        self.discriminator = self._discriminator(losses)

    def _perceptual(self, losses: list[LossConfig]) -> PerceptualLoss | None:
        wanted = {(c.lpips_net, c.lpips_weights, c.lpips_frames) for c in losses if c.lpips}
        if len(wanted) > 1:
            raise UsageError(
                f"stages with different lpips_net, lpips_weights or lpips_frames: {sorted(wanted)}",
                fix="Set them in [losses], for all stages.",
            )
        for net, weights, frames in wanted:
            return PerceptualLoss(net, weights, frames).to(self.world.device)
        return None

    def _discriminator(self, losses: list[LossConfig]) -> Discriminator | None:
        wanted = {
            (c.discriminator_width, c.discriminator_levels, c.discriminator_norm)
            for c in losses
            if c.adversarial
        }
        if len(wanted) > 1:
            raise UsageError(
                f"stages with different discriminators: {sorted(wanted)}",
                fix="Set discriminator_width, _levels and _norm in [losses], for all stages.",
            )
        for width, levels, norm in wanted:
            return Discriminator(PatchDiscriminator3d(width, levels, norm)).to(self.world.device)
        return None

    def _start(self) -> None:
        """Weights to begin with; the first process's are everyone's."""
        start = self.config.start
        if start == "fitted":
            self._say("fitting the start to training clips")
            self.world.in_first(lambda: fitted_start(self.model, self.data, self.config))
        elif start != "random":
            load_start(self.model, start)
        self.world.broadcast(self.model)

    def _wrap(self) -> None:
        """Lay the weights out over the processes, and make what holds on to them."""
        settings = self.config.optimizer
        if settings.gradient_checkpointing:
            self.model.recompute_activations()
        self.module: nn.Module = TrainingModule(self.model)
        if settings.sharding == "fsdp" and self.world.size > 1:
            shard(self.module, self.world)
        self.average = MovingAverage(self.model, settings.ema_decay)
        self.optimizer = Optimizer(self.model, settings)
        if self.discriminator is not None:
            self.world.broadcast(self.discriminator)
            self.discriminator_optimizer = Optimizer(self.discriminator, settings)

    # Checkpoints.

    def _save(self) -> None:
        state: dict[str, Any] = {
            "step": self.step,
            "samples": self.samples,
            "processes": self.world.size,
            "pending": self.pending,
            "busy": self.busy,
            "model": gathered(self.model.state_dict()),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.discriminator is not None:
            state["discriminator"] = gathered(self.discriminator.state_dict())
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        self.world.in_first(lambda: self.folder.save(state, self.config.checkpoints.keep))
        self._saved = time.monotonic()

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.samples = state["step"], state["samples"]
        self.pending, self.busy = state["pending"], state["busy"]
        if state["processes"] != self.world.size:
            self._say(
                f"the run had {state['processes']} processes and goes on with {self.world.size}: "
                "batches are of another size from here on"
            )
        load_into(self.model, state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])

    # Running.

    def run(self) -> Outcome:
        """Train to the end, or until `stop`.

        Raises:
            NonFiniteError: a loss or gradient was NaN or infinite; a checkpoint of the state
                before that step is kept.
        """
        begun, first_step = time.monotonic(), self.step
        self._saved, self._due, self._ending = begun, False, False
        try:
            if self.step == 0:
                self._save()  # what it took to start is not lost
                self._validate()
            end = 0
            for stage in self.config.stages:
                begin, end = end, end + stage.steps
                if self.step < end and not self._ending:
                    self._run_stage(stage, begin, end)
            finished = self.step == self.config.steps and not self._ending
            if finished:
                self._finish()
        finally:
            self.close()
        return Outcome(
            folder=self.folder.path,
            steps=self.step,
            new_steps=self.step - first_step,
            seconds=time.monotonic() - begun,
            finished=finished,
            validation=self.log.last("validation") if self.log is not None else None,
        )

    def _run_stage(self, stage: Stage, begin: int, end: int) -> None:
        decoder_only = stage.train == "decoder"
        if decoder_only and self.step == begin:
            self.average.copy_to_parameters()
        self.model.requires_grad_(True)
        self.model.encoder.requires_grad_(not decoder_only)
        sharded = self.config.optimizer.sharding == "fsdp"
        module = (
            self.module
            if sharded
            else data_parallel(self.module, self.world, [f"model.{name}" for name in APART])
        )
        self._say(f"stage {stage.name}: steps {self.step} to {end}")
        batches = self.data.batches(
            stage.shapes,
            source=stage.source,
            steps=range(self.step, end),
            first_sample=self.samples,
            rank=self.world.rank,
            world=self.world.size,
        )
        started = time.monotonic()
        for batch in batches:
            factor = learning_rate_factor(
                self.step - begin,
                stage.steps,
                self.config.optimizer.warmup_steps,
                self.config.optimizer.final_lr_ratio,
            )
            values = self._step(module, stage, batch, factor)
            self.busy += time.monotonic() - started
            self._after_step(stage, batch, values, factor)
            started = time.monotonic()
            if self._ending:
                break

    def _step(
        self, module: nn.Module, stage: Stage, batch: Batch, factor: float
    ) -> dict[str, float]:
        """One update; the step's values, means over all processes."""
        settings, losses = self.config.optimizer, stage.losses
        x_BCTHW = to_signed(batch.clips_BCTHW.to(self.world.device))
        dropped = self._dropped(stage, x_BCTHW.shape[2])
        noise, padding = self._noise(batch.indices, x_BCTHW.shape, dropped)
        with self._autocast():
            y_BCTHW, kl = module(x_BCTHW, dropped, noise, padding)
        y_BCTHW = y_BCTHW.float()
        terms = reconstruction_terms(y_BCTHW, x_BCTHW, losses)
        terms = terms.plus("kl", kl.float().mean(), losses.kl)
        if losses.lpips:
            assert self.perceptual is not None
            generator = torch_generator(self.config.seed, "lpips", self.step)
            with self._autocast():
                lpips = self.perceptual(y_BCTHW, x_BCTHW, generator)
            terms = terms.plus("lpips", lpips, losses.lpips)
        adversarial = losses.adversarial > 0 and self.step >= losses.adversarial_start
        if adversarial:
            terms = self._plus_adversarial(terms, y_BCTHW, losses)
        terms.total.backward()
        if self.config.optimizer.sharding == "none":
            self.world.average_gradients(
                p for name, p in self.model.named_parameters() if name in APART
            )
        norm = self.optimizer.gradient_norm()
        found = {"loss": terms.total.detach(), **terms.values, "gradient_norm": norm}
        if adversarial:
            found |= self._discriminator_gradients(x_BCTHW, y_BCTHW.detach(), losses)
        values = self._shared(found)
        must_be_finite = ("loss", "gradient_norm", "discriminator", "discriminator_gradient_norm")
        if not all(math.isfinite(values[name]) for name in must_be_finite if name in values):
            self._give_up(stage, values)
        base = stage.lr or settings.lr
        self.optimizer.step(base * factor, norm, settings.clip_norm)
        if adversarial:
            self.discriminator_optimizer.step(
                (settings.discriminator_lr or base) * factor,
                found["discriminator_gradient_norm"],
                settings.clip_norm,
            )
        self.average.update(self.step)
        self.step += 1
        self.samples += len(batch.indices) * self.world.size
        return values | {"k": float(dropped)}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.world.device.type,
            torch.bfloat16,
            enabled=self.config.optimizer.precision == "bf16",
        )

    def _dropped(self, stage: Stage, frames: int) -> int:
        """k of this step, the same on all processes."""
        generator = torch_generator(self.config.seed, "k", self.step)
        k = draw_dropped_groups(whole_groups(frames), stage.max_drop_ratio, generator)
        return k if float(torch.rand((), generator=generator)) < stage.predictive_share else 0

    def _noise(
        self, indices: tuple[int, ...], shape: torch.Size, dropped: int
    ) -> tuple[Tensor, Tensor | None]:
        """Of the posterior, and for Gaussian padding: each sample's own."""
        config = self.model.config
        groups = whole_groups(shape[2])
        height, width = (side // config.spatial_ratio for side in shape[3:])

        size = (1, config.latent_channels, groups - dropped, height, width)

        def generators(name: str) -> Iterator[torch.Generator]:
            return (torch_generator(self.config.seed, name, index) for index in indices)

        noise = torch.cat([torch.randn(size, generator=g) for g in generators("noise")])
        if not dropped or config.padding == "learnable":
            return noise.to(self.world.device), None
        # Drawn on the CPU, where all devices draw the same numbers.
        like = torch.empty(size)
        padding = [self.model.padding_latents(like, dropped, g) for g in generators("padding")]
        return noise.to(self.world.device), torch.cat(padding).to(self.world.device)

    def _plus_adversarial(self, terms: Terms, y_BCTHW: Tensor, losses: LossConfig) -> Terms:
        assert self.discriminator is not None
        # Its own weights learn from its own loss alone.
        self.discriminator.requires_grad_(False)
        with self._autocast():
            adversarial = generator_loss(self.discriminator.patches(y_BCTHW))
        weight: float | Tensor = losses.adversarial
        if losses.adversarial_weighting == "adaptive":
            last_layer = self.model.decoder.conv_out.weight
            weight = losses.adversarial * adaptive_weight(terms.total, adversarial, last_layer)
            terms = terms.plus("adversarial_weight", weight, 0.0)
        return terms.plus("adversarial", adversarial, weight)

    def _discriminator_gradients(
        self, x_BCTHW: Tensor, y_BCTHW: Tensor, losses: LossConfig
    ) -> dict[str, Tensor]:
        discriminator = self.discriminator
        assert discriminator is not None
        discriminator.requires_grad_(True)
        with self._autocast():
            real, fake = discriminator.patches(x_BCTHW), discriminator.patches(y_BCTHW)
        loss = hinge = discriminator_loss(real, fake)
        found = {
            "discriminator": hinge.detach(),
            "real_logits": real.detach().mean(),
            "fake_logits": fake.detach().mean(),
        }
        if losses.lecam:
            penalty = discriminator.lecam(real, fake)
            found["lecam"] = penalty.detach()
            loss = hinge + losses.lecam * penalty
        loss.backward()
        self.world.average_gradients(discriminator.parameters())
        found["discriminator_gradient_norm"] = self.discriminator_optimizer.gradient_norm()
        return found

    def _shared(self, found: dict[str, Tensor]) -> dict[str, float]:
        """Means over the processes, in one exchange; with it they agree on what to do next."""
        due = time.monotonic() - self._saved >= 60 * self.config.checkpoints.minutes
        flags = [float(self._stopping), float(due and self.world.first)]
        # The device has not finished its work here: everything it found comes over at once.
        values = torch.stack([v.detach().double() for v in found.values()])
        values = torch.cat([values, torch.tensor(flags, dtype=torch.float64).to(values.device)])
        *numbers, stopping, due_anywhere = self.world.mean(values).tolist()
        self._ending, self._due = stopping > 0, due_anywhere > 0
        return dict(zip(found, numbers, strict=True))

    def _after_step(
        self, stage: Stage, batch: Batch, values: dict[str, float], factor: float
    ) -> None:
        for name, value in values.items():
            entry = self.pending.setdefault(name, [0.0, 0])
            entry[0] += value
            entry[1] += 1
        self._progress(Progress(self.step, self.config.steps, stage.name, values))
        for path, reason in self.data.failures:
            if path not in self._said:
                self._said.add(path)
                self._say(f"skipped {path}: {reason}")
        last = self.step == self.config.steps
        if self.step % self.config.log_every == 0 or last:
            self._log_row(stage, batch, (stage.lr or self.config.optimizer.lr) * factor)
        every = self.config.validation.every
        if every and self.step % every == 0 and not last:
            self._validate()
        steps = self.config.checkpoints.steps
        due = self._due or bool(steps and self.step % steps == 0)
        if due or last or self._ending:
            self._save()

    def _log_row(self, stage: Stage, batch: Batch, lr: float) -> None:
        means = {name: total / count for name, (total, count) in self.pending.items()}
        steps = self.pending["loss"][1]
        B, _, T, H, _ = batch.clips_BCTHW.shape
        if self.log is not None:
            self.log.add(
                "train",
                self.step,
                {
                    "stage": stage.name,
                    "lr": lr,
                    **means,
                    "shape": [T, H, B * self.world.size],
                    "samples": self.samples,
                    "steps_per_second": steps / self.busy,
                },
            )
        self.pending, self.busy = {}, 0.0

    def _give_up(self, stage: Stage, values: dict[str, float]) -> NoReturn:
        """End the run in the state before this step's update."""
        self.optimizer.zero_grad()
        self._save()
        model = self._averaged()
        self.world.in_first(lambda: self._export(model))
        terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.world.fail(
            NonFiniteError(
                f"step {self.step} of stage {stage.name!r} is not finite",
                why=terms,
                fix="The weights before it are kept. Begin from them with start = "
                f"'{self.folder.model}' in another folder, with a lower optimizer.lr, a lower "
                "weight of the term that failed, or optimizer.precision = 'fp32'.",
            )
        )

    # Looking at the model and giving it away.

    def _averaged(self) -> PVVAE | None:
        """The averaged model on the device, in the first process. All processes must call it."""
        weights = gathered(dict(self.model.named_buffers())) | self.average.state_dict()
        if not self.world.first:
            return None
        model = PVVAE(self.config.model)
        load_into(model, weights)
        return model.to(self.world.device).prepare_inference()

    def _export(self, model: PVVAE | None) -> None:
        assert model is not None
        checkpoint.save(model, self.folder.model, dtype=torch.float16, overwrite=True)

    def _validate(self) -> None:
        """Write the averaged model and validate it, unless that was done at this step before."""
        if self.config.validation.every:
            model = self._averaged()
            self.world.in_first(lambda: self._validate_model(model))

    def _validate_model(self, model: PVVAE | None) -> None:
        wanted = self.config.validation
        assert self.log is not None
        assert model is not None
        if self.log.has("validation", self.step):
            return
        self._export(model)
        if self._clips is None:
            self._clips, notices = validation_clips(self.config, self.data.held_out)
            for notice in notices:
                self._say(notice)
            if not self._clips:
                self._say("no validation: no clips are held out (data.hold_out, validation.clips)")
        if not self._clips:
            return
        begun = time.monotonic()
        tok = Tokenizer(
            model, name=self.config.name, sha256="", device=self.world.device, dtype=torch.float32
        )
        found = validate(
            tok,
            self._clips,
            context=wanted.context,
            horizon=wanted.horizon,
            samples=wanted.samples,
        )
        row = found.row() | {"seconds": round(time.monotonic() - begun, 2)}
        self.log.add("validation", self.step, row)
        text = f"step {self.step}: PSNR {found.psnr:.2f} dB"
        if found.predicted_clips:
            text += (
                f", prediction {row['prediction_psnr']:.2f} dB (last frame"
                f" {row['copy_last_psnr']:.2f} dB, wins {found.wins}/{found.predicted_clips})"
            )
        self._say(text)
        if found.sheet is not None:
            path = self.folder.path / SAMPLES_FOLDER / f"step-{self.step:09d}.png"
            with writing(path):
                Image.fromarray(found.sheet).save(path)
            self.log.picture("samples", self.step, found.sheet)

    def _finish(self) -> None:
        """Validate once more and write the model with its latents' statistics."""
        self._validate()
        model = self._averaged()
        self.world.in_first(lambda: self._finish_model(model))

    def _finish_model(self, model: PVVAE | None) -> None:
        assert self.log is not None
        assert model is not None
        if self.log.has("end", self.step):
            self._say("the run was complete already")
            return
        mean, std = latent_statistics(model, self._statistics_clips())
        model.config = dataclasses.replace(
            model.config,
            latent_mean=tuple(round(v, 5) for v in mean.tolist()),
            latent_std=tuple(round(v, 5) for v in std.tolist()),
        )
        self._export(model)
        sha256 = checkpoint.inspect(self.folder.model).sha256
        self.log.add("end", self.step, {"samples": self.samples, "sha256": sha256})

    def _statistics_clips(self) -> Iterator[Tensor]:
        for clips in some_clips(self.data, self.config, STATISTICS_CLIPS):
            yield to_signed(clips.to(self.world.device))


class Discriminator(nn.Module):
    """The discriminator and its regulariser, in one checkpoint."""

    def __init__(self, patches: PatchDiscriminator3d) -> None:
        super().__init__()
        self.patches, self.lecam = patches, LeCam()


def some_clips(
    data: TrainingData, config: TrainConfig, count: int, frames: int | None = None
) -> Iterator[Tensor]:
    """The first `count` training clips, in the longest shape of the last stage or of videos with so
    many frames, in batches `[B, 3, T, S, S]`, uint8."""
    stage = config.stages[-1]
    largest = max(stage.shapes, key=lambda shape: (shape.frames, shape.size))
    shape = BatchShape(frames or largest.frames, largest.size, min(largest.batch, count))
    steps = range(-(-count // shape.batch))
    source = "videos" if frames else stage.source
    for found in data.batches([shape], source=source, steps=steps, first_sample=0):
        yield found.clips_BCTHW


def fitted_start(model: PVVAE, data: TrainingData, config: TrainConfig) -> None:
    """Fit the model's patch code to training clips."""
    size = max(shape.size for shape in config.stages[-1].shapes)
    blocks = (size // model.config.spatial_ratio) ** 2
    count = -(-START_BLOCKS * model.config.patch_experts // blocks)
    clips = (clip for batch in some_clips(data, config, count, frames=9) for clip in batch)
    start_fitted(model, fit_patch_code(clips, model.config, seed=config.seed))


def load_start(model: PVVAE, start: str) -> None:
    """Copy the weights of a checkpoint.

    Raises:
        UsageError: it is of another architecture; the differing keys are named.
    """
    other, found = checkpoint.load(start)
    ours, theirs = model.config.to_dict(), found.config.to_dict()
    free = {"name", "training_frames", "latent_mean", "latent_std", "padding"}
    differing = sorted(k for k in ours if k not in free and ours[k] != theirs[k])
    if differing:
        raise UsageError(
            f"start = {start!r} is another model",
            why=f"{', '.join(f'model.{k}' for k in differing)} differ",
            fix="Leave out [model] to take the checkpoint's.",
        )
    # Learned padding is the one thing a checkpoint may lack, or have too much.
    load_into(model, model.state_dict() | other.state_dict())


@torch.inference_mode()
def latent_statistics(model: PVVAE, clips: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel of the posterior mean, `[C]`, in fp64."""
    total = square = torch.zeros(model.config.latent_channels, dtype=torch.float64)
    count = 0
    for x_BCTHW in clips:
        posterior, _ = model.encode_step(x_BCTHW)
        z_CN = posterior.mean.double().cpu().transpose(0, 1).flatten(1)
        total, square = total + z_CN.sum(1), square + z_CN.square().sum(1)
        count += z_CN.shape[1]
    mean = total / count
    return mean, (square / count - mean.square()).clamp(min=0).sqrt()
