"""Latents to frames."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pvtok.configs import ModelConfig
from pvtok.model.layers import CausalConv3d, FrameAttention, RMSNorm, level_blocks
from pvtok.model.patch_code import Extrapolation, PatchDecoder
from pvtok.model.resample import Upsample, depth_to_space
from pvtok.model.stream import State, Stream, name_stream_modules


class Decoder(nn.Module):
    """The encoder's mirror: space-only upsamplings first, then two joint space-time ones."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths, eps = config.widths, config.norm_eps
        self.fold = (1, config.patch_size, config.patch_size)
        self.width = widths[-1]
        if config.patch_features:
            self.conv_in = CausalConv3d(widths[-1], widths[-1], (2, 3, 3)).zero_()
        else:
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
        self.patch: PatchDecoder | None = None
        if config.patch_features:
            self.patch = PatchDecoder(
                config.block,
                config.patch_features,
                config.patch_experts,
                config.latent_channels,
            )
            self.extrapolation = Extrapolation(
                config.patch_features, config.patch_experts, config.latent_channels
            )
            self.norm_features = RMSNorm(widths[-1], eps)
            self.to_features = CausalConv3d(widths[-1], config.patch_features, (1, 1, 1)).zero_()
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
        features = None
        if self.patch is None:
            h = self.conv_in(z_BCTHW, stream)
        else:
            features = self.extrapolation(self.patch.features(z_BCTHW), z_BCTHW, stream)
            h = features[:, : self.width]
            h = h + self.conv_in(h, stream)
        if self.attention is not None:
            h = self.attention(h, stream)
        linear = None
        for level, blocks in enumerate(self.levels):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, stream)
            if level == 0 and self.patch is not None:
                corrected = features + self.to_features(self.norm_features.silu(h), stream)
                linear = self.patch(corrected, stream)
            if level < len(self.ups):
                h = self.ups[level](h, stream)
        x = depth_to_space(self.conv_out(self.norm_out.silu(h), stream), self.fold)
        return (x if linear is None else x.add_(linear)), stream.next_state
