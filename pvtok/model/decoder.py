"""Latents to frames."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from pvtok.configs import ModelConfig
from pvtok.model.layers import CausalConv3d, FrameAttention, RMSNorm, level_blocks
from pvtok.model.resample import PatchHead, Upsample, depth_to_space
from pvtok.model.stream import State, Stream, name_stream_modules


class Decoder(nn.Module):
    """The encoder's mirror: space-only upsamplings first, then two joint space-time ones."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths, eps = config.widths, config.norm_eps
        self.patch = (1, config.patch_size, config.patch_size)
        self.width = widths[-1]
        self.conv_in = CausalConv3d(config.latent_channels, widths[-1], (3, 3, 3))
        self.attention = FrameAttention(widths[-1], eps) if config.attention else None
        # Levels are kept in the order they run: latents first.
        self.levels = nn.ModuleList(
            level_blocks(width, blocks, taps, eps)
            for width, blocks, taps in reversed(
                list(zip(widths, config.decoder_blocks, config.temporal_taps, strict=True))
            )
        )
        self.ups = nn.ModuleList(
            Upsample(widths[i + 1], widths[i], stride, shortcut=config.residual_shortcuts)
            for i, stride in reversed(list(enumerate(config.strides)))
        )
        self.patch_head = (
            PatchHead(
                (config.temporal_ratio, config.spatial_ratio, config.spatial_ratio), widths[-1]
            )
            if config.patch_shortcut
            else None
        )
        self.norm_out = RMSNorm(widths[0], eps)
        self.conv_out = CausalConv3d(widths[0], 3 * config.patch_size**2, (3, 3, 3))
        name_stream_modules(self)

    @property
    def past_latents(self) -> int:
        """How many earlier latents a frame depends on: started so far back, or further, a stream
        decodes to the same frames as the whole."""
        frames = float(self.conv_in.taps[0] - 1)
        latents_per_frame = 1.0
        for level, blocks in enumerate(self.levels):
            for block in blocks:  # type: ignore[attr-defined]
                frames += latents_per_frame * (block.conv1.taps[0] + block.conv2.taps[0] - 2)
            if level < len(self.ups) and self.ups[level].stride[0] == 2:  # type: ignore[index]
                frames += latents_per_frame
                latents_per_frame /= 2
        frames += latents_per_frame * (self.conv_out.taps[0] - 1)
        # A stream's first group decodes to one frame, so one more latent stands in front.
        return math.ceil(frames) + 1

    def forward(self, z_BCTHW: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One step of a stream.

        Args:
            z_BCTHW: latents `[B, C, t, h, w]`.
            state: the step before's, or None to begin.

        Returns:
            Frames `[B, 3, T, 16h, 16w]`, about [-1, 1] and not clamped, with `T = 4t - 3` in a
            stream's first step and `4t` later; and the next state.
        """
        stream = Stream(state)
        h = self.conv_in(z_BCTHW, stream)
        if self.patch_head is not None:  # the linear code enters unchanged
            h = h + F.pad(z_BCTHW, (0, 0, 0, 0, 0, 0, 0, self.width - z_BCTHW.shape[1]))
        if self.attention is not None:
            h = self.attention(h, stream)
        linear = None
        for level, blocks in enumerate(self.levels):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, stream)
            if level == 0 and self.patch_head is not None:
                linear = self.patch_head(h, stream)
            if level < len(self.ups):
                h = self.ups[level](h, stream)
        x = depth_to_space(self.conv_out(F.silu(self.norm_out(h)), stream), self.patch)
        return (x if linear is None else x + linear), stream.next_state
