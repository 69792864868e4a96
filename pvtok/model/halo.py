"""PV-VAE's steps on the Triton kernels: the same modules and weights, run in the halo layout.

The network is a chain of stages. Each stage is told what the next one wants, so that it writes its
result as the next reads it: normed, with the causal past in front, inside a zero border. Nothing is
padded, concatenated or copied in between (see `pvtok.kernels.halo`). Weights are repacked once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pvtok.kernels import fold_upsample_weight
from pvtok.kernels.halo import interior, pack_channels, pack_weight, to_halo
from pvtok.kernels.halo_conv import conv
from pvtok.kernels.halo_down import down
from pvtok.kernels.halo_norm import norm
from pvtok.kernels.halo_pixels import pixels_in, pixels_out
from pvtok.kernels.halo_shortcut import shortcut
from pvtok.kernels.halo_up import pack_folded, up
from pvtok.kernels.pixels import pixels_to_signed
from pvtok.kernels.tiles import norm_fits
from pvtok.model.decoder import Decoder
from pvtok.model.encoder import Encoder
from pvtok.model.layers import CausalConv3d, FrameAttention, ResBlock, RMSNorm
from pvtok.model.patch_code import PLACE_CHANNELS
from pvtok.model.pvvae import PVVAE
from pvtok.model.resample import Downsample, Upsample
from pvtok.model.stream import State, Stream, StreamModule


@dataclass(frozen=True)
class Activation:
    """What flows between stages, in halo layout."""

    data: Tensor
    """`[B, front + T, H+1, W+1, C]`."""
    front: int = 0
    raw: Tensor | None = None
    """The same before norm and SiLU, with no past, where the stage asked for it."""


class Norm:
    """A norm's gain as the kernels read it."""

    def __init__(self, module: RMSNorm) -> None:
        self.gain, self.eps = pack_channels(module.gain), module.eps
        self.channels = module.gain.shape[0]


@dataclass(frozen=True)
class Wanted:
    """What a stage wants of its input."""

    module: StreamModule | None = None
    """Whose past stands in front."""
    taps: int = 1
    """Frames its filter sees: `taps - 1` of the past at first, `taps - stride` later."""
    stride: int = 1
    norm: Norm | None = None
    raw: bool = False

    def front(self, stream: Stream) -> int:
        return self.taps - (1 if stream.first else self.stride)

    @property
    def keep(self) -> int:
        return self.taps - self.stride


class Stage(Protocol):
    """A part of the network with one input and one output."""

    @property
    def wants(self) -> Wanted: ...

    def __call__(self, x: Activation, wanted: Wanted, stream: Stream) -> Activation: ...


Run = Callable[[Tensor | None, Tensor | None, int, int, bool], tuple[Tensor, Tensor, Tensor]]
"""A convolution but for its end: gain, past, front, keep, raw -> output, raw output, kept."""


def finished(run: Run, channels: int, wanted: Wanted, stream: Stream) -> Activation:
    """Run a convolution so that it ends as wanted, or leave the norm to a kernel of its own where
    a row of channels is too long for one tile."""
    if wanted.norm is None or norm_fits(channels):
        gain = None if wanted.norm is None else wanted.norm.gain
        front, past = wanted.front(stream), _past(wanted, stream)
        out, raw, kept = run(gain, past, front, wanted.keep, wanted.raw and gain is not None)
        _keep(wanted, kept, stream)
        return Activation(out, front, (out if gain is None else raw) if wanted.raw else None)
    plain, _, _ = run(None, None, 0, 0, False)
    return normed(plain, wanted, stream)


def normed(plain: Tensor, wanted: Wanted, stream: Stream) -> Activation:
    """Bring a result in halo layout, with no past in front, into the form that is wanted."""
    if wanted.norm is None:
        return laid_out(interior(plain, 0), wanted, stream) if wanted.keep else Activation(plain)
    front, past = wanted.front(stream), _past(wanted, stream)
    gain, eps, channels = wanted.norm.gain, wanted.norm.eps, wanted.norm.channels
    out, kept = norm(plain, gain, past, 0, front, wanted.keep, eps, channels)
    _keep(wanted, kept, stream)
    return Activation(out, front, plain if wanted.raw else None)


