"""How much arithmetic a model's whole clips take: exact counts from its modules and the sizes.

A multiply and an add are two operations. Convolutions, linear maps and attention are counted;
norms, activations and additions are not. Taps on the zero padding around a frame count, as they do
everywhere in the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from pvtok.model import PVVAE
from pvtok.model.decoder import Decoder
from pvtok.model.encoder import Encoder
from pvtok.model.layers import CausalConv3d, FrameAttention, ResBlock
from pvtok.model.patch_code import Extrapolation, PatchDecoder, PatchEncoder
from pvtok.model.resample import Upsample


@dataclass(frozen=True)
class Flops:
    """Operations by how much of the exact saving is taken."""

    dense: int
    """As defined: upsampling makes the repeated signal, every tap is computed."""
    folded: int
    """With upsampling folded into its convolution."""
    least: int
    """Folded, and without what cannot change the result: taps that meet the zero past of a stream,
    the output an upsampling drops, experts of the patch code that a block does not take, and the
    extrapolation of blocks that are known."""

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.dense + other.dense, self.folded + other.folded, self.least + other.least)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.dense * times, self.folded * times, self.least * times)


NONE = Flops(0, 0, 0)


@dataclass(frozen=True)
class Extent:
    """Frames, rows and columns of the activations."""

    frames: int
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width

    @property
    def volume(self) -> int:
        return self.frames * self.area

    def shrunk(self, stride: tuple[int, int, int]) -> Extent:
        """After a strided causal convolution: `1 + 2m` frames -> `1 + m`."""
        t, h, w = stride
        return Extent((self.frames - 1) // t + 1, -(-self.height // h), -(-self.width // w))

    def grown(self, stride: tuple[int, int, int]) -> Extent:
        """After an upsampling: `1 + m` frames -> `1 + 2m`."""
        t, h, w = stride
        return Extent((self.frames - 1) * t + 1, self.height * h, self.width * w)


def encode_flops(net: PVVAE, batch: int, frames: int, height: int, width: int) -> Flops:
    """Operations to encode whole clips of `1 + 4n` frames, sides filled up to whole latents."""
    config = net.config
    s = config.spatial_ratio
    pixels = Extent(frames, -(-height // s) * s, -(-width // s) * s)
    return _encoder(net.encoder, pixels, config.block) * batch


def decode_flops(net: PVVAE, batch: int, frames: int, height: int, width: int) -> Flops:
    """Operations to decode the latents of such clips."""
    config = net.config
    s = config.spatial_ratio
    latents = Extent((frames - 1) // config.temporal_ratio + 1, -(-height // s), -(-width // s))
    return _decoder(net.decoder, latents) * batch


def _encoder(encoder: Encoder, pixels: Extent, block: tuple[int, int, int]) -> Flops:
    latents = pixels.shrunk(block)
    total = NONE if encoder.patch is None else _patch_encoder(encoder.patch, latents)
    at = pixels.shrunk(encoder.fold)
    total += conv(encoder.conv_in, at)
    for level, blocks in enumerate(encoder.levels):
        total += _blocks(blocks, at)
        if level < len(encoder.downs):
            down = cast(CausalConv3d, encoder.downs[level].conv)
            at = at.shrunk(down.stride)
            total += conv(down, at)
    if encoder.attention is not None:
        total += _attention(encoder.attention, at)
    return total + conv(encoder.conv_out, at)


def _decoder(decoder: Decoder, latents: Extent) -> Flops:
    at = latents
    total = conv(decoder.conv_in, at)
    if decoder.patch is not None:
        total += _patch_decoder(decoder.patch, at)
        total += _extrapolation(decoder.extrapolation, at)
        total += conv(decoder.to_features, at)
    if decoder.attention is not None:
        total += _attention(decoder.attention, at)
    for level, blocks in enumerate(decoder.levels):
        total += _blocks(blocks, at)
        if level < len(decoder.ups):
            up = cast(Upsample, decoder.ups[level])
            total += upsample(up, at)
            at = at.grown(up.stride)
    return total + conv(decoder.conv_out, at)


def conv(module: CausalConv3d, out: Extent) -> Flops:
    """A causal convolution with outputs `out`, over a stream's first chunk."""
    outputs, inputs, kt, kh, kw = module.weight.shape
    tap = 2 * outputs * inputs * kh * kw * out.area
    every = out.frames * kt * tap
    # Output t ends at input frame t * stride: only so many taps do not meet the zero past.
    seen = sum(min(kt, t * module.stride[0] + 1) for t in range(out.frames))
    return Flops(every, every, seen * tap)


def upsample(module: Upsample, source: Extent) -> Flops:
    """Nearest x2 and a convolution, of a stream's first chunk of `source` extent."""
    outputs, inputs, kt, kh, kw = module.weight.shape
    pairs = 2 * outputs * inputs
    area = 4 * source.area
    if kt == 1:
        folded = pairs * 4 * area * source.frames
        return Flops(pairs * kh * kw * area * source.frames, folded, folded)
    # Two outputs a source frame, of two folded taps each. Of the first source frame only the second
    # output is kept, and it has no frame before it.
    taps = 4 * source.frames
    return Flops(
        pairs * kt * kh * kw * area * 2 * source.frames,
        pairs * 4 * area * taps,
        pairs * 4 * area * (taps - 3),
    )


def _blocks(blocks: nn.Module, at: Extent) -> Flops:
    total = NONE
    for block in cast(nn.ModuleList, blocks):
        block = cast(ResBlock, block)
        total += conv(block.conv1, at) + conv(block.conv2, at)
    return total


def _attention(module: FrameAttention, at: Extent) -> Flops:
    channels = module.out.in_features
    linear = 2 * 4 * channels * channels * at.volume
    both_products = 2 * 2 * channels * at.area * at.volume
    return _always(linear + both_products)


def _patch_encoder(module: PatchEncoder, latents: Extent) -> Flops:
    every_expert = 2 * module.experts.numel()  # which is best shows only when all are computed
    return _always((_linear(module.linear) + every_expert) * latents.volume)


def _patch_decoder(module: PatchDecoder, latents: Extent) -> Flops:
    experts, kept, features = module.experts.shape
    every = (2 * experts * kept * features + _linear(module.linear)) * latents.volume
    one = (2 * kept * features + _linear(module.linear)) * latents.volume
    return Flops(every, every, one)


def _extrapolation(module: Extrapolation, latents: Extent) -> Flops:
    convs = (module.around, module.token, module.mix, module.out)
    place = _linear(module.repeat) + 2 * module.rows.numel()
    place += sum(2 * layer.weight.numel() for layer in convs)
    total = place * latents.volume
    return Flops(total, total, 0)


def _linear(module: nn.Linear) -> int:
    return 2 * module.in_features * module.out_features


def _always(count: int) -> Flops:
    return Flops(count, count, count)
