"""Configurations: what is read, what is refused and by which name, and that nothing is lost."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtok import checkpoint
from pvtok.configs import PRESETS
from pvtok.errors import UsageError
from pvtok.model import PVVAE
from pvtok.training.config import RECIPES, differences, from_dict, load, recipes
from pvtok.training.losses import LossConfig
from tests.models import SMALL
from tests.training.runs import VALUES, config

MINIMAL = """
name = "mine"
[model]
preset = "tiny"
[data]
procedural = 1.0
[losses]
kl = 0.5
[[stages]]
name = "one"
steps = 10
shapes = [{ frames = 9, size = 64, batch = 2 }]
[[stages]]
name = "two"
steps = 20
shapes = [{ frames = 13, size = 64, batch = 2 }, { frames = 1, size = 32, batch = 8 }]
[stages.losses]
mse = 2.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return path


def test_a_file_is_resolved(file: Path) -> None:
    found = load(file)
    assert found.name == "mine"
    assert found.steps == 30
    # A preset's fields, but for the length of clips, which the stages say.
    assert found.model == dataclasses.replace(PRESETS["tiny"], training_frames=13)
    one, two = found.stages
    assert (one.losses.kl, one.losses.mse) == (0.5, 1.0)
    assert (two.losses.kl, two.losses.mse) == (0.5, 2.0)
    assert two.shapes[1].batch == 8
    # The paper's numbers are the defaults.
    assert (found.optimizer.lr, found.optimizer.final_lr_ratio) == (5e-5, 0.1)


def test_nothing_is_lost_on_the_way_to_a_file_and_back(file: Path) -> None:
    for found in (load(file), *(load(name) for name in recipes())):
        document = json.loads(json.dumps(found.to_dict()))
        assert from_dict(document) == found
        # Nothing is left to defaults.
        assert document["losses"].keys() == {f.name for f in dataclasses.fields(LossConfig)}


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.lr=1e-3", "optimizer.lr", 1e-3),
        ("optimizer.lr = 1", "optimizer.lr", 1.0),
        ("model.padding=gaussian", "model.padding", "gaussian"),
        ('model.padding="gaussian"', "model.padding", "gaussian"),
        ("model.widths=[48, 96, 256]", "model.widths", [48, 96, 256]),
        ("stages.two.max_drop_ratio=0.75", "stages.two.max_drop_ratio", 0.75),
        ("stages.one.losses.difference=0", "stages.one.losses.difference", 0.0),
        ("stages.two.train=decoder", "stages.two.train", "decoder"),
        ("losses.difference=0", "stages.two.losses.difference", 0.0),
        ("optimizer.gradient_checkpointing=true", "optimizer.gradient_checkpointing", True),
    ],
)
def test_overrides(file: Path, override: str, key: str, value: object) -> None:
    found, plain = load(file, [override]), load(file)
    assert found.flat()[key] == value
    assert key in differences(found, plain)
    assert differences(found, found) == []


def test_a_path_of_loss_weights_outlives_the_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = load(file, ["losses.lpips_weights=vgg.pth"])
    assert {s.losses.lpips_weights for s in found.stages} == {str(tmp_path / "vgg.pth")}


def test_paths_are_meant_from_the_current_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = load(file, ["data.videos=clips", "validation.clips=['~/a.mp4']", "start=mine/model"])
    assert found.data.videos == (str(tmp_path / "clips"),)
    assert found.validation.clips == (str(Path.home() / "a.mp4"),)
    assert found.start == str(tmp_path / "mine" / "model")
    assert load(file, ["start=tiny"]).start == "tiny"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimiser.lr=1", ["unknown key optimiser", "optimizer"]),
        ("optimizer.learning=1", ["unknown key optimizer.learning"]),
        ("stages.one.max_drop_rate=1", ["stages.one.max_drop_rate", "max_drop_ratio"]),
        ("stages.three.steps=1", ["'three'", "one", "two"]),
        ("optimizer.lr=fast", ["optimizer.lr = 'fast'", "number"]),
        ("optimizer.lr=nan", ["optimizer.lr", "number"]),
        ("optimizer.lr=true", ["optimizer.lr", "number"]),
        ("optimizer.lr=-1", ["optimizer.lr", "above 0"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas", "2 values"]),
        ("optimizer.precision=fp16", ["optimizer.precision", "bf16"]),
        ("stages.one.steps=1.5", ["stages.one.steps", "whole"]),
        ("stages.one.steps=0", ["stages.one.steps", "1 or more"]),
        ("stages.one.max_drop_ratio=1.5", ["stages.one.max_drop_ratio", "[0, 1]"]),
        ("stages.one.shapes=[{frames=8,size=64,batch=1}]", ["stages.one.shapes.0", "frames 8"]),
        ("stages.one.shapes=[]", ["stages.one.shapes", "at least one"]),
        ("stages.two.name=one", ["stages", "different names"]),
        ("model.preset=huge", ["model.preset", "tiny"]),
        ("model.patch_size=3", ["model.patch_size"]),
        ("model.attention=yes", ["model.attention", "true or false"]),
        ("data.procedural=2", ["data.procedural"]),
        ("losses.kl=-1", ["kl"]),
        ("name=a/b", ["name", "folder"]),
        ("seed=-1", ["seed"]),
        ("seed", ["--set 'seed'", "key=value"]),
        ("name.x=1", ["--set", "no keys"]),
        ("validation.every=-1", ["validation.every"]),
        ("checkpoints.keep=0", ["checkpoints.keep"]),
    ],
)
def test_mistakes_are_named(file: Path, override: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load(file, [override])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": None}, "stages is missing"),
        ({"stages": []}, "at least one stage"),
        ({"stages": 3}, "stages = 3"),
        ({"stages": [3]}, r"stages\.0 = 3"),
        ({"stages": [{"name": "a", "steps": 1, "shapes": 3}]}, r"stages\.a\.shapes = 3"),
        ({"data": 3}, "data = 3"),
        ({"model": {}}, "model.name is missing"),
        ({"start": "fitted", "model": VALUES["model"] | {"patch_features": 0}}, "fitted"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], words: str) -> None:
    values = {k: v for k, v in (VALUES | change).items() if v is not None}
    with pytest.raises(UsageError, match=words):
        from_dict(values)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no configuration 'huge'.*paper"):
        load("huge")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(UsageError, match=r"bad\.toml"):
        load(tmp_path / "bad.toml")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UsageError, match="holds no configuration"):
        load(tmp_path / "list.json")


