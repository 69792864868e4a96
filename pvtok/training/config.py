"""A training run's configuration: one TOML file, read strictly.

Bundled ones lie in `recipes/` and go by their names. `load` resolves a file and its overrides to a
`TrainConfig`; `to_dict` gives it back whole, with nothing left to defaults, and `from_dict` reads
that.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pvtok import checkpoint
from pvtok.configs import PRESETS, ModelConfig
from pvtok.errors import UsageError
from pvtok.training.data import BatchShape, DataConfig
from pvtok.training.losses import LossConfig

T = TypeVar("T")

RECIPES = Path(__file__).parent / "recipes"
CONFIG_FILE = "config.json"
"""In the folder of a run: its whole configuration."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101). The paper gives `lr`,
    `final_lr_ratio` and the shape of the schedule; the rest is ours."""

    lr: float = 5e-5
    final_lr_ratio: float = 0.1
    """Of `lr`, at which the cosine of every stage ends."""
    warmup_steps: int = 1000
    """Steps over which the rate rises linearly at the beginning of every stage."""
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    """Times the learning rate. Norms and shortcuts leave little to regularise."""
    fan_in_rates: bool = False
    """Scale each weight's rate down by its fan-in, and that of fitted maps to a thousandth, see
    `optimizer.rate_scale`: what a rate far above the paper's needs."""
    discriminator_lr: float | None = None
    """None is `lr`. It follows the same schedule."""
    clip_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    ema_decay: float = 0.999
    """Of the moving average of the weights, which is what is validated and kept as the model."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the forward passes. Weights, losses and optimizer are fp32 in any case."""
    gradient_checkpointing: bool = False
    """Compute activations again on the way back: less memory for about a third more time."""
    sharding: Literal["none", "fsdp"] = "none"
    """With several processes: a whole copy in each, or weights, gradients and optimizer shared out
    among them (FSDP2)."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, "lr", self.lr, "above 0")
        _require(0 <= self.final_lr_ratio <= 1, "final_lr_ratio", self.final_lr_ratio, "in [0, 1]")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        _require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "in [0, 1)")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        rate = self.discriminator_lr
        _require(rate is None or rate > 0, "discriminator_lr", rate, "above 0")
        _require(self.clip_norm > 0, "clip_norm", self.clip_norm, "above 0")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")


@dataclass(frozen=True)
class ValidationConfig:
    """Quality on clips that are not trained on, computed with the averaged weights."""

    every: int = 1000
    """Steps between validations; there is one before the first step and one after the last too.
    0 is none at all."""
    clips: tuple[str, ...] = ()
    """Video files or folders of them; none is the data's held-out files, or scenes that are never
    trained on where the data are procedural."""
    limit: int = 16
    """Clips used at most: the first ones."""
    frames: int = 32
    size: int = 256
    """Side of the centre crop, pixels."""
    context: int = 9
    horizon: int = 8
    samples: int = 2
    """Clips shown in the picture of samples."""

    def __post_init__(self) -> None:
        for name in ("every", "limit", "samples"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("frames", "size", "context", "horizon"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


@dataclass(frozen=True)
class CheckpointConfig:
    """What a run can go on from."""

    minutes: float = 10.0
    """Between checkpoints; there is one at every end and interruption too."""
    steps: int = 0
    """The same in steps; 0 leaves it to the clock."""
    keep: int = 2
    """How many of the newest are kept."""

    def __post_init__(self) -> None:
        _require(self.minutes > 0, "minutes", self.minutes, "above 0")
        _require(self.steps >= 0, "steps", self.steps, "0 or more")
        _require(self.keep >= 1, "keep", self.keep, "1 or more")


@dataclass(frozen=True)
class Stage:
    """One stretch of a run (paper, section "Stages")."""

    name: str
    steps: int
    shapes: tuple[BatchShape, ...]
    """One of these is drawn for each step."""
    max_drop_ratio: float = 0.0
    """r: up to this share of the groups after the first is dropped; 0 is plain reconstruction."""
    predictive_share: float = 1.0
    """Share of steps that draw how many groups to drop; the others drop nothing."""
    train: Literal["all", "decoder"] = "all"
    """"decoder" freezes the encoder. Such a stage starts from the averaged weights, so that the
    frozen encoder is the one that is kept."""
    source: Literal["videos", "images"] = "videos"
    lr: float | None = None
    """Instead of the optimizer's."""
    losses: LossConfig = field(default_factory=LossConfig)
    """In a file: what differs from the run's `[losses]`."""

    def __post_init__(self) -> None:
        _require(self.name.isidentifier(), "name", self.name, "a word of letters and digits")
        _require(self.steps >= 1, "steps", self.steps, "1 or more")
        _require(len(self.shapes) > 0, "shapes", self.shapes, "at least one batch shape")
        for name in ("max_drop_ratio", "predictive_share"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        _require(self.lr is None or self.lr > 0, "lr", self.lr, "above 0")


@dataclass(frozen=True)
class TrainConfig:
    """All of a run."""

    name: str
    stages: tuple[Stage, ...]
    model: ModelConfig
    data: DataConfig
    seed: int = 0
    start: str = "random"
    """"random", "fitted" (a transform code fitted to the data, for models with a patch code), or a
    bundled model's name or a checkpoint folder."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    log_every: int = 50
    """Steps that one row of the log is the mean of."""

    def __post_init__(self) -> None:
        good = self.name and Path(self.name).name == self.name
        _require(bool(good), "name", self.name, "a name for a folder")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "0 or more")
        _require(self.log_every >= 1, "log_every", self.log_every, "1 or more")
        names = [stage.name for stage in self.stages]
        _require(len(names) > 0, "stages", names, "at least one stage")
        _require(len(set(names)) == len(names), "stages", names, "stages of different names")
        if self.start == "fitted" and not self.model.patch_features:
            raise UsageError(
                "start = 'fitted'",
                why=f"model {self.model.name!r} has no patch code",
                fix="Use start = 'random', or a model with patch_features.",
            )

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def flat(self) -> dict[str, Any]:
        """Every key, dotted as in overrides, and its value."""
        return _flat(_json(self))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form. A stage's losses are what differs from the run's, as in a file, so that
        `losses` can be overridden for all stages."""
        document = _json(self)
        for stage in document["stages"]:
            own = stage["losses"].items()
            stage["losses"] = {k: v for k, v in own if v != document["losses"][k]}
        return document


def recipes() -> dict[str, Path]:
    """Name -> file of the bundled configurations."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def load(config: str | os.PathLike[str], overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a configuration.

    Args:
        config: a bundled recipe's name, a `.toml` or `.json` file, or the folder of a run.
        overrides: `key=value` with a dotted key and a TOML value (a bare word is a string). A
            stage goes by its name: `stages.video.max_drop_ratio=0.5`.

    Paths in it are meant from the current folder, and are absolute in the result.

    Raises:
        UsageError: there is no such file, or what it says cannot be used; it names the key.
    """
    values = _read(config)
    for override in overrides:
        _override(values, override)
    found = from_dict(values)
    data = dataclasses.replace(
        found.data,
        videos=_absolute(found.data.videos),
        images=_absolute(found.data.images),
        cache=found.data.cache and str(Path(found.data.cache).absolute()),
    )
    validation = dataclasses.replace(found.validation, clips=_absolute(found.validation.clips))
    start = found.start
    if start not in ("random", "fitted", *checkpoint.bundled_models()):
        start = str(Path(start).absolute())
    stages = tuple(
        dataclasses.replace(
            stage,
            losses=dataclasses.replace(
                stage.losses,
                lpips_weights=stage.losses.lpips_weights
                and str(Path(stage.losses.lpips_weights).expanduser().absolute()),
            ),
        )
        for stage in found.stages
    )
    return dataclasses.replace(found, data=data, validation=validation, start=start, stages=stages)


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """Make a configuration of what a file holds.

    Raises:
        UsageError: a key is unknown or missing, or its value is of another type or out of range.
    """
    values = dict(values)
    losses, stages = values.get("losses", {}), values.get("stages")
    if isinstance(stages, list) and isinstance(losses, dict):
        values["stages"] = [_stage(stage, losses) for stage in stages]
    values["model"] = _model(values, stages if isinstance(stages, list) else [])
    values.setdefault("data", {})
    config: TrainConfig = _dataclass(TrainConfig, values, "")
    return config


def differences(a: TrainConfig, b: TrainConfig) -> list[str]:
    """Dotted keys in which two configurations differ, and that change what is computed.

    How often is looked at or kept, and how many workers read, does not.
    """
    idle = ("validation.", "checkpoints.", "log_every", "data.workers", "data.cache")
    flat_a, flat_b = a.flat(), b.flat()
    return sorted(
        key
        for key in flat_a.keys() | flat_b.keys()
        if flat_a.get(key) != flat_b.get(key) and not key.startswith(idle)
    )


def _json(config: TrainConfig) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return document


def _flat(values: Any, where: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        items = [(f"{where}{key}", value) for key, value in values.items()]
    elif isinstance(values, list) and values and isinstance(values[0], dict):
        items = [(f"{where}{v.get('name', i)}", v) for i, v in enumerate(values)]
    else:
        return {where.rstrip("."): values}
    return {k: v for key, value in items for k, v in _flat(value, f"{key}.").items()}


def _absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(Path(path).expanduser().absolute()) for path in paths)


def _read(config: str | os.PathLike[str]) -> dict[str, Any]:
    path = recipes().get(str(config), Path(config))
    if path.is_dir():
        path = path / CONFIG_FILE
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"no configuration {str(config)!r}",
            why=f"it is none of the recipes ({', '.join(recipes())}), and no file to read",
        ) from error
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read", why=str(error)) from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no configuration")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    key, text = key.strip(), text.strip()
    if not separator or not all(key.split(".")):
        raise UsageError(f"--set {override!r}", fix="Use key=value, such as optimizer.lr=1e-4.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.split(".")
    here: Any = values
    for part in path:
        if isinstance(here, list):
            names = [entry.get("name") if isinstance(entry, dict) else None for entry in here]
            if part not in names:
                raise UsageError(f"--set {override!r}", why=f"no {part!r} among {names}")
            here = here[names.index(part)]
        elif isinstance(here, dict):
            here = here.setdefault(part, {})
    if not isinstance(here, dict):
        raise UsageError(f"--set {override!r}", why="the key leads into a value that has no keys")
    here[last] = value


def _stage(stage: Any, losses: dict[str, Any]) -> Any:
    """A stage's losses are the run's, with its own in their place."""
    if not isinstance(stage, dict) or not isinstance(stage.get("losses", {}), dict):
        return stage
    return stage | {"losses": losses | stage.get("losses", {})}


def _model(values: dict[str, Any], stages: list[Any]) -> Any:
    """Fields of a preset, of the checkpoint to start from, or of neither; the length of clips is
    that of the stages."""
    model, start = values.get("model", {}), values.get("start", "random")
    if not isinstance(model, dict):
        return model
    model = dict(model)
    preset = model.pop("preset", None)
    base: dict[str, Any] = {}
    if preset is not None:
        if preset not in PRESETS:
            raise UsageError(f"model.preset = {preset!r}", fix=f"Use one of {', '.join(PRESETS)}.")
        base = PRESETS[preset].to_dict()
    elif "widths" not in model and start not in ("random", "fitted"):
        base = checkpoint.inspect(str(start)).config.to_dict()
        del base["latent_mean"], base["latent_std"]  # of another model's latents
    frames: list[Any] = [
        shape.get("frames")
        for stage in stages
        if isinstance(stage, dict) and isinstance(stage.get("shapes"), list)
        for shape in stage["shapes"]
        if isinstance(shape, dict)
    ]
    if base and frames and all(isinstance(n, int) for n in frames):
        base["training_frames"] = max(frames)
    return base | model


def _dataclass(kind: type[Any], values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UsageError(f"{where} = {values!r}", why="it must be a table of keys")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            raise UsageError(f"unknown key {prefix}{key}", fix=_nearest(str(key), fields))
    for name, spec in fields.items():
        required = spec.default is spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"{prefix}{name} is missing")
    parsed = {key: _parse(hints[key], value, f"{prefix}{key}") for key, value in values.items()}
    try:
        return kind(**parsed)
    except UsageError as error:
        raise UsageError(f"{prefix}{error.what}", why=error.why, fix=error.fix) from error


def _parse(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind`, or an error that names where it stands."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _parse(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast(type[Any], kind), value, where)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise UsageError(f"{where} = {value!r}", fix=f"Use one of {list(arguments)}.")
    if origin is tuple:
        if isinstance(value, str) and arguments[0] is str:
            value = [value]
        length = None if arguments[-1] is Ellipsis else len(arguments)
        if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
            what = "a list" if length is None else f"a list of {length} values"
            raise UsageError(f"{where} = {value!r}", why=f"it must be {what}")
        kinds = arguments[:1] * len(value) if length is None else arguments
        return tuple(
            _parse(k, v, f"{where}.{_label(v, i)}")
            for i, (k, v) in enumerate(zip(kinds, value, strict=True))
        )
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    fits: dict[Any, Callable[[Any], bool]] = {
        bool: lambda v: isinstance(v, bool),
        int: lambda v: isinstance(v, int) and not isinstance(v, bool),
        float: lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
        str: lambda v: isinstance(v, str),
    }
    if not fits[kind](value) or (kind is float and not math.isfinite(value)):
        raise UsageError(f"{where} = {value!r}", why=f"it must be {names[kind]}")
    return float(value) if kind is float else value


def _label(value: Any, index: int) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else str(index)


def _nearest(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(sorted(known))}."


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise UsageError(f"{name} = {value!r}", why=f"it must be {wanted}")
