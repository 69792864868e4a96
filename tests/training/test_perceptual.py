"""LPIPS: its numbers, its gradients and the files it needs.

Backbones here hold generated weights under a name without a hash; the published ones are not at
hand. That they would give LPIPS follows from equality with torchmetrics on the same weights.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pvtok.checkpoint import file_sha256
from pvtok.errors import (
    CheckpointError,
    CorruptCheckpointError,
    MissingDependencyError,
    UsageError,
)
from pvtok.training.perceptual import BACKBONES, Net, PerceptualLoss, backbone_file

Weights = dict[str, Tensor]


def generated_weights(net: Net) -> Weights:
    generator = torch.Generator().manual_seed(0)
    layers = BACKBONES[net].build()
    weights = {}
    for name, like in layers.state_dict().items():
        spread = (2 / like[0].numel()) ** 0.5 if like.ndim > 1 else 0.1
        weights[f"features.{name}"] = torch.randn(like.shape, generator=generator) * spread
    return weights


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alex.pth"
    torch.save(generated_weights("alex"), path)
    return path


@pytest.fixture(scope="module")
def loss(alex: Path) -> PerceptualLoss:
    return PerceptualLoss("alex", alex)


def clips(frames: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, frames, 48, 64, generator=generator) * 2 - 1
    return x + 0.2 * torch.randn(x.shape, generator=generator), x


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_it_is_the_distance_torchmetrics_computes(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    torch.save(generated_weights(net), tmp_path / "backbone.pth")
    ours = PerceptualLoss(net, tmp_path / "backbone.pth")
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda *_, **__: ours.backbone)
    theirs = lpips._LPIPS(net=net, pnet_rand=True)
    y, x = clips()
    y.requires_grad_()
    expected = theirs(y.transpose(1, 2).flatten(0, 1), x.transpose(1, 2).flatten(0, 1)).mean()
    value = ours(y, x)
    assert float(value.detach()) > 0.01
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(v, y)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-7)


def test_backbones_have_torchvisions_layer_numbers() -> None:
    numbers = {"vgg": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], "alex": [0, 3, 6, 8, 10]}
    for net, backbone in BACKBONES.items():
        names = [name for name in backbone.build().state_dict() if name.endswith(".weight")]
        assert names == [f"{number}.weight" for number in numbers[net]]


def test_identical_clips_are_at_distance_zero_with_a_finite_gradient(loss: PerceptualLoss) -> None:
    x = clips()[1]
    x[:, :, 0] = -1.0  # black: features may all be zero
    y = x.clone().requires_grad_()
    value = loss(y, x)
    value.backward()
    assert float(value.detach()) == 0.0
    assert y.grad is not None
    assert not y.grad.any()


def test_gradients_reach_the_reconstruction_only(loss: PerceptualLoss) -> None:
    y, x = (clip.requires_grad_() for clip in clips())
    loss(y, x).backward()
    assert y.grad is not None
    assert y.grad.flatten(2).any(2).all()
    assert x.grad is None
    assert not any(p.requires_grad or p.grad is not None for p in loss.parameters())


def test_a_step_along_the_gradient_lowers_it(loss: PerceptualLoss) -> None:
    y, x = clips()
    y.requires_grad_()
    before = loss(y, x)
    (gradient,) = torch.autograd.grad(before, y)
    after = loss(y.detach() - 0.02 * gradient / gradient.abs().max(), x)
    assert float(after) < 0.99 * float(before.detach())


def test_frames_are_drawn_by_the_generator(alex: Path) -> None:
    few, each = PerceptualLoss("alex", alex, frames=2), PerceptualLoss("alex", alex, frames=0)
    y, x = clips(frames=5)
    singles = torch.stack([each(y[:, :, [t]], x[:, :, [t]]) for t in range(5)])
    torch.testing.assert_close(each(y, x), singles.mean())
    seen = set()
    for seed in range(8):
        drawn = torch.randperm(5, generator=torch.Generator().manual_seed(seed))[:2]
        value = few(y, x, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(value, singles[drawn].mean())
        seen |= set(drawn.tolist())
    assert seen == set(range(5))
    torch.testing.assert_close(few(y[:, :, :1], x[:, :, :1]), singles[0])


def test_bf16_autocast_costs_no_precision_but_that_of_its_input(loss: PerceptualLoss) -> None:
    y, x = clips()
    with torch.autocast("cpu", torch.bfloat16):
        value, rounded = loss(y, x), loss(y.bfloat16(), x)
    assert torch.equal(value, loss(y, x))
    assert rounded.dtype == torch.float32
    assert float(rounded) == pytest.approx(float(value), rel=0.02)


def test_missing_weights_say_what_where_and_how_to_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    expected = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    assert backbone_file("vgg") == expected
    with pytest.raises(MissingDependencyError) as caught:
        PerceptualLoss("vgg")
    for part in (str(expected), "https://download.pytorch.org/models/vgg16", "lpips = 0"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(MissingDependencyError, match="nowhere"):
        PerceptualLoss("vgg", tmp_path / "nowhere.pth")


def test_a_missing_package_is_said(alex: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pvtok\[lpips\]"):
        PerceptualLoss("alex", alex)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(UsageError, match="squeeze"):
        PerceptualLoss("squeeze")  # type: ignore[arg-type]


def test_whole_networks_half_precision_and_safetensors_are_read(
    loss: PerceptualLoss, tmp_path: Path
) -> None:
    weights = generated_weights("alex") | {"classifier.1.weight": torch.zeros(2, 2)}
    save_file({k: v.half() for k, v in weights.items()}, tmp_path / "alex.safetensors")
    y, x = clips()
    again = PerceptualLoss("alex", tmp_path / "alex.safetensors")
    assert all(p.dtype == torch.float32 for p in again.parameters())
    torch.testing.assert_close(again(y, x), loss(y, x), rtol=1e-3, atol=0)


def test_a_hash_in_the_name_is_held_against_the_file(alex: Path, tmp_path: Path) -> None:
    right = tmp_path / f"alexnet-owt-{file_sha256(alex)[:8]}.pth"
    right.write_bytes(alex.read_bytes())
    PerceptualLoss("alex", right)
    wrong = tmp_path / BACKBONES["alex"].file
    wrong.write_bytes(alex.read_bytes())
    with pytest.raises(CorruptCheckpointError, match="7be5be79"):
        PerceptualLoss("alex", wrong)


def renamed(weights: Weights) -> Weights:
    return {k.replace("features.8.", "features.9."): v for k, v in weights.items()}


def reshaped(weights: Weights) -> Weights:
    return weights | {"features.0.weight": torch.zeros(64, 3, 3, 3)}


def headless(weights: Weights) -> Weights:
    return {k: v for k, v in weights.items() if not k.startswith("features.10")}


@pytest.mark.parametrize("change", [renamed, reshaped, headless])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_network_is_refused(change: object, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"other{suffix}"
    weights = change(generated_weights("alex"))  # type: ignore[operator]
    if suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"another network than alex.*features\.\d+"):
        PerceptualLoss("alex", path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "noise", "empty"])
def test_a_damaged_file_is_refused(damage: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    weights = {"features.0.weight": torch.zeros(64, 3, 11, 11)}
    if suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    whole = path.read_bytes()
    noise = torch.randint(0, 256, (5000,), generator=torch.Generator().manual_seed(0))
    contents = {"truncated": whole[: len(whole) // 2], "noise": bytes(noise.tolist()), "empty": b""}
    path.write_bytes(contents[damage])
    with pytest.raises(CorruptCheckpointError, match="damaged") as caught:
        PerceptualLoss("alex", path)
    assert "\n" not in str(caught.value)


def test_a_pickle_of_something_else_is_not_run(tmp_path: Path) -> None:
    torch.save(Path("x"), tmp_path / "code.pth")
    with pytest.raises(CorruptCheckpointError):
        PerceptualLoss("alex", tmp_path / "code.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="by name"):
        PerceptualLoss("alex", tmp_path / "list.pth")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = generated_weights("alex")
    weights["features.3.bias"][5] = torch.nan
    torch.save(weights, tmp_path / "nan.pth")
    with pytest.raises(CorruptCheckpointError, match=r"features\.3\.bias"):
        PerceptualLoss("alex", tmp_path / "nan.pth")