def laid_out(dense_BTHWC: Tensor, wanted: Wanted, stream: Stream) -> Activation:
    """Bring what PyTorch's operations made into the form that is wanted."""
    if wanted.norm is not None:
        return normed(to_halo(dense_BTHWC), wanted, stream)
    front = wanted.front(stream)
    out = to_halo(dense_BTHWC, _past(wanted, stream), front)
    _keep(wanted, out[:, out.shape[1] - wanted.keep :].clone(), stream)
    return Activation(out, front)


def _past(wanted: Wanted, stream: Stream) -> Tensor | None:
    if stream.first or not wanted.keep:
        return None
    assert wanted.module is not None
    return stream.kept(wanted.module)


def _keep(wanted: Wanted, kept: Tensor, stream: Stream) -> None:
    if wanted.keep:
        assert wanted.module is not None
        stream.keep(wanted.module, kept)


class Conv:
    """A convolution of stride 1."""

    def __init__(self, module: CausalConv3d, before: RMSNorm | None = None) -> None:
        self.weight, self.bias = pack_weight(module.weight), pack_channels(module.bias)
        self.time_taps, self.space_taps, _ = module.taps
        self.channels = module.weight.shape[0]
        self.before = None if before is None else Norm(before)
        self.module = module

    @property
    def wants(self) -> Wanted:
        return Wanted(self.module, self.time_taps, norm=self.before)

    def __call__(
        self, x: Activation, wanted: Wanted, stream: Stream, residual: Activation | None = None
    ) -> Activation:
        eps, channels = _norm_numbers(wanted)

        def run(
            gain: Tensor | None, past: Tensor | None, front: int, keep: int, raw: bool
        ) -> tuple[Tensor, Tensor, Tensor]:
            result: tuple[Tensor, Tensor, Tensor] = conv(
                x.data,
                self.weight,
                self.bias,
                None if residual is None else residual.data,
                gain,
                past,
                x.front,
                0 if residual is None else residual.front,
                self.time_taps,
                self.space_taps,
                stream.first,
                front,
                keep,
                raw,
                eps,
                channels,
                _tf32(x.data),
            )
            return result

        return finished(run, self.channels, wanted, stream)


class Block:
    """A residual block."""

    def __init__(self, module: ResBlock) -> None:
        self.conv1 = Conv(module.conv1, module.norm1)
        self.conv2 = Conv(module.conv2, module.norm2)

    @property
    def wants(self) -> Wanted:
        first = self.conv1.wants
        return Wanted(first.module, first.taps, norm=first.norm, raw=True)

    def __call__(self, x: Activation, wanted: Wanted, stream: Stream) -> Activation:
        assert x.raw is not None
        h = self.conv1(x, self.conv2.wants, stream)
        return self.conv2(h, wanted, stream, residual=Activation(x.raw))


class Down:
    """A strided convolution with its shortcut."""

    def __init__(self, module: Downsample) -> None:
        self.conv = module.conv
        self.weight, self.bias = pack_weight(module.conv.weight), pack_channels(module.conv.bias)
        self.channels, channels_in = module.conv.weight.shape[:2]
        self.time_stride = module.stride[0]
        volume = 4 * self.time_stride
        self.averaged = channels_in * volume // self.channels if module.shortcut else 0

    @property
    def wants(self) -> Wanted:
        return Wanted(self.conv, self.conv.taps[0], self.time_stride)

    def __call__(self, x: Activation, wanted: Wanted, stream: Stream) -> Activation:
        eps, channels = _norm_numbers(wanted)
        residual: Tensor | None = None
        if self.averaged:
            shape = (self.weight.shape[1], x.front, self.time_stride, self.averaged)
            residual = shortcut(x.data, *shape, stream.first)

        def run(
            gain: Tensor | None, past: Tensor | None, front: int, keep: int, raw: bool
        ) -> tuple[Tensor, Tensor, Tensor]:
            result: tuple[Tensor, Tensor, Tensor] = down(
                x.data,
                self.weight,
                self.bias,
                residual,
                gain,
                past,
                x.front,
                self.conv.taps[0],
                self.time_stride,
                stream.first,
                front,
                keep,
                raw,
                eps,
                channels,
                _tf32(x.data),
            )
            return result

        return finished(run, self.channels, wanted, stream)


