"""LPIPS: distance of deep features, weighted by people's judgements of likeness.

Source: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(arXiv 1801.03924), version 0.1. The calibrated layers are those that ship with torchmetrics (the
extra `lpips`), and a test holds the numbers against its implementation. That one is not used
itself: it needs torchvision, whose builds each fit one build of torch alone, and it fetches
backbones from the network. Backbones are here the files torchvision publishes; nothing is ever
fetched and nothing is ever random.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pvtok.checkpoint import file_sha256, misfit
from pvtok.errors import (
    CheckpointError,
    CorruptCheckpointError,
    MissingDependencyError,
    UsageError,
)

Net = Literal["vgg", "alex"]


@dataclass(frozen=True)
class Backbone:
    """A convolutional network up to its last compared layer, and where its weights are published.

    Weights are named as in torchvision: `features.N.weight`, N counting all layers.
    """

    file: str
    """Of torchvision's ImageNet weights; ends in the first digits of its SHA-256."""
    layers: tuple[tuple[int, ...], ...]
    """Convolutions as (channels, kernel, stride, padding), each with a ReLU; () is a max-pool."""
    pool: tuple[int, int]
    """Kernel and stride of max-pools."""
    compared: tuple[int, ...]
    """Which of the ReLUs' outputs are compared, counted from 0."""
    calibration_sha256: str
    """Of the calibrated layers' file: the same bytes in torchmetrics 1.4 to 1.9 and lpips 0.1.4."""

    @property
    def url(self) -> str:
        return f"https://download.pytorch.org/models/{self.file}"

    def build(self) -> nn.Sequential:
        """The layers without weights (on the meta device)."""
        modules: list[nn.Module] = []
        channels = 3
        with torch.device("meta"):
            for layer in self.layers:
                if not layer:
                    modules.append(nn.MaxPool2d(*self.pool))
                    continue
                width, kernel, stride, padding = layer
                modules += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU(True)]
                channels = width
        return nn.Sequential(*modules)


