"""Which backend runs a model on a device."""

from __future__ import annotations

from typing import Literal

import torch

from pvtok.errors import MissingDependencyError, UsageError
from pvtok.kernels.available import measured, obstacle
from pvtok.model import PVVAE
from pvtok.steps import Steps, TorchSteps

Kernels = Literal["auto", "triton", "torch"]


def steps_for(net: PVVAE, device: torch.device, kernels: Kernels = "auto") -> Steps:
    """The steps of a model that is on `device` and prepared for inference.

    Args:
        kernels: "triton" for our kernels, "torch" for PyTorch's operations. "auto" takes the
            kernels on GPUs that they have been checked and measured on (those with a table in
            `kernels/tiles.json`), and PyTorch elsewhere.

    Raises:
        MissingDependencyError: the kernels cannot run here.
        UsageError: another name.
    """
    if kernels not in ("auto", "triton", "torch"):
        raise UsageError(f"kernels {kernels!r}", fix="Use auto, triton or torch.")
    against = obstacle(device, net.encoder.conv_in.weight.dtype)
    if kernels == "triton" and against:
        raise MissingDependencyError(
            "kernels 'triton'", why=against, fix="Use 'auto' or 'torch', or see 'pvtok doctor'."
        )
    if kernels == "triton" or (kernels == "auto" and not against and measured(device)):
        from pvtok.model.halo import HaloSteps

        return HaloSteps(net)
    return TorchSteps(net)