class Up:
    """A folded upsampling convolution with its shortcut."""

    def __init__(self, module: Upsample) -> None:
        self.module = module
        self.time_factor = module.stride[0]
        folded = fold_upsample_weight(module.weight.detach().float()).to(module.weight.dtype)
        self.weight = pack_folded(folded, 4 * self.time_factor)
        self.bias = pack_channels(module.bias)
        self.channels = module.weight.shape[0]
        self.repeats = module.repeats

    @property
    def wants(self) -> Wanted:
        return Wanted(self.module, self.time_factor)

    def __call__(self, x: Activation, wanted: Wanted, stream: Stream) -> Activation:
        eps, channels = _norm_numbers(wanted)

        def run(
            gain: Tensor | None, past: Tensor | None, front: int, keep: int, raw: bool
        ) -> tuple[Tensor, Tensor, Tensor]:
            result: tuple[Tensor, Tensor, Tensor] = up(
                x.data,
                self.weight,
                self.bias,
                gain,
                past,
                x.front,
                self.time_factor,
                self.repeats,
                stream.first,
                front,
                keep,
                raw,
                eps,
                channels,
                _tf32(x.data),
            )
            return result

        return finished(run, self.channels, wanted, stream)


class Attention:
    """Attention of the latents' frames, in plain PyTorch: it wants its tokens without borders, and
    at that size the two copies are small."""

    wants = Wanted()

    def __init__(self, module: FrameAttention) -> None:
        self.module, self.channels = module, module.norm.gain.shape[0]

    def __call__(self, x: Activation, wanted: Wanted, stream: Stream) -> Activation:
        dense = interior(x.data, x.front, self.channels).movedim(-1, 1)
        y: Tensor = self.module(dense, stream)
        return laid_out(y.movedim(1, -1), wanted, stream)


class Features:
    """Adds features of the patch code, which are computed beside the chain."""

    wants = Wanted()

    def __init__(self, features_BDTHW: Tensor) -> None:
        self.features = features_BDTHW

    def __call__(self, x: Activation, wanted: Wanted, stream: Stream) -> Activation:
        C = x.data.shape[-1]
        added = to_halo(self.features[:, :C].movedim(1, -1))
        return normed(x.data + added, wanted, stream)


def chain(x: Activation, stages: Sequence[Stage], last: Wanted, stream: Stream) -> Activation:
    """Run stages one after another; the output is as `last` wants it."""
    for stage, wanted in zip(stages, [s.wants for s in stages[1:]] + [last], strict=True):
        x = stage(x, wanted, stream)
    return x


