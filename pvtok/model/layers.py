"""What every level is built of: causal convolution, norm, residual block, per-frame attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pvtok.kernels import causal_conv3d, next_past, rms_norm, rms_norm_silu
from pvtok.model.stream import Stream, StreamModule


class CausalConv3d(StreamModule):
    """Convolution over space (zero-padded) and the past.

    With stride 2 in time, a stream of `1 + 2m` frames becomes `1 + m`: outputs end at frames
    0, 2, 4, ...
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        taps: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.taps, self.stride = taps, stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *taps))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def zero_(self) -> CausalConv3d:
        """Start as the zero function, so that a residual branch starts as the identity."""
        nn.init.zeros_(self.weight)
        return self

    def forward(self, x_BCTHW: Tensor, stream: Stream) -> Tensor:
        kt, st = self.taps[0], self.stride[0]
        past = stream.past(self) if kt > 1 else None
        if kt > st:
            stream.keep(self, next_past(x_BCTHW, past, kt, st))
        return causal_conv3d(x_BCTHW, past, self.weight, self.bias, self.stride)


class RMSNorm(nn.Module):
    """RMS norm over channels, per position, with a learned gain."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.eps = eps
        self.fast = False
        """Norm and SiLU in place where no gradient is wanted. Set by `prepare_inference`."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return rms_norm(x_BCTHW, self.gain, self.eps)

    def silu(self, x_BCTHW: Tensor) -> Tensor:
        """SiLU of the norm."""
        if self.fast and not torch.is_grad_enabled():
            return rms_norm_silu(x_BCTHW, self.gain, self.eps)
        return F.silu(self.forward(x_BCTHW))


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); starts as the identity."""

    def __init__(self, channels: int, temporal_taps: int, eps: float) -> None:
        super().__init__()
        taps = (temporal_taps, 3, 3)
        self.norm1 = RMSNorm(channels, eps)
        self.conv1 = CausalConv3d(channels, channels, taps)
        self.norm2 = RMSNorm(channels, eps)
        self.conv2 = CausalConv3d(channels, channels, taps).zero_()
        self.recompute = False
        """Keep only the input for the backward pass (gradient checkpointing, Chen et al. 2016,
        arXiv 1604.06174)."""

    def forward(self, x_BCTHW: Tensor, stream: Stream) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._residual, x_BCTHW, stream, use_reentrant=False)
            return out
        return self._residual(x_BCTHW, stream)

    def _residual(self, x_BCTHW: Tensor, stream: Stream) -> Tensor:
        h: Tensor = self.conv1(self.norm1.silu(x_BCTHW), stream)
        h = self.conv2(self.norm2.silu(h), stream)
        return h.add_(x_BCTHW)


class FrameAttention(nn.Module):
    """Self-attention among the positions of one frame; frames do not see each other."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.heads = max(1, channels // 64)
        self.norm = RMSNorm(channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BCTHW: Tensor, stream: Stream) -> Tensor:
        B, C, T, H, W = x_BCTHW.shape
        tokens = self.norm(x_BCTHW).permute(0, 2, 3, 4, 1).reshape(B * T, H * W, C)
        qkv = self.qkv(tokens).view(B * T, H * W, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B * T, H * W, C)
        y = self.out(y)
        out: Tensor = x_BCTHW + y.view(B, T, H, W, C).permute(0, 4, 1, 2, 3)
        return out


def level_blocks(channels: int, blocks: int, temporal_taps: int, eps: float) -> nn.ModuleList:
    """The residual blocks of one level."""
    return nn.ModuleList(ResBlock(channels, temporal_taps, eps) for _ in range(blocks))
