"""A transform code of whole blocks beside the convolutions: linear maps that adapt to content.

Every 4x16x16 block of pixels is mapped to features by one linear map. Between features and latents
stand several experts, each a linear map of its own; the encoder takes the one that keeps most of a
block's energy (K-subspaces, Ho et al. 2003, CVPR), and two latent channels carry the expert's place
on a square grid. One place off the grid means that nothing is known of a block: its features are
predicted from those before it. The choice of experts as an architecture is ours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtok.kernels import channels_last
from pvtok.kernels.products import linear, matmul
from pvtok.model.resample import (
    Stride,
    cut_first_group,
    depth_to_space,
    fill_first_group,
    space_to_depth,
)
from pvtok.model.stream import Stream, StreamModule

PLACE_CHANNELS = 2
"""The last latent channels: where on the grid a block's expert stands."""
GRID_EDGE = 1.5
"""Places run from -1.5 to 1.5, so that these channels have about unit variance as the others."""
UNKNOWN = 4.0
"""The place of a block of which nothing is known, far off the grid."""
PAST = 2
"""Groups the extrapolation sees."""


def expert_places(experts: int, device: torch.device) -> Tensor:
    """`[K, 2]`: a square grid, row by row."""
    side = math.isqrt(experts)
    line = torch.linspace(-GRID_EDGE, GRID_EDGE, side, device=device)
    return torch.cartesian_prod(line, line)


def steps_per_unit(experts: int) -> float:
    """Expert places there are, along an axis of the grid, to a unit of its channel."""
    return (math.isqrt(experts) - 1) / (2 * GRID_EDGE)


def mixed_maps(x: Tensor, weights: Tensor, maps_KIO: Tensor) -> Tensor:
    """Mix what `K` linear maps give: `[..., I]` and weights `[..., K]` -> `[..., O]`."""
    both = (weights[..., :, None] * x[..., None, :]).flatten(-2)
    return matmul(both, maps_KIO.flatten(0, 1).to(both.dtype))


NO_WEIGHT = 2.0**-24
"""A share of a mix that fp32 rounds away."""


def sparsely_mixed_maps(x: Tensor, weights: Tensor, maps_KIO: Tensor) -> Tensor:
    """`mixed_maps` where few of the weights, which add up to one, are more than rounding: one
    product a map, of those rows that take part in it. What is computed depends on the data."""
    rows, shares = x.flatten(0, -2), weights.flatten(0, -2)
    maps, places = (shares.t() > NO_WEIGHT).nonzero(as_tuple=True)  # in order of maps
    parts = rows[places] * shares[places, maps, None]
    counts = torch.bincount(maps, minlength=len(maps_KIO)).tolist()
    products = [
        matmul(part, one.to(part.dtype))
        for part, one in zip(parts.split(counts), maps_KIO, strict=True)
    ]
    out = torch.zeros(len(rows), maps_KIO.shape[2], dtype=torch.float32, device=x.device)
    out.index_add_(0, places, torch.cat(products).float())
    mixed: Tensor = out.to(x.dtype).unflatten(0, x.shape[:-1])
    return mixed


