"""Fit a model's patch code to data, so that training begins at an adaptive transform codec.

Principal components of pixel blocks give the features; K-subspaces (Ho et al. 2003, CVPR; Lloyd's
alternation of assignment and principal components) gives the experts. Both weigh every block by the
inverse error of its frames, so that what is minimised is the mean of log errors, that of mean PSNR.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pvtok.configs import ModelConfig
from pvtok.model import PVVAE
from pvtok.model.patch_code import PLACE_CHANNELS, Extrapolation
from pvtok.model.resample import space_to_depth
from pvtok.training.data import to_signed
from pvtok.training.losses import RELATIVE_FLOOR

RIDGE = 1e-3
STILL_SHARE = 16
"""One in so many blocks stands still, as the first frame of every clip does."""


@dataclass(frozen=True)
class Blocks:
    """A sample of blocks in the coordinates of their principal components."""

    mean: Tensor  # [P] of pixels
    basis: Tensor  # [P, D], orthonormal columns, strongest first
    features: Tensor  # [N, D]
    beyond: Tensor  # [N], squared length outside the basis
    picture: Tensor  # [N], which group of frames a block is from
    followed: Tensor  # [N], the row of the same place one group later, or -1


@dataclass(frozen=True)
class PatchFit:
    """Parameters of a patch code."""

    mean: Tensor  # [P]
    basis: Tensor  # [P, D]
    experts: Tensor  # [K, D, C - 2], orthonormal columns
    scale: Tensor  # [C - 2]
    repeat: Tensor  # [D + 1, D], features and 1 -> expected features one group later
    rows: Tensor  # [rows, L + 1, L], what each row of the grid adds to the leading ones


def fit_patch_code(
    clips: Iterable[Tensor], config: ModelConfig, *, rounds: int = 3, seed: int = 0
) -> PatchFit:
    """Fit to clips.

    Args:
        clips: uint8 `[3, 9, S, S]` each: a still group and two that follow each other.
        config: of a model with a patch code; gives the sizes.
        rounds: alternations for each number of experts on the way up, and on all blocks.
    """
    block, features, experts = config.block, config.patch_features, config.patch_experts
    kept = config.latent_channels - PLACE_CHANNELS
    generator = torch.Generator().manual_seed(seed)
    sample = _sample_blocks(clips, block, features, generator)
    bases = _fit_experts(sample, experts, kept, rounds, generator)
    bases = _align(bases)
    bases = bases[_grid_order(bases, sample, block)]
    square, coded, chosen = torch.zeros(kept), [], []
    for y in sample.features.split(8192):
        code, best = _best(y.float(), bases)
        square += code.square().sum(0)
        chosen.append(best)
        coded.append(torch.empty(len(y), features))
        for k in best.unique().tolist():
            coded[-1][best == k] = code[best == k] @ bases[k].T
    scale = (square / len(sample.features)).sqrt()
    row = torch.cat(chosen) // math.isqrt(experts)
    repeat, rows = _fit_repeat(sample, torch.cat(coded), row, math.isqrt(experts))
    return PatchFit(sample.mean, sample.basis, bases, scale, repeat, rows)


@torch.no_grad()
def start_fitted(model: PVVAE, fit: PatchFit) -> None:
    """Make an untrained model equal the fitted code; all beside it starts as zero or identity."""
    encoder, decoder = model.encoder, model.decoder
    if encoder.patch is None or decoder.patch is None:
        raise ValueError(f"model {model.config.name!r} has no patch code")
    encoder.patch.linear.weight.copy_(fit.basis.T)
    encoder.patch.linear.bias.copy_(-(fit.mean @ fit.basis))
    encoder.patch.experts.copy_(fit.experts)
    encoder.patch.scale.copy_(fit.scale)
    decoder.patch.experts.copy_(fit.experts.transpose(1, 2) * fit.scale[:, None])
    decoder.patch.linear.weight.copy_(fit.basis)
    decoder.patch.linear.bias.copy_(fit.mean)
    decoder.extrapolation.repeat.weight.copy_(fit.repeat[:-1].T)
    decoder.extrapolation.repeat.bias.copy_(fit.repeat[-1])
    decoder.extrapolation.rows.copy_(fit.rows)
    encoder.conv_out.zero_()
    decoder.conv_out.zero_()


def _sample_blocks(
    clips: Iterable[Tensor], block: tuple[int, int, int], features: int, generator: torch.Generator
) -> Blocks:
    """Half the blocks of every clip's two moving groups, and a few still ones."""
    pixels, picture, followed, count = [], [], [], 0
    for number, clip in enumerate(clips):
        still = clip[:, :1].expand(-1, block[0], -1, -1)
        groups = [still, clip[:, 1:5], clip[:, 5:9]]
        rows = [space_to_depth(g[None], block)[0].flatten(1).T for g in groups]
        places = torch.randperm(len(rows[0]), generator=generator)
        some, few = places[: len(places) // 2], places[: max(1, len(places) // STILL_SHARE)]
        n = len(some)
        for g, chosen in enumerate((few, some, some)):
            pixels.append(rows[g][chosen].clone())
            picture.append(torch.full((len(chosen),), 3 * number + g))
        followed += [
            torch.full((len(few),), -1),
            torch.arange(n) + count + len(few) + n,
            torch.full((n,), -1),
        ]
        count += len(few) + 2 * n
    if not pixels:
        raise ValueError("no clips to fit to")
    P = pixels[0].shape[1]
    total, outer = torch.zeros(P).double(), torch.zeros(P, P).double()
    chunks = list(torch.cat(pixels).split(16384))
    for chunk in chunks:
        x = to_signed(chunk)
        total += x.sum(0).double()
        outer += (x.T @ x).double()
    mean = total / count
    _, vectors = torch.linalg.eigh((outer / count - torch.outer(mean, mean)).float())
    basis = vectors.flip(1)[:, :features].contiguous()
    reduced, beyond = [], []
    for chunk in chunks:
        x = to_signed(chunk) - mean.float()
        y = x @ basis
        reduced.append(y.half())
        beyond.append((x.square().sum(1) - y.square().sum(1)).clamp(min=0))
    return Blocks(
        mean.float(),
        basis,
        torch.cat(reduced),
        torch.cat(beyond),
        torch.cat(picture),
        torch.cat(followed),
    )


def _best(y_ND: Tensor, bases_KDq: Tensor) -> tuple[Tensor, Tensor]:
    """Every row's code in the subspace that keeps most of it, and which that is."""
    K, D, q = bases_KDq.shape
    code = (y_ND @ bases_KDq.permute(1, 0, 2).reshape(D, K * q)).view(-1, K, q)
    chosen = code.square().sum(2).argmax(1)
    return code[torch.arange(len(code)), chosen], chosen


def _fit_experts(
    blocks: Blocks, experts: int, kept: int, rounds: int, generator: torch.Generator
) -> Tensor:
    """Grow from one subspace by halving every class, on part of the sample; end on all of it."""
    few = torch.randperm(len(blocks.features), generator=generator)[: 2000 * experts]
    bases = torch.eye(blocks.features.shape[1])[None, :, :kept]
    classes = torch.zeros(len(few), dtype=torch.long)
    while len(bases) < experts:
        classes = _halve(blocks.features[few], classes, len(bases), generator)
        bases = _components(
            blocks.features[few], torch.ones(len(few)), classes, 2 * len(bases), kept
        )
        if len(bases) > experts:  # halving passes a square number that is no power of two
            bases = bases[:experts]
        for _ in range(rounds):
            bases, classes = _alternate(blocks, few, bases, generator)
    everything = torch.arange(len(blocks.features))
    for _ in range(rounds):
        bases, _ = _alternate(blocks, everything, bases, generator)
    return bases


def _alternate(
    blocks: Blocks, rows: Tensor, bases: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Assign every row to its best subspace, then every subspace to its rows."""
    features = blocks.features[rows]
    error, chosen = [], []
    for y in features.split(4096):
        code, best = _best(y.float(), bases)
        error.append(y.float().square().sum(1) - code.square().sum(1))
        chosen.append(best)
    classes = torch.cat(chosen)
    left = torch.cat(error).clamp(min=0) + blocks.beyond[rows]
    weights = _weights(left, blocks.picture[rows], len(blocks.basis))
    sizes = torch.bincount(classes, minlength=len(bases))
    for empty in (sizes < len(rows) / len(bases) / 8).nonzero()[:, 0].tolist():
        largest = (classes == int(sizes.argmax())).nonzero()[:, 0]
        moved = largest[torch.rand(len(largest), generator=generator) < 0.5]
        classes[moved] = empty
        sizes = torch.bincount(classes, minlength=len(bases))
    return _components(features, weights, classes, len(bases), bases.shape[2]), classes


def _components(
    features: Tensor, weights: Tensor, classes: Tensor, experts: int, kept: int
) -> Tensor:
    """Leading principal directions (through the common mean) of every class, `[K, D, q]`."""
    D = features.shape[1]
    bases = []
    for k in range(experts):
        rows = (classes == k).nonzero()[:, 0]
        y = features[rows].float()
        w = weights[rows] / weights[rows].mean().clamp(min=1e-12)
        # A little of the whole's order breaks ties where a class has few rows.
        prior = torch.diag(torch.linspace(1e-3, 1e-4, D))
        _, vectors = torch.linalg.eigh((y * w[:, None]).T @ y + prior)
        bases.append(vectors.flip(1)[:, :kept])
    return torch.stack(bases).contiguous()


def _halve(features: Tensor, classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Split every class at the median of the main direction of its log energies."""
    halves = 2 * classes
    for k in range(count):
        rows = (classes == k).nonzero()[:, 0]
        if len(rows) < 2:
            continue
        energy = (features[rows, :256].float().square() + 1e-3).log()
        energy = energy - energy.mean(0)
        direction = torch.randn(energy.shape[1], generator=generator)
        for _ in range(10):  # power iteration
            direction = energy.T @ (energy @ direction)
            direction /= direction.norm() + 1e-12
        along = energy @ direction
        halves[rows] += (along > along.median()).long()
    return halves


def _align(bases_KDq: Tensor) -> Tensor:
    """Turn every basis within its subspace to lie closest to the leading features (orthogonal
    Procrustes), so that a latent channel means about the same in all experts."""
    kept = bases_KDq.shape[2]
    u, _, vh = torch.linalg.svd(bases_KDq[:, :kept].transpose(1, 2))
    aligned: Tensor = bases_KDq @ (u @ vh)
    return aligned


def _grid_order(bases_KDq: Tensor, blocks: Blocks, block: tuple[int, int, int]) -> Tensor:
    """Rows of the grid by how much of a subspace is change in time, columns by detail."""
    K, _, q = bases_KDq.shape
    side = math.isqrt(K)
    pixels = (blocks.basis @ bases_KDq).view(K, 3, *block, q)
    change = (pixels - pixels.mean(2, keepdim=True)).square().sum((1, 2, 3, 4, 5))
    detail = pixels.diff(dim=3).square().sum((1, 2, 3, 4, 5))
    rows = change.argsort().view(side, side)
    return torch.cat([row[detail[row].argsort()] for row in rows])


def _fit_repeat(
    blocks: Blocks, coded_ND: Tensor, row_N: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    """Least squares from a block's coded features to the true ones a group later: `[D + 1, D]` for
    all, and what to add to it in each row of the grid, `[rows, L + 1, L]`."""
    chosen = (blocks.followed >= 0).nonzero()[:, 0]
    x, y = F.pad(coded_ND[chosen], (0, 1), value=1.0), blocks.features[blocks.followed[chosen]]
    error = (x[:, :-1] - y).square().sum(1)
    w = _weights(error, blocks.picture[chosen], len(blocks.basis))
    repeat = _least_squares(x, y.float(), w, RIDGE)
    L = min(Extrapolation.LEADING, coded_ND.shape[1])
    left = y[:, :L] - x @ repeat[:, :L]
    x = torch.cat([x[:, :L], x[:, -1:]], dim=1)
    corrections = torch.zeros(rows, L + 1, L)
    for row in range(rows):
        here = row_N[chosen] == row
        if here.sum() > L:
            corrections[row] = _least_squares(x[here], left[here], w[here], 10 * RIDGE)
    return repeat, corrections


def _least_squares(x: Tensor, y: Tensor, w: Tensor, ridge: float) -> Tensor:
    """The matrix that minimises `w |x @ matrix - y|^2`, drawn a little to zero."""
    left = (x * w[:, None]).T @ x / len(x) + ridge * torch.eye(x.shape[1])
    matrix: Tensor = torch.linalg.solve(left, (x * w[:, None]).T @ y / len(x))
    return matrix


def _weights(error: Tensor, picture: Tensor, pixels: int) -> Tensor:
    """One over the mean error of the picture a block is from, with mean 1."""
    count = torch.bincount(picture).clamp(min=1)
    per_picture = torch.zeros(len(count)).index_add_(0, picture, error) / count
    weights = 1 / (per_picture / pixels + RELATIVE_FLOOR)[picture]
    return weights / weights.mean()
