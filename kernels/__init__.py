"""The operations PV-VAE is made of, one file each.

Each file holds the operation in plain PyTorch: the definition that any faster form is checked
against. Activations are `[B, C, T, H, W]`, in any memory format.
"""

from pvtok.kernels.causal_conv3d import causal_conv3d, channels_last, next_past
from pvtok.kernels.rms_norm import rms_norm, rms_norm_silu
from pvtok.kernels.upsample_conv import fold_upsample_weight, upsample_conv, upsample_conv_folded

__all__ = [
    "causal_conv3d",
    "channels_last",
    "fold_upsample_weight",
    "next_past",
    "rms_norm",
    "rms_norm_silu",
    "upsample_conv",
    "upsample_conv_folded",
]
