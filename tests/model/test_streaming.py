"""Causality and chunk invariance: what makes streaming exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pvtok.groups import group_of
from pvtok.model import PVVAE, State
from pvtok.model.layers import CausalConv3d, RMSNorm
from pvtok.model.resample import Upsample
from tests.models import SMALL, small_model

TOLERANCE = 1e-5  # of the largest value, fp32


@pytest.fixture(params=sorted(SMALL))
def net(request: pytest.FixtureRequest) -> PVVAE:
    return small_model(request.param)


def clip(frames: int, height: int = 32, width: int = 48, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * b.abs().max())


@torch.inference_mode()
def encode(net: PVVAE, x: Tensor, plan: list[int]) -> Tensor:
    state: State | None = None
    parts = []
    for chunk in x.split(plan, dim=2):
        posterior, state = net.encode_step(chunk, state)
        parts.append(torch.cat([posterior.mean, posterior.logvar], dim=1))
    return torch.cat(parts, dim=2)


@torch.inference_mode()
def decode(net: PVVAE, z: Tensor, plan: list[int]) -> Tensor:
    state: State | None = None
    parts = []
    for chunk in z.split(plan, dim=2):
        y, state = net.decode_step(chunk, state)
        parts.append(y)
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize("plan", [[1, 4, 4, 4], [1, 8, 4], [5, 8], [9, 4], [1, 12]])
def test_any_chunk_plan_encodes_alike(net: PVVAE, plan: list[int]) -> None:
    x = clip(13)
    whole = encode(net, x, [13])
    assert whole.shape == (1, 2 * net.config.latent_channels, 4, 2, 3)
    assert close(encode(net, x, plan), whole)


@pytest.mark.parametrize("plan", [[1, 1, 1, 1], [1, 2, 1], [2, 2], [3, 1], [1, 3]])
def test_any_chunk_plan_decodes_alike(net: PVVAE, plan: list[int]) -> None:
    z = torch.randn(1, net.config.latent_channels, 4, 2, 3)
    whole = decode(net, z, [4])
    assert whole.shape == (1, 3, 13, 32, 48)
    assert close(decode(net, z, plan), whole)


@pytest.mark.parametrize("frame", [0, 1, 4, 5, 9, 12])
def test_a_frame_changes_nothing_before_its_group(net: PVVAE, frame: int) -> None:
    x = clip(13)
    other = x.clone()
    other[:, :, frame] += 0.5
    a, b = encode(net, x, [13]), encode(net, other, [13])
    group = group_of(frame)
    assert torch.equal(a[:, :, :group], b[:, :, :group])
    assert not torch.equal(a[:, :, group], b[:, :, group])


@pytest.mark.parametrize("latent", [0, 1, 2, 3])
def test_a_latent_changes_no_frame_before_its_group(net: PVVAE, latent: int) -> None:
    z = torch.randn(1, net.config.latent_channels, 4, 2, 3)
    other = z.clone()
    other[:, :, latent] += 0.5
    a, b = decode(net, z, [4]), decode(net, other, [4])
    first = 4 * latent - 3 if latent else 0
    assert torch.equal(a[:, :, :first], b[:, :, :first])
    for frame in range(first, 4 * latent + 1):
        assert not torch.equal(a[:, :, frame], b[:, :, frame])


def test_an_image_is_a_video_of_one_frame(net: PVVAE) -> None:
    x = clip(9)
    image, video = encode(net, x[:, :, :1], [1]), encode(net, x, [9])
    assert close(image, video[:, :, :1])
    z = video[:, : net.config.latent_channels]
    assert close(decode(net, z[:, :, :1], [1]), decode(net, z, [3])[:, :, :1])


def test_folded_upsampling_is_the_plain_one(net: PVVAE) -> None:
    z = torch.randn(1, net.config.latent_channels, 3, 2, 3)
    folded = decode(net, z, [1, 2])
    ups = [m for m in net.modules() if isinstance(m, Upsample)]
    assert ups
    for up in ups:
        up.plain = True
    plain = decode(net, z, [1, 2])
    assert not torch.equal(folded, plain)  # two paths were taken
    assert close(folded, plain)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_form_for_inference_is_the_plain_one(net: PVVAE, batch: int) -> None:
    """Encoding and decoding, from first and later chunks, with unknown blocks among the known."""
    x = torch.cat([clip(13, seed=i) for i in range(batch)])
    last = x.contiguous(memory_format=torch.channels_last_3d)
    fast = encode(net, last, [5, 8])
    mean = fast[:, : net.config.latent_channels]
    z = torch.cat([mean, net.padding_latents(mean, 1)], dim=2)
    if net.config.patch_features:
        z[:, -2:, 1] += 0.3  # between places of experts
        z[:, -2:, 2, 0, 1] = 4.0  # one unknown block
    decoded = decode(net, z, [1, 4])
    net.plain_()
    assert close(fast, encode(net, x, [5, 8]))
    plain = decode(net, z, [1, 4])
    assert not torch.equal(decoded, plain)  # two paths were taken
    assert close(decoded, plain)
    assert torch.equal(decode(net.prepare_inference(), z, [1, 4]), decoded)


def test_channels_last_holds_to_the_end(net: PVVAE) -> None:
    """One operation that falls back to the other layout would slow all after it."""
    layout = torch.channels_last_3d
    seen = []
    for module in net.modules():
        if isinstance(module, RMSNorm | CausalConv3d):
            module.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].stride(1)))
    z = torch.randn(1, net.config.latent_channels, 3, 2, 3).contiguous(memory_format=layout)
    encode(net, clip(9).contiguous(memory_format=layout), [1, 8])
    decode(net, z, [1, 2])
    assert seen
    assert set(seen) == {1}


def test_casting_after_folding_folds_anew() -> None:
    net = small_model("patch4")
    z = torch.randn(1, 8, 2, 2, 2)
    before = decode(net, z, [2])
    assert close(decode(net.double(), z.double(), [2]).float(), before)


def test_decoding_from_the_receptive_field_on_equals_the_whole(net: PVVAE) -> None:
    past = net.decoder.past_latents
    z = torch.randn(1, net.config.latent_channels, past + 4, 2, 3)
    whole = decode(net, z, [past + 4])
    for late in (1, 3):
        part = decode(net, z[:, :, late:], [past + 4 - late])
        wanted = 4 * (past + 4 - late - past)  # frames of the latents past the receptive field
        assert close(part[:, :, -wanted:], whole[:, :, -wanted:])


def test_the_receptive_field_is_no_larger_than_needed_by_much(net: PVVAE) -> None:
    """The bound is used for every window read: it must bind."""
    past = net.decoder.past_latents
    z = torch.randn(1, net.config.latent_channels, past + 2, 2, 3)
    other = z.clone()
    other[:, :, 0] += 1.0
    a, b = decode(net, z, [past + 2]), decode(net, other, [past + 2])
    changed = [t for t in range(a.shape[2]) if not torch.equal(a[:, :, t], b[:, :, t])]
    reached = group_of(max(changed))
    assert past - 3 <= reached <= past


def test_batches_do_not_mix(net: PVVAE) -> None:
    x = torch.cat([clip(5, seed=1), clip(5, seed=2)])
    both = encode(net, x, [5])
    for i in range(2):
        assert close(both[i : i + 1], encode(net, x[i : i + 1], [5]))


def test_state_is_named_by_module_and_left_untouched() -> None:
    net = small_model("patch4")
    x = clip(9)
    with torch.inference_mode():
        _, state = net.encode_step(x[:, :, :5])
        kept = {k: v.clone() for k, v in state.items()}
        first, _ = net.encode_step(x[:, :, 5:], state)
        second, _ = net.encode_step(x[:, :, 5:], state)
    assert set(state) <= {name for name, _ in net.encoder.named_modules()}
    assert all(torch.equal(state[k], kept[k]) for k in kept)
    assert torch.equal(first.mean, second.mean)