class HaloEncoder:
    """`Encoder` on the kernels."""

    def __init__(self, module: Encoder, spatial_ratio: int) -> None:
        self.module, self.spatial_ratio = module, spatial_ratio
        self.conv_in = Conv(module.conv_in)
        self.stages: list[Stage] = [self.conv_in]
        for level, blocks in enumerate(module.levels):
            self.stages += [Block(block) for block in blocks]  # type: ignore[attr-defined]
            if level < len(module.downs):
                self.stages.append(Down(module.downs[level]))  # type: ignore[arg-type]
        # The patch code's features enter where the last level begins.
        self.features_at = len(self.stages) - len(module.levels[-1])  # type: ignore[arg-type]
        if module.attention is not None:
            self.stages.append(Attention(module.attention))
        self.stages.append(Conv(module.conv_out, module.norm_out))

    def __call__(self, frames_BTHWC: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Frames uint8 `[B, T, H, W, 3]` -> posterior mean `[B, C, t, h, w]`, next state."""
        stream, stages = Stream(state), list(self.stages)
        code, dtype = None, self.conv_in.weight.dtype
        if self.module.patch is not None:
            x = pixels_to_signed(frames_BTHWC, self.spatial_ratio, dtype)
            features, code = self.module.patch(x, stream)
            stages.insert(self.features_at, Features(features))
        wanted = self.conv_in.wants
        front = wanted.front(stream)
        data, kept = pixels_in(
            frames_BTHWC.contiguous(),
            _past(wanted, stream),
            self.module.fold[1],
            self.spatial_ratio,
            front,
            wanted.keep,
            dtype,
        )
        _keep(wanted, kept, stream)
        out = chain(Activation(data, front), stages, Wanted(), stream)
        mean = interior(out.data, 0, self.module.latent_channels).movedim(-1, 1)
        if code is not None:
            places = code[:, -PLACE_CHANNELS:].to(mean.dtype)
            mean = torch.cat([(mean + code)[:, :-PLACE_CHANNELS], places], dim=1)
        return mean, stream.next_state


class HaloDecoder:
    """`Decoder` on the kernels."""

    def __init__(self, module: Decoder) -> None:
        self.module = module
        self.conv_in = Conv(module.conv_in)
        self.stages: list[Stage] = []
        if module.attention is not None:
            self.stages.append(Attention(module.attention))
        for level, blocks in enumerate(module.levels):
            self.stages += [Block(block) for block in blocks]  # type: ignore[attr-defined]
            if level == 0:
                self.first_level = len(self.stages)
            if level < len(module.ups):
                self.stages.append(Up(module.ups[level]))  # type: ignore[arg-type]
        self.stages.append(Conv(module.conv_out, module.norm_out))
        if module.patch is not None:
            self.to_features = Conv(module.to_features, module.norm_features)

    def __call__(self, z_BCTHW: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        """Latents `[B, C, t, h, w]` -> frames uint8 `[B, T, 16h, 16w, 3]`, whether all were finite,
        next state."""
        stream, stages, linear = Stream(state), self.stages, None
        if self.module.patch is None:
            x = self.begin(z_BCTHW, stream)
            x = self.conv_in(x, stages[0].wants, stream)
        else:
            features = self.module.patch.features(z_BCTHW)
            features = self.module.extrapolation(features, z_BCTHW, stream)
            x = self.begin(features[:, : self.module.width], stream)
            x = self.conv_in(x, stages[0].wants, stream, residual=x)
            x = chain(x, stages[: self.first_level], stages[self.first_level].wants, stream)
            stages = stages[self.first_level :]
            linear = self.linear(features, x, stream)
        out = chain(x, stages, Wanted(), stream)
        finite = torch.isfinite(out.data).all()
        if linear is not None:
            finite = finite & torch.isfinite(linear).all()
        return pixels_out(out.data, linear, 0, self.module.fold[1]), finite, stream.next_state

    def begin(self, h_BCTHW: Tensor, stream: Stream) -> Activation:
        """Lay out the first convolution's input."""
        return laid_out(h_BCTHW.movedim(1, -1), self.conv_in.wants, stream)

    def linear(self, features_BDTHW: Tensor, x: Activation, stream: Stream) -> Tensor:
        """The patch code's frames `[B, 3, T, H, W]`, its features corrected by the first level."""
        assert self.module.patch is not None
        n = self.to_features.before
        assert n is not None
        h, _ = norm(x.data, n.gain, None, x.front, 0, 0, n.eps, n.channels)
        more = self.to_features(Activation(h), Wanted(), stream)
        corrected = features_BDTHW + interior(more.data, 0, features_BDTHW.shape[1]).movedim(-1, 1)
        frames: Tensor = self.module.patch(corrected, stream)
        return frames


class HaloSteps:
    """The backend "triton": see `pvtok.steps.Steps`."""

    backend = "triton"

    def __init__(self, net: PVVAE) -> None:
        with torch.no_grad():
            self.encoder = HaloEncoder(net.encoder, net.config.spatial_ratio)
            self.decoder = HaloDecoder(net.decoder)

    def encode(self, frames_BTHWC: Tensor, state: State | None) -> tuple[Tensor, State]:
        return self.encoder(frames_BTHWC, state)

    def decode(self, z_BCTHW: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        return self.decoder(z_BCTHW, state)


def _norm_numbers(wanted: Wanted) -> tuple[float, int]:
    return (0.0, 1) if wanted.norm is None else (wanted.norm.eps, wanted.norm.channels)


def _tf32(x: Tensor) -> bool:
    """fp32 is multiplied as fp32 unless the user has allowed tf32."""
    return x.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
