"""Counts against two independent ones: the running net's, and taps counted one by one."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pvtok.bench.flops import Extent, conv, decode_flops, encode_flops, upsample
from pvtok.configs import PRESETS
from pvtok.model import PVVAE
from pvtok.model.layers import CausalConv3d
from pvtok.model.resample import Upsample
from tests.models import SMALL


@pytest.mark.parametrize("name", SMALL)
def test_dense_is_what_the_plain_net_computes(name: str) -> None:
    """As it is trained, unfolded, and with attention made of products that can be counted."""
    net = PVVAE(SMALL[name]).plain_()
    size = (2, 9, 32, 48)
    x = torch.randn(2, 3, *size[1:])
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        with FlopCounterMode(display=False) as encoding:
            z = net.encode_step(x)[0].mean
        with FlopCounterMode(display=False) as decoding:
            net.decode_step(z)
    assert encoding.get_total_flops() == encode_flops(net, *size).dense
    assert decoding.get_total_flops() == decode_flops(net, *size).dense


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize(("taps", "stride"), [(3, 1), (2, 1), (1, 1), (3, 2)])
def test_convolution_taps_one_by_one(taps: int, stride: int, frames: int) -> None:
    module = CausalConv3d(4, 6, (taps, 3, 3), (stride, 1, 1))
    pairs = 2 * 4 * 6 * 9 * 5 * 7
    ends = [stride * t for t in range(frames)]
    met = sum(end - back >= 0 for end in ends for back in range(taps))
    found = conv(module, Extent(frames, 5, 7))
    assert found.dense == found.folded == pairs * taps * frames
    assert found.least == pairs * met


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("temporal", [False, True])
def test_upsampling_sources_one_by_one(temporal: bool, frames: int) -> None:
    """Folded, an output costs one multiply for each source sample that its taps meet."""
    module = Upsample(4, 6, (2 if temporal else 1, 2, 2), shortcut=False)
    H, W = 3, 5
    folded = least = dense = 0
    for t, y, x in itertools.product(
        range(2 * frames if temporal else frames), range(2 * H), range(2 * W)
    ):
        times = [(t - back) // 2 for back in range(3)] if temporal else [t]
        space = [((y + dy) // 2, (x + dx) // 2) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        dense += len(times) * len(space)
        folded += len(set(times)) * len(set(space))
        if not (temporal and t == 0):  # the stream's first output is dropped
            least += len({time for time in times if time >= 0}) * len(set(space))
    found = upsample(module, Extent(frames, H, W))
    assert [dense, folded, least] == [
        count / (2 * 4 * 6) for count in (found.dense, found.folded, found.least)
    ]


def test_savings_of_the_paper_preset() -> None:
    with torch.device("meta"):
        net = PVVAE(PRESETS["paper"])
    size = (4, 17, 256, 256)
    encode, decode = encode_flops(net, *size), decode_flops(net, *size)
    assert encode.dense == encode.folded > encode.least
    assert decode.dense > decode.folded > decode.least
    assert 1 - decode.folded / decode.dense == pytest.approx(0.136, abs=1e-3)
    assert 1 - decode.least / decode.folded == pytest.approx(0.121, abs=1e-3)
    one = decode_flops(net, 1, 17, 256, 256)
    assert dataclasses.astuple(one * 4) == dataclasses.astuple(decode)


def test_odd_sides_count_as_whole_latents() -> None:
    with torch.device("meta"):
        net = PVVAE(SMALL["plain"])
    assert encode_flops(net, 1, 5, 33, 47) == encode_flops(net, 1, 5, 48, 48)
    assert decode_flops(net, 1, 5, 33, 47) == decode_flops(net, 1, 5, 48, 48)