BACKBONES: dict[Net, Backbone] = {
    "vgg": Backbone(
        file="vgg16-397923af.pth",
        layers=(
            *[(64, 3, 1, 1)] * 2,
            (),
            *[(128, 3, 1, 1)] * 2,
            (),
            *[(256, 3, 1, 1)] * 3,
            (),
            *[(512, 3, 1, 1)] * 3,
            (),
            *[(512, 3, 1, 1)] * 3,
        ),
        pool=(2, 2),
        compared=(1, 3, 6, 9, 12),
        calibration_sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    "alex": Backbone(
        file="alexnet-owt-7be5be79.pth",
        layers=(
            (64, 11, 4, 2),
            (),
            (192, 5, 1, 2),
            (),
            (384, 3, 1, 1),
            (256, 3, 1, 1),
            (256, 3, 1, 1),
        ),
        pool=(3, 2),
        compared=(0, 1, 2, 3, 4),
        calibration_sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
}

SWITCH_OFF = "Or switch the term off with lpips = 0."


class PerceptualLoss(nn.Module):
    """Mean LPIPS over frames. Frozen: gradients reach the first argument only.

    Its weights come from files, so a training checkpoint need not hold them.

    Args:
        net: "vgg" or "alex".
        weights: the backbone's file, .pth or .safetensors; None is torch's hub cache, where
            torchvision would have put it.
        frames: how many frames of a clip are compared, drawn anew at each call; 0 is all.

    Raises:
        MissingDependencyError: the backbone's file or the extra `lpips` is not there.
        CorruptCheckpointError: a file is damaged.
        CheckpointError: the file holds another network.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, net: Net = "vgg", weights: str | os.PathLike[str] | None = None, frames: int = 0
    ) -> None:
        super().__init__()
        if net not in BACKBONES:
            raise UsageError(f"lpips_net = {net!r}", fix=f"Use {' or '.join(BACKBONES)}.")
        self.frames = frames
        calibration = _calibration(net)  # first: it is quick to read, a backbone is not
        self.backbone = BACKBONES[net].build()
        tensors = _backbone_weights(net, weights, self.backbone)
        self.backbone.load_state_dict(tensors, strict=True, assign=True)
        self.backbone.requires_grad_(False)
        self.layer_weights = nn.ParameterList(
            nn.Parameter(w, requires_grad=False) for w in calibration
        )
        # ImageNet's mean and standard deviation, moved from [0, 1] to [-1, 1] (v0.1 of LPIPS).
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        relus = [i for i, module in enumerate(self.backbone) if isinstance(module, nn.ReLU)]
        self.compared = {relus[i] for i in BACKBONES[net].compared}

    def forward(
        self, y_BCTHW: Tensor, x_BCTHW: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Scalar distance of two batches of clips `[B, 3, T, H, W]` in [-1, 1].

        In fp32 even under autocast: bf16 in the backbone adds noise of its own to the distance,
        1% of it at 32 dB and 15% at 46 dB.

        Args:
            generator: on the CPU; draws the frames, the same ones for all clips.
        """
        T = x_BCTHW.shape[2]
        if 0 < self.frames < T:
            drawn = torch.randperm(T, generator=generator)[: self.frames].to(x_BCTHW.device)
            y_BCTHW, x_BCTHW = y_BCTHW[:, :, drawn], x_BCTHW[:, :, drawn]
        with torch.autocast(x_BCTHW.device.type, enabled=False):
            with torch.no_grad():
                x_features = self._features(x_BCTHW)
            total = torch.zeros((), device=x_BCTHW.device)
            for weight, y_NCHW, x_NCHW in zip(
                self.layer_weights, self._features(y_BCTHW), x_features, strict=True
            ):
                total = total + (weight * (y_NCHW - x_NCHW).square()).sum(1).mean()
            return total

    def _features(self, x_BCTHW: Tensor) -> list[Tensor]:
        """Of every compared layer, scaled to unit length over channels: `[B*T, C, h, w]`."""
        h = (x_BCTHW.float().transpose(1, 2).flatten(0, 1) - self.shift) / self.scale
        features = []
        for i, module in enumerate(self.backbone):
            h = module(h)
            if i in self.compared:
                # Inside the root, so that its gradient is finite where all channels are 0.
                features.append(h * (h.square().sum(1, keepdim=True) + 1e-8).rsqrt())
        return features


def backbone_file(net: Net) -> Path:
    """Where the backbone's weights are looked for when no path is given."""
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net].file


def _backbone_weights(
    net: Net, weights: str | os.PathLike[str] | None, layers: nn.Sequential
) -> dict[str, Tensor]:
    """Read and check a backbone's file.

    The whole network's file will do, and so will its `features.*` alone. A name that ends in
    hexadecimal digits, as torchvision's do, is held against the file's SHA-256; under other names,
    such as those of converted files, names, shapes and finiteness are all that can be checked.
    """
    known = BACKBONES[net]
    path = backbone_file(net) if weights is None else Path(weights)
    if not path.is_file():
        raise MissingDependencyError(
            f"no weights of LPIPS's backbone at {path}",
            why="nothing is downloaded unasked",
            fix=f"Fetch {known.url} and put it there, or name the file in lpips_weights. "
            + SWITCH_OFF,
        )
    promised = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    if promised and not (sha256 := file_sha256(path)).startswith(promised[1]):
        raise CorruptCheckpointError(
            f"{path} is not what its name says",
            why=f"its SHA-256 begins with {sha256[: len(promised[1])]}, not {promised[1]}",
            fix=f"Fetch {known.url} again; a converted file needs a name without a hash.",
        )
    tensors = _read(path)
    wanted = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    held = {name: t for name, t in tensors.items() if not name.startswith("classifier.")}
    if wrong := misfit(wanted, held):
        raise CheckpointError(
            f"{path} holds another network than {net}",
            why=wrong,
            fix=f"lpips_net = {net!r} takes {known.url}.",
        )
    broken = sorted(name for name, tensor in held.items() if not tensor.isfinite().all())
    if broken:
        raise CorruptCheckpointError(f"{path} is damaged", why=f"not finite: {broken}")
    return {name.removeprefix("features."): tensor.float() for name, tensor in held.items()}


def _calibration(net: Net) -> list[Tensor]:
    """The calibrated weight of every channel, `[C, 1, 1]` for each compared layer."""
    install = "Install it with: pip install 'pvtok[lpips]'. " + SWITCH_OFF
    spec = importlib.util.find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "torchmetrics is missing", why="it holds LPIPS's calibrated layers", fix=install
        )
    path = Path(spec.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
    if not path.is_file() or file_sha256(path) != BACKBONES[net].calibration_sha256:
        raise MissingDependencyError(
            f"no calibrated layers of LPIPS at {path}",
            why="this version of torchmetrics does not hold those of LPIPS 0.1",
            fix=install,
        )
    tensors = _read(path)
    return [tensors[f"lin{i}.model.1.weight"][0] for i in range(len(tensors))]


def _read(path: Path) -> dict[str, Tensor]:
    """A file of named tensors, without running any code in it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        # Of the errors only their kind: their messages run over many lines, and torch's advise to
        # load the file unsafely.
        raise CorruptCheckpointError(
            f"{path} cannot be read ({type(error).__name__})",
            why="it is damaged, or no file of tensors",
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path} holds no tensors by name")
    return tensors
