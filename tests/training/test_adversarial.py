"""The discriminator, its losses, its weight and its regulariser."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, multiprocessing, nn

from pvtok.errors import UsageError
from pvtok.scenes import render_scene
from pvtok.training.adversarial import (
    MAX_ADAPTIVE_WEIGHT,
    LeCam,
    Norm,
    PatchDiscriminator3d,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)

NORMS: tuple[Norm, ...] = ("spectral", "group", "none")


def small_discriminator(norm: Norm = "spectral", levels: int = 3) -> PatchDiscriminator3d:
    torch.manual_seed(0)
    return PatchDiscriminator3d(width=8, levels=levels, norm=norm)


def noise_clips(batch: int, frames: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, size, size, generator=generator) * 2 - 1


@pytest.mark.parametrize(
    ("frames", "size", "shape"),
    [
        (1, 64, (1, 8, 8)),
        (1, 512, (1, 64, 64)),
        (2, 64, (1, 8, 8)),
        (5, 80, (1, 10, 10)),
        (7, 64, (1, 8, 8)),
        (17, 64, (3, 8, 8)),
        (17, 32, (3, 4, 4)),
    ],
)
def test_any_number_of_frames_and_size(frames: int, size: int, shape: tuple[int, int, int]) -> None:
    net = small_discriminator()
    x = noise_clips(2, frames, size).requires_grad_()
    logits = net(x)
    assert logits.shape == (2, 1, *shape)
    logits.square().sum().backward()
    assert x.grad is not None
    assert x.grad.flatten(3).any(3).all()  # every frame is looked at
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_a_logit_sees_a_patch_of_54_pixels_and_all_frames() -> None:
    x = noise_clips(1, 17, 128).requires_grad_()
    logits = small_discriminator().eval()(x)
    (gradient,) = torch.autograd.grad(logits[0, 0, 0, 8, 8], x)
    seen_THW = gradient[0].any(0)
    assert [int(seen_THW.any(dims).sum()) for dims in ((1, 2), (0, 2), (0, 1))] == [17, 54, 54]


def test_frames_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(UsageError, match="discriminator_levels"):
        small_discriminator()(noise_clips(1, 1, 4))
    with pytest.raises(UsageError, match="batch"):
        PatchDiscriminator3d(norm="batch")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_is_a_clip_that_stands_still(norm: Norm) -> None:
    net = small_discriminator(norm).eval()
    image = noise_clips(2, 1, 32)
    still = net(image.expand(-1, -1, 17, -1, -1))
    torch.testing.assert_close(still, net(image).expand_as(still), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_logits_of_a_clip_do_not_depend_on_the_others(norm: Norm) -> None:
    """So the gradient of a batch is the mean of those of its halves, on whatever processes."""
    x = noise_clips(4, 5, 32)
    gradients = []
    for parts in ([x], x.split(2)):
        net = small_discriminator(norm)
        net.eval()  # power iterations would count forwards
        logits = [net(part) for part in parts]
        (sum(lo.square().mean() for lo in logits) / len(logits)).backward()
        gradients.append((torch.cat(logits), [p.grad for p in net.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_spectral_norm_bounds_every_layer_and_resumes() -> None:
    net = small_discriminator()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(10.0)
    x = noise_clips(1, 1, 32)
    for _ in range(30):
        net(x)
    net.eval()
    convs = [m for m in net.modules() if isinstance(m, nn.Conv3d)]
    assert len(convs) == 5
    for conv in convs:
        slope = torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
        assert float(slope.detach()) == pytest.approx(1.0, rel=0.05)
    resumed = small_discriminator().eval()
    resumed.load_state_dict(net.state_dict())
    assert torch.equal(resumed(x), net(x))


@pytest.mark.parametrize("norm", NORMS)
def test_logits_under_bf16_autocast_are_close(norm: Norm) -> None:
    # Matrix-vector products, so the norm's power iteration, are autocast on CUDA only.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net, again = small_discriminator(norm).to(device), small_discriminator(norm).to(device)
    x = noise_clips(2, 5, 32).to(device)
    with torch.autocast(device, torch.bfloat16):
        low = net(x)
        discriminator_loss(*low.chunk(2)).backward()
    assert low.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    torch.testing.assert_close(low, again(x), atol=0.05, rtol=0.05)
    for held, expected in zip(net.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(held, expected)


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert float(discriminator_loss(real, fake)) == 0.5 * (0.25 + 0.5)
    assert float(discriminator_loss(torch.zeros(3), torch.zeros(3))) == 1.0
    assert float(generator_loss(fake)) == 1.5


def crops(seed: int, count: int = 4) -> Tensor:
    """Clips `[B, 3, 5, 32, 32]` of rendered scenes."""
    clips = []
    for i in range(count):
        frames = np.concatenate(list(render_scene(seed * count + i, 5, 48, 48)))
        x = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
        clips.append(x[:, :, 8:40, 8:40])
    return torch.stack(clips)


def blurred(x_BCTHW: Tensor) -> Tensor:
    padded = F.pad(x_BCTHW, (2, 2, 2, 2, 0, 0), mode="replicate")
    return F.avg_pool3d(padded, (1, 5, 5), stride=1)


@pytest.mark.parametrize("norm", ["spectral", "group"])
def test_it_learns_to_tell_blurred_clips_and_its_gradient_sharpens(norm: Norm) -> None:
    net = small_discriminator(norm, levels=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, betas=(0.5, 0.9))
    training = [crops(seed) for seed in range(6)]
    for step in range(60):
        real = training[step % len(training)]
        loss = discriminator_loss(*net(torch.cat([real, blurred(real)])).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval().requires_grad_(False)
    real = crops(100, count=8)
    fake = blurred(real)
    assert float(discriminator_loss(net(real), net(fake))) < 0.8
    margin = (net(real) - net(fake)).flatten(1).mean(1)
    assert float((margin > 0).float().mean()) >= 7 / 8
    # The model's loss falls on the way from blurred to sharp, from the first bit on.
    y = fake.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(generator_loss(net(y)), y)
    assert float((gradient * (real - fake)).sum()) < 0
    way = [float(generator_loss(net(torch.lerp(fake, real, a)))) for a in (0.0, 0.5, 1.0)]
    assert way == sorted(way, reverse=True)


def test_the_adaptive_weight_makes_both_gradients_equal() -> None:
    torch.manual_seed(0)
    last = nn.Conv3d(4, 3, 3, padding=1)
    y = last(torch.randn(2, 4, 3, 8, 8))
    reconstruction = y.square().mean()
    for scale in (1.0, 1000.0):
        adversarial = scale * (y * torch.linspace(-1, 1, 8)).mean()
        weight = adaptive_weight(reconstruction, adversarial, last.weight)
        assert not weight.requires_grad
        norms = [
            torch.autograd.grad(loss, last.weight, retain_graph=True)[0].norm()
            for loss in (reconstruction, weight * adversarial)
        ]
        torch.testing.assert_close(norms[0], norms[1], rtol=1e-3, atol=0)
    (reconstruction + weight * adversarial).backward()  # the graphs are still there
    assert last.weight.grad is not None


def test_the_adaptive_weight_has_a_ceiling() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert float(adaptive_weight(1e3 * weight.sum(), 0 * weight.sum(), weight)) == (
        MAX_ADAPTIVE_WEIGHT
    )


def test_lecam_holds_logits_to_the_running_means_of_the_other_kind() -> None:
    lecam = LeCam(decay=0.5)
    real, fake = torch.tensor([2.0, 4.0], requires_grad=True), torch.tensor([-1.0, -3.0])
    # Means are 0 before the first step.
    first = lecam(real, fake)
    assert float(first.detach()) == (4 + 16) / 2 + (1 + 9) / 2
    assert (float(lecam.real), float(lecam.fake)) == (1.5, -1.0)
    second = lecam(real, fake)
    assert float(second.detach()) == (9 + 25) / 2 + (2.5**2 + 4.5**2) / 2
    (first + second).backward()
    assert real.grad is not None
    assert real.grad.tolist() == [2.0 + 3.0, 4.0 + 5.0]
    again = LeCam(decay=0.5)
    again.load_state_dict(lecam.state_dict())
    assert torch.equal(again(real, fake), lecam(real, fake))


def test_lecam_lets_the_inseparable_be() -> None:
    lecam = LeCam()
    assert float(lecam(torch.tensor([-1.0]), torch.tensor([1.0]))) == 0.0


def joint_values(part: slice) -> list[Tensor]:
    """Adaptive weight and LeCAM means of `part` of a batch of four."""
    torch.manual_seed(0)
    last = nn.Conv3d(3, 3, 1)
    y = last(noise_clips(4, 1, 8)[part])
    logits = y.mean((1, 2), keepdim=True)
    # A target of its own for each clip, so that gradients of the parts are unlike.
    target = torch.arange(4.0).view(4, 1, 1, 1, 1)[part]
    weight = adaptive_weight((y - target).square().mean(), generator_loss(logits), last.weight)
    lecam = LeCam()
    lecam(logits + target, logits)
    return [weight, lecam.real, lecam.fake]


def process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(joint_values(slice(2 * rank, 2 * rank + 2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_values_of_the_joint_batch(tmp_path: Path) -> None:
    expected = joint_values(slice(0, 4))
    alone = joint_values(slice(0, 2))
    assert not torch.allclose(torch.stack(alone), torch.stack(expected), rtol=0.05)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    multiprocessing.spawn(process, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        values = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(values, expected)
