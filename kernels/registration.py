"""What all operations share: output buffers, descriptors, and their registration with PyTorch."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from pvtok.kernels.tiles import Tile

# Whether a multiplication and an addition may round once is a default that Triton 3.10 changes: the
# kernels are checked as it has been, fused.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

MAX_ROWS = 2**31 - 1
"""Rows are counted in 32 bits; elements, rows times channels, in 64."""


@dataclass(frozen=True)
class Buffers:
    """Where an operation writes: see `halo.finish_reference`. None for what was not asked for."""

    out: Tensor
    raw: Tensor | None
    keep: Tensor | None

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """As an operator must give them back: empty tensors in place of None."""
        return (
            self.out,
            self.out.new_empty(0) if self.raw is None else self.raw,
            self.out.new_empty(0) if self.keep is None else self.keep,
        )


def buffers(
    like: Tensor, shape: tuple[int, int, int, int, int], front: int, keep: int, raw: bool
) -> Buffers:
    """Uninitialised outputs for a result of `shape` `(B, T, H+1, W+1, C)` of the input `like`.

    Raises:
        ValueError: the input's memory is not contiguous, or rows are too many to be counted.
    """
    B, T, H1, W1, C = shape
    if not like.is_contiguous():
        raise ValueError(f"an input of strides {like.stride()}: the kernels read contiguous memory")
    for rows in (B * (front + T) * H1 * W1, math.prod(like.shape[:-1])):
        if rows > MAX_ROWS:
            raise ValueError(f"{rows} positions are more than {MAX_ROWS}")
    return Buffers(
        like.new_empty(B, front + T, H1, W1, C),
        like.new_empty(B, T, H1, W1, C) if raw else None,
        like.new_empty(B, keep, H1, W1, C) if keep else None,
    )


def descriptor(rows_RC: Tensor, block: tuple[int, int]) -> TensorDescriptor:
    """A matrix to be read in boxes; what lies outside reads as zero."""
    return TensorDescriptor.from_tensor(rows_RC, list(block))


def boxes(frames: Tensor | None, tile: Tile) -> TensorDescriptor | None:
    """Frames `[B, K, H+1, W+1, C]`, to be read or written in tiles of rows of a batch item."""
    if frames is None:
        return None
    B, C = frames.shape[0], frames.shape[-1]
    return TensorDescriptor.from_tensor(frames.view(B, -1, C), [1, tile.m, tile.n])


def register(
    schema: str,
    launch: Callable[..., Any],
    reference: Callable[..., Any],
    fake: Callable[..., Any],
) -> Any:
    """Make `launch` a PyTorch operator that can be traced, compiled and differentiated.

    Gradients are those of `reference`, computed again from the inputs: its convolutions have
    library kernels for their gradients, which no kernel of ours would beat.
    """
    name, rest = schema.split("(", 1)

    def on_its_device(first: Tensor, *others: Any) -> Any:
        """Triton launches on the current GPU, whichever the tensors are on."""
        with torch.cuda.device_of(first):
            return launch(first, *others)

    operator = torch.library.custom_op(
        f"pvtok::{name}", on_its_device, mutates_args=(), schema=f"({rest}"
    )
    operator.register_fake(fake)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.places = [i for i, v in enumerate(inputs) if isinstance(v, Tensor)]
        ctx.others = [None if isinstance(v, Tensor) else v for v in inputs]
        ctx.save_for_backward(*(inputs[i] for i in ctx.places))

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs = list(ctx.others)
        wanted = []
        with torch.enable_grad():
            for i, saved in zip(ctx.places, ctx.saved_tensors, strict=True):
                inputs[i] = saved.detach().requires_grad_(ctx.needs_input_grad[i])
                if ctx.needs_input_grad[i]:
                    wanted.append(i)
            outputs = reference(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            pairs = [
                (o, g)
                for o, g in zip(outputs, grads, strict=True)
                if g is not None and o.requires_grad
            ]
            found = torch.autograd.grad(
                [o for o, _ in pairs],
                [inputs[i] for i in wanted],
                [g for _, g in pairs],
                allow_unused=True,
            )
        result: list[Tensor | None] = [None] * len(inputs)
        for i, grad in zip(wanted, found, strict=True):
            result[i] = grad
        return tuple(result)

    operator.register_autograd(backward, setup_context=setup_context)
    return operator
