"""Products by PyTorch's libraries, and what stands in where a CPU has none for fp16."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def convolve(
    convolution: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...] | int = 1,
    padding: tuple[int, ...] | int = 0,
) -> Tensor:
    """`F.conv2d` or `F.conv3d`."""
    if not widened(x):
        return convolution(x, weight, bias, stride, padding)
    wide_bias = None if bias is None else bias.float()
    return convolution(x.float(), weight.float(), wide_bias, stride, padding).to(x.dtype)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """`x @ y`."""
    return (x.float() @ y.float()).to(x.dtype) if widened(x) else x @ y


def linear(x: Tensor, module: nn.Linear) -> Tensor:
    """`module(x)`, as one product of matrices: of more axes torch makes a batch of them, with as
    many copies of the weights, where `x` is not contiguous."""
    rows = x.reshape(-1, x.shape[-1])
    product: Tensor
    if widened(x):
        product = matmul(rows, module.weight.t())
        product = product if module.bias is None else product + module.bias
    else:
        product = module(rows)
    return product.view(*x.shape[:-1], -1)


def widened(x: Tensor) -> bool:
    """Whether products of `x` are taken in fp32: of fp16 on a CPU that cannot multiply it, where
    torch's own ways are tens to hundreds of times slower. Values and results are fp16 all the
    same."""
    return x.dtype == torch.float16 and x.device.type == "cpu" and not _native_fp16()


def _native_fp16() -> bool:
    probe = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    return probe is not None and bool(probe())