def test_the_model_of_the_checkpoint_to_start_from(file: Path, tmp_path: Path) -> None:
    measured = dataclasses.replace(SMALL["plain"], latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4)
    checkpoint.save(PVVAE(measured), tmp_path / "start")
    file.write_text(MINIMAL.replace('[model]\npreset = "tiny"\n', ""))
    found = load(file, [f"start={tmp_path / 'start'}"])
    assert found.model == dataclasses.replace(SMALL["plain"], training_frames=13)


def test_losses_of_a_resolved_file_can_be_overridden(file: Path, tmp_path: Path) -> None:
    resolved = tmp_path / "resolved.json"
    resolved.write_text(json.dumps(load(file).to_dict()))
    found = load(resolved, ["losses.kl=0.25", "losses.mse=3"])
    assert [stage.losses.kl for stage in found.stages] == [0.25, 0.25]
    assert [stage.losses.mse for stage in found.stages] == [3.0, 2.0]  # the second has its own


def test_watching_is_no_difference() -> None:
    other = config(validation={"every": 7}, checkpoints={"keep": 9}, log_every=9)
    assert differences(config(), other) == []
    assert differences(config(), config(seed=4)) == ["seed"]


def parameters(recipe: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in PVVAE(load(recipe).model).parameters())


def test_the_papers_recipe_has_the_papers_numbers() -> None:
    found = load("paper")
    image, video, decoder = found.stages
    assert [s.steps for s in found.stages] == [300_000, 50_000, 50_000]
    assert {(s.frames, s.size) for s in image.shapes} == {(1, 256), (1, 384), (1, 512)}
    assert {(s.frames, s.size) for s in video.shapes} == {(17, 256), (17, 512)}
    assert [s.max_drop_ratio for s in found.stages] == [0.0, 1.0, 0.0]
    assert [s.train for s in found.stages] == ["all", "all", "decoder"]
    assert [s.source for s in found.stages] == ["images", "videos", "videos"]
    assert (found.optimizer.lr, found.optimizer.final_lr_ratio) == (5e-5, 0.1)
    assert video.losses.mse == video.losses.difference
    assert decoder.losses.adversarial > 0
    assert decoder.losses.adversarial_start == 5000
    assert decoder.losses.lpips > 0
    assert found.model.padding == "learnable"
    assert parameters("paper") == pytest.approx(661e6, rel=0.02)


def test_the_ablation_is_small() -> None:
    assert parameters("ablation") < parameters("tiny") / 6
    assert load("ablation").data.procedural == 1.0


def rows_of_the_ablation() -> dict[str, list[str]]:
    """What the recipe's own comment says to give for each row."""
    found: dict[str, list[str]] = {}
    row = ""
    for line in (RECIPES / "ablation.toml").read_text().splitlines():
        text = line.removeprefix("#").strip()
        before, *options = text.split("--set ")
        if options and line.startswith("#"):
            row = before.strip() or row
            found.setdefault(row, []).extend(option.strip() for option in options)
    return found


def test_every_row_of_the_ablation_can_be_run() -> None:
    rows = rows_of_the_ablation()
    assert len(rows) == 5
    whole = load("ablation")
    for row, overrides in rows.items():
        found = load("ablation", overrides)
        assert differences(found, whole), row
        assert found.steps == whole.steps
    baseline = load("ablation", rows["baseline"])
    assert all(s.max_drop_ratio == s.losses.difference == 0 for s in baseline.stages)


def test_recipes_are_toml() -> None:
    assert set(recipes()) >= {"paper", "tiny", "ablation"}
    for name, path in recipes().items():
        assert tomllib.loads(path.read_text())["name"] == name
