"""Between levels: strided downsampling, folded upsampling, and their parameter-free shortcuts.

Time is cut as `1 + 2m` frames <-> `1 + m`: the first frame of a stream stands alone, so a first
chunk is completed by repeating its first frame (down) or loses its first output (up).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, nn

from pvtok.kernels import (
    channels_last,
    fold_upsample_weight,
    next_past,
    upsample_conv,
    upsample_conv_folded,
)
from pvtok.kernels.causal_conv3d import with_past
from pvtok.model.layers import CausalConv3d
from pvtok.model.stream import Stream, StreamModule

Stride = tuple[int, int, int]


def space_to_depth(x_BCTHW: Tensor, block: Stride) -> Tensor:
    """`[B, C, T, H, W]` -> `[B, C * bt*bh*bw, T/bt, H/bh, W/bw]`, channels ordered (C, t, y, x).

    What is channels-last stays so.
    """
    B, C, T, H, W = x_BCTHW.shape
    bt, bh, bw = block
    x = x_BCTHW.reshape(B, C, T // bt, bt, H // bh, bh, W // bw, bw)
    if channels_last(x_BCTHW):
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)
        return x.reshape(B, T // bt, H // bh, W // bw, C * bt * bh * bw).movedim(-1, 1)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(B, C * bt * bh * bw, T // bt, H // bh, W // bw)


def depth_to_space(x_BCTHW: Tensor, block: Stride) -> Tensor:
    """The inverse of `space_to_depth`."""
    B, C, T, H, W = x_BCTHW.shape
    bt, bh, bw = block
    x = x_BCTHW.reshape(B, C // (bt * bh * bw), bt, bh, bw, T, H, W)
    if channels_last(x_BCTHW):
        x = x.permute(0, 5, 2, 6, 3, 7, 4, 1)
        return x.reshape(B, T * bt, H * bh, W * bw, C // (bt * bh * bw)).movedim(-1, 1)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(B, C // (bt * bh * bw), T * bt, H * bh, W * bw)


def fill_first_group(x_BCTHW: Tensor, frames_per_group: int, stream: Stream) -> Tensor:
    """Repeat a stream's first frame so that it makes a whole group of its own."""
    if not stream.first or frames_per_group == 1:
        return x_BCTHW
    first = x_BCTHW[:, :, :1].expand(-1, -1, frames_per_group - 1, -1, -1)
    return with_past(x_BCTHW, first, 0)


def cut_first_group(x_BCTHW: Tensor, frames_per_group: int, stream: Stream) -> Tensor:
    """Drop what `fill_first_group` stood for: of a stream's first group only the last frame is."""
    return x_BCTHW[:, :, frames_per_group - 1 :] if stream.first else x_BCTHW


class Downsample(nn.Module):
    """Strided causal convolution, plus the channel average of space-to-depth."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: Stride, *, shortcut: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = out_channels
        taps = (3 if stride[0] == 2 else 1, 3, 3)
        self.conv = CausalConv3d(in_channels, out_channels, taps, stride)
        self.shortcut = shortcut

    def forward(self, x_BCTHW: Tensor, stream: Stream) -> Tensor:
        y: Tensor = self.conv(x_BCTHW, stream)
        return y.add_(self._average(x_BCTHW, stream)) if self.shortcut else y

    def _average(self, x_BCTHW: Tensor, stream: Stream) -> Tensor:
        """The mean of each run of channels of space-to-depth, `out_channels` of them."""
        bt, bh, bw = self.stride
        if (x_BCTHW.shape[1] * bt) % self.out_channels == 0:  # a run has whole areas of bh * bw
            rows = x_BCTHW.unflatten(3, (-1, bh)).unbind(4)
            columns = reduce(torch.add, rows).unflatten(4, (-1, bw)).unbind(5)
            x_BCTHW = reduce(torch.add, columns) / (bh * bw)
            bh, bw = 1, 1
        x = space_to_depth(fill_first_group(x_BCTHW, bt, stream), (bt, bh, bw))
        average: Tensor = x.unflatten(1, (self.out_channels, -1)).mean(2)
        return average


class Upsample(StreamModule):
    """Nearest x2 and causal convolution, folded, plus the depth-to-space of repeated channels."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: Stride, *, shortcut: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        taps = 3 if stride[0] == 2 else 1
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, taps, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        volume = stride[0] * stride[1] * stride[2]
        self.repeats = out_channels * volume // in_channels if shortcut else 0
        self.plain = False
        """Run the unfolded definition instead (tests compare the two)."""
        self._folded: Tensor | None = None

    def fold(self) -> None:
        """Fold the weights once, for inference."""
        folded = fold_upsample_weight(self.weight.detach())
        self._folded = folded.contiguous(memory_format=torch.channels_last_3d)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Upsample:
        self._folded = None  # moving or casting the module makes the folded copy stale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, x_BCTHW: Tensor, stream: Stream) -> Tensor:
        temporal = self.stride[0] == 2
        past = stream.past(self) if temporal else None
        if temporal:
            stream.keep(self, next_past(x_BCTHW, past, 2, 1))
        if self.plain:
            y = upsample_conv(x_BCTHW, past, self.weight, self.bias)
        else:
            folded = self._folded
            if folded is None or self.weight.requires_grad:
                # Training: folding is cheap, and gradients go through it.
                folded = fold_upsample_weight(self.weight)
            y = upsample_conv_folded(x_BCTHW, past, folded, self.bias)
        if self.repeats:
            y = self._add_repeated(y, x_BCTHW)
        return cut_first_group(y, self.stride[0], stream)

    def _add_repeated(self, y_BOTHW: Tensor, x_BCTHW: Tensor) -> Tensor:
        """y + depth-to-space of `repeats` of every channel of x, which is not written out."""
        (bt, bh, bw), repeats = self.stride, self.repeats
        O = y_BOTHW.shape[1]
        if repeats % (bh * bw) == 0:  # the same all over an area of bh * bw
            repeats, area = repeats // (bh * bw), (1, 1)
        else:
            area = (bh, bw)
        x = x_BCTHW if repeats == 1 else x_BCTHW.repeat_interleave(repeats, dim=1)
        x = x.unflatten(1, (O, bt, *area)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        y = y_BOTHW.unflatten(4, (-1, bw)).unflatten(3, (-1, bh)).unflatten(2, (-1, bt))
        out: Tensor = y.add_(x).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return out