def may_look(x: Tensor) -> bool:
    """Whether what is computed may depend on values: not in a graph, and on a GPU it would wait."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class PatchEncoder(nn.Module):
    """Pixels to features and latents. A stream's first frame is a block of itself, repeated."""

    def __init__(self, block: Stride, features: int, experts: int, latent_channels: int) -> None:
        super().__init__()
        self.block = block
        kept = latent_channels - PLACE_CHANNELS
        self.linear = nn.Linear(3 * math.prod(block), features)
        self.experts = nn.Parameter(torch.empty(experts, features, kept))
        nn.init.normal_(self.experts, std=features**-0.5)
        self.scale = nn.Parameter(torch.ones(kept))

    def forward(self, x_BCTHW: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """Frames `[B, 3, T, H, W]` -> features `[B, D, t, h, w]` and latents `[B, C, t, h, w]`."""
        blocks = space_to_depth(fill_first_group(x_BCTHW, self.block[0], stream), self.block)
        features = linear(blocks.movedim(1, -1), self.linear)
        K, D, kept = self.experts.shape
        flat = self.experts.permute(1, 0, 2).reshape(D, K * kept).to(features.dtype)
        code = matmul(features, flat).unflatten(-1, (K, kept))
        best = torch.linalg.vector_norm(code, dim=-1, dtype=torch.float32).argmax(-1)
        code = code.take_along_dim(best[..., None, None], dim=-2).squeeze(-2) / self.scale
        place = expert_places(K, best.device)[best].to(code.dtype)
        z = torch.cat([code, place], dim=-1)
        return features.movedim(-1, 1), z.movedim(-1, 1)


class PatchDecoder(nn.Module):
    """Latents to features, and features to pixels."""

    def __init__(self, block: Stride, features: int, experts: int, latent_channels: int) -> None:
        super().__init__()
        self.block = block
        kept = latent_channels - PLACE_CHANNELS
        self.experts = nn.Parameter(torch.empty(experts, kept, features))
        nn.init.normal_(self.experts, std=kept**-0.5)
        self.linear = nn.Linear(features, 3 * math.prod(block))
        self.fast = False
        """Leave experts out that weigh nothing; for inference. Set by `prepare_inference`."""
        # Neighbours on the grid share a place half way between them, and fade quickly off it.
        self.sharpness = 0.5 * (5 * steps_per_unit(experts)) ** 2

    def features(self, z_BCTHW: Tensor) -> Tensor:
        """Latents `[B, C, t, h, w]` -> features `[B, D, t, h, w]`."""
        z = z_BCTHW.movedim(1, -1)
        code, place = z[..., :-PLACE_CHANNELS], z[..., -PLACE_CHANNELS:].float()
        places = expert_places(len(self.experts), z.device)
        distance = (place[..., None, :] - places).square().sum(-1)
        weights = torch.softmax(-self.sharpness * distance, dim=-1).to(z.dtype)
        mixed = sparsely_mixed_maps if self.fast and may_look(z) else mixed_maps
        return mixed(code, weights, self.experts).movedim(-1, 1)

    def forward(self, features_BDTHW: Tensor, stream: Stream) -> Tensor:
        """Features `[B, D, t, h, w]` -> frames `[B, 3, T, 16h, 16w]`."""
        blocks = linear(features_BDTHW.movedim(1, -1), self.linear).movedim(-1, 1)
        return cut_first_group(depth_to_space(blocks, self.block), self.block[0], stream)


class Extrapolation(StreamModule):
    """Puts features in the place of unknown blocks, from the two groups before; goes on from its
    own predictions where several groups are unknown. Known blocks pass unchanged.

    A linear map says what a block's features let expect of the same place a group later; it is
    corrected by one map for each row of the experts' grid (how much a block moves within its group
    says how far it can be foreseen) and by a small network that sees the neighbours.
    """

    SEEN = 64
    """Leading features the network sees of two groups and all neighbours."""
    WIDTH = 96
    LEADING = 128
    """Leading features that the rows' maps change."""

    def __init__(self, features: int, experts: int, latent_channels: int) -> None:
        super().__init__()
        self.steps = steps_per_unit(experts)
        seen, leading = min(self.SEEN, features), min(self.LEADING, features)
        self.repeat = nn.Linear(features, features)
        self.rows = nn.Parameter(torch.zeros(math.isqrt(experts), leading + 1, leading))
        """The last input of each map is 1."""
        self.around = nn.Conv2d(PAST * seen, self.WIDTH, 3, padding=1)
        self.token = nn.Conv2d(latent_channels, self.WIDTH, 1, bias=False)
        self.mix = nn.Conv2d(self.WIDTH, self.WIDTH, 3, padding=1)
        self.out = nn.Conv2d(self.WIDTH, features, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        self.fast = False
        """Predict nothing where every block is known: not in training, where the gradients of all
        processes must be there. Set by `prepare_inference`."""

    def forward(self, features_BDTHW: Tensor, z_BCTHW: Tensor, stream: Stream) -> Tensor:
        """Features and the latents they came from -> features `[B, D, t, h, w]`."""
        place = z_BCTHW[:, -PLACE_CHANNELS:]
        unknown = (place.float() > (GRID_EDGE + UNKNOWN) / 2).all(1, keepdim=True)
        # A block that is not known moves as it did when it last was: rows are kept with features.
        both = torch.cat([features_BDTHW, place[:, :1].to(features_BDTHW.dtype)], dim=1)
        kept = stream.past(self)
        none = torch.zeros_like(both[:, :, 0])
        past = [none] * PAST if kept is None else list(kept.unbind(2))
        look = self.fast and may_look(z_BCTHW)
        for t, known in enumerate(both.unbind(2)):
            if look and not bool(unknown[:, :, t].any()):
                past.append(known)
                continue
            before, last = past[-2:]
            predicted = self.next(before[:, :-1], last[:, :-1], last[:, -1], z_BCTHW[:, :, t])
            predicted = torch.cat([predicted.to(known.dtype), last[:, -1:]], dim=1)
            past.append(torch.where(unknown[:, :, t], predicted, known))
        stream.keep(self, torch.stack(past[-PAST:], dim=2).contiguous())
        features = torch.stack(past[PAST:], dim=2)[:, :-1]
        if channels_last(features_BDTHW):
            features = features.contiguous(memory_format=torch.channels_last_3d)
        return features

    def next(
        self, before_BDhw: Tensor, last_BDhw: Tensor, row_Bhw: Tensor, z_BChw: Tensor
    ) -> Tensor:
        """Features of the group after `last`, for padding latents `z`."""
        seen, leading = self.around.in_channels // PAST, self.rows.shape[2]
        last = last_BDhw.movedim(1, -1)
        linear_part = linear(last, self.repeat)
        row = (row_Bhw.float() + GRID_EDGE) * self.steps
        row = row.round().long().clamp(0, len(self.rows) - 1)  # of NaN, too, a number
        chosen = F.one_hot(row, len(self.rows)).to(last.dtype)
        ahead = mixed_maps(F.pad(last[..., :leading], (0, 1), value=1.0), chosen, self.rows)
        ahead = F.pad(ahead, (0, linear_part.shape[-1] - leading))
        linear_part = (linear_part + ahead).movedim(-1, 1)
        h = torch.cat([before_BDhw[:, :seen], last_BDhw[:, :seen]], dim=1)
        h = F.silu(self.around(h) + self.token(z_BChw))
        h = F.silu(self.mix(h))
        out: Tensor = linear_part + self.out(h)
        return out
