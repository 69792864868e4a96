"""Frames to posterior moments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvtok.configs import ModelConfig
from pvtok.model.layers import CausalConv3d, FrameAttention, RMSNorm, level_blocks
from pvtok.model.patch_code import PLACE_CHANNELS, PatchEncoder
from pvtok.model.resample import Downsample, space_to_depth
from pvtok.model.stream import State, Stream, name_stream_modules

INITIAL_LOGVAR = -8.0
"""Posterior noise starts small beside unit-variance latents; training moves it."""


class Encoder(nn.Module):
    """Two joint space-time halvings, then space-only ones (paper, section "Architecture")."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths, eps = config.widths, config.norm_eps
        self.fold = (1, config.patch_size, config.patch_size)
        self.latent_channels = config.latent_channels
        self.conv_in = CausalConv3d(3 * config.patch_size**2, widths[0], (3, 3, 3))
        self.levels = nn.ModuleList(
            level_blocks(width, blocks, taps, eps)
            for width, blocks, taps in zip(
                widths, config.encoder_blocks, config.temporal_taps, strict=True
            )
        )
        self.downs = nn.ModuleList(
            Downsample(widths[i], widths[i + 1], stride, shortcut=config.residual_shortcuts)
            for i, stride in enumerate(config.strides)
        )
        self.patch = (
            PatchEncoder(
                config.block,
                config.patch_features,
                config.patch_experts,
                config.latent_channels,
            )
            if config.patch_features
            else None
        )
        self.attention = FrameAttention(widths[-1], eps) if config.attention else None
        self.norm_out = RMSNorm(widths[-1], eps)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, (1, 1, 1))
        with torch.no_grad():
            self.conv_out.bias[config.latent_channels :] = INITIAL_LOGVAR
        name_stream_modules(self)

    def forward(self, x_BCTHW: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One step of a stream.

        Args:
            x_BCTHW: `[B, 3, T, H, W]` in [-1, 1]; `T = 1 + 4m` in a stream's first step, `4m`
                later; H and W are multiples of 16.
            state: the step before's, or None to begin.

        Returns:
            Moments `[B, 2C, t, H/16, W/16]` (means, then log-variances) and the next state.
        """
        stream = Stream(state)
        features, code = (None, None) if self.patch is None else self.patch(x_BCTHW, stream)
        h = self.conv_in(space_to_depth(x_BCTHW, self.fold), stream)
        for level, blocks in enumerate(self.levels):
            if level == len(self.downs) and features is not None:
                h = h + features[:, : h.shape[1]]
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, stream)
            if level < len(self.downs):
                h = self.downs[level](h, stream)
        if self.attention is not None:
            h = self.attention(h, stream)
        moments = self.conv_out(self.norm_out.silu(h), stream)
        if code is not None:  # the transform code reaches the means directly
            mean, logvar = moments.chunk(2, dim=1)
            corrected = mean[:, :-PLACE_CHANNELS] + code[:, :-PLACE_CHANNELS]
            moments = torch.cat([corrected, code[:, -PLACE_CHANNELS:].to(mean.dtype), logvar], 1)
        return moments, stream.next_state
