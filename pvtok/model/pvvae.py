"""PV-VAE: encoder, decoder and the padding that stands for what is to be predicted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvtok.configs import ModelConfig
from pvtok.model.decoder import Decoder
from pvtok.model.encoder import Encoder
from pvtok.model.layers import ResBlock, RMSNorm
from pvtok.model.patch_code import PLACE_CHANNELS, UNKNOWN, Extrapolation, PatchDecoder
from pvtok.model.posterior import Posterior
from pvtok.model.resample import Upsample
from pvtok.model.stream import State

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class PVVAE(nn.Module):
    """Causal video autoencoder that reconstructs what it saw and predicts what it did not.

    "Video Generation with Predictive Latents", arXiv 2605.02134.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.padding == "learnable":
            self.padding_token = nn.Parameter(torch.zeros(config.latent_channels))
            if config.patch_features:
                self.padding_token.data[-PLACE_CHANNELS:] = UNKNOWN

    def encode_step(self, x_BCTHW: Tensor, state: State | None = None) -> tuple[Posterior, State]:
        """Frames `[B, 3, T, H, W]` in [-1, 1] -> posterior `[B, C, t, H/16, W/16]`, next state."""
        moments, state = self.encoder(x_BCTHW, state)
        return Posterior.from_moments(moments), state

    def decode_step(self, z_BCTHW: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents `[B, C, t, h, w]` -> frames `[B, 3, T, 16h, 16w]`, next state."""
        x, state = self.decoder(z_BCTHW, state)
        return x, state

    def padding_latents(
        self,
        like_BCTHW: Tensor,
        groups: int,
        generator: torch.Generator | None = None,
        noise_BCkhw: Tensor | None = None,
    ) -> Tensor:
        """Latents that hold no information on the input: `[B, C, groups, h, w]`.

        The learned token at every position, or standard normal noise, given or drawn (paper,
        section "Predictive reconstruction").
        """
        B, C, _, h, w = like_BCTHW.shape
        shape = (B, C, groups, h, w)
        if self.config.padding == "learnable":
            return self.padding_token.to(like_BCTHW.dtype).view(1, C, 1, 1, 1).expand(shape)
        if noise_BCkhw is None:
            noise_BCkhw = torch.randn(
                shape, generator=generator, device=like_BCTHW.device, dtype=like_BCTHW.dtype
            )
        padding = noise_BCkhw.to(like_BCTHW, copy=True)
        if self.config.patch_features:
            padding[:, -PLACE_CHANNELS:] = UNKNOWN
        return padding

    def recompute_activations(self) -> PVVAE:
        """Trade time for memory in training: blocks keep only their inputs. Returns itself."""
        for module in self.modules():
            if isinstance(module, ResBlock):
                module.recompute = True
        return self

    def prepare_inference(self) -> PVVAE:
        """Freeze and apply the exact inference-time rewrites: folded upsampling, channels-last
        filters, cheaper forms of norms and of the patch code. Returns itself."""
        self.eval().requires_grad_(False)
        for parameter in self.parameters():
            layout = CHANNELS_LAST.get(parameter.dim(), torch.contiguous_format)
            parameter.data = parameter.contiguous(memory_format=layout)
        for module in self.modules():
            if isinstance(module, Upsample):
                module.plain = False
                module.fold()
            elif isinstance(module, RMSNorm | PatchDecoder | Extrapolation):
                module.fast = True
        return self

    def plain_(self) -> PVVAE:
        """Undo the rewrites: every operation by its definition, for comparisons. Returns itself."""
        for parameter in self.parameters():
            parameter.data = parameter.contiguous()
        for module in self.modules():
            if isinstance(module, Upsample):
                module.plain = True
            elif isinstance(module, RMSNorm | PatchDecoder | Extrapolation):
                module.fast = False
        return self
