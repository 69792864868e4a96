"""Addresses beyond 2^31 elements."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from pvtok.kernels.halo_conv import conv
from pvtok.kernels.halo_down import down
from pvtok.kernels.halo_norm import norm
from pvtok.kernels.halo_pixels import pixels_in, pixels_out
from pvtok.kernels.halo_shortcut import shortcut
from pvtok.kernels.halo_up import up
from tests.kernels.halo_cases import DEVICE, ON_GPU, Inputs

COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pvtok.kernels import halo_down, halo_pixels, halo_shortcut, halo_up

BM, BN, BK = 32, 16, 16
CONSTANTS = dict(BM=BM, BN=BN, BK=BK, C=16, O=16, KT=3, ST=2, K=2, KEEP=2, PT=2, REPEATS=2,
                 AVERAGED=4, P=2, BLOCK=128, PRECISION="ieee")

def kind(kernel, name):
    if name in CONSTANTS:
        return "constexpr"
    if name.endswith("_desc"):
        block = {"w_desc": [BK, BN], "x_desc": [BM, BK]}.get(name, [1, BM, BN])
        return f"tensordesc<fp16{block}>"
    if name.endswith("_ptr"):
        return {"bias_ptr": "*fp32", "gain_ptr": "*fp32", "frames_ptr": "*u8"}.get(name, "*fp16")
    return "fp32" if name == "eps" else "i32"

for kernel in (halo_down.down_kernel, halo_up.up_kernel, halo_shortcut.shortcut_kernel,
               halo_pixels.pixels_in_kernel, halo_pixels.pixels_out_kernel):
    names = kernel.arg_names
    constants = {(i,): CONSTANTS[n] for i, n in enumerate(names) if n in CONSTANTS}
    source = ASTSource(kernel, {n: kind(kernel, n) for n in names}, constants)
    print("KERNEL", kernel.__name__)
    print(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ttir"])
"""


@pytest.fixture(scope="module")
def intermediate_code() -> dict[str, str]:
    """Kernels as compiled for a GPU, in Triton's hardware-independent form."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    sections = done.stdout.split("KERNEL ")[1:]
    return dict(section.split("\n", 1) for section in sections)


@pytest.mark.parametrize(
    "kernel",
    ["down_kernel", "up_kernel", "shortcut_kernel", "pixels_in_kernel", "pixels_out_kernel"],
)
def test_offsets_that_grow_with_the_video_are_64_bit(
    kernel: str, intermediate_code: dict[str, str]
) -> None:
    code = intermediate_code[kernel]
    made_by = {
        name: (operation, re.findall(r"%[\w#]+", rest))
        for name, operation, rest in re.findall(r"(%\w+) = ([\w.]+)(.*)", code)
    }

    @functools.cache
    def bounded(value: str) -> bool:
        """Whether it cannot grow with the video: no size and no program number goes into it, but
        for remainders. A channel's number is such a value."""
        operation, operands = made_by.get(value, ("an argument or a loop's", []))
        if operation.startswith("an argument") or operation == "tt.get_program_id":
            return False
        return bounded(operands[1]) if operation == "arith.remsi" else all(map(bounded, operands))

    offsets = re.findall(
        r"tt\.addptr %[\w#]+, (%[\w#]+) : .*!tt\.ptr<(\w+)>>?, (?:tensor<[\dx]*)?(i\d+)", code
    )
    assert len(offsets) == code.count("tt.addptr ")
    into_activations = [(value, width) for value, to, width in offsets if to != "f32"]
    assert any(width == "i64" for _, width in into_activations)
    narrow = [value for value, width in into_activations if width != "i64"]
    assert all(map(bounded, narrow))


def _conv(x: Tensor, i: Inputs) -> Tensor:
    return conv(**i.conv(taps=(1, 3)) | {"x": x})[0]


def _down(x: Tensor, i: Inputs) -> Tensor:
    return down(**i.down(time=False) | {"x": x})[0]


def _up(x: Tensor, i: Inputs) -> Tensor:
    return up(**i.up(time=False, shortcut=True) | {"x": x})[0]


def _norm(x: Tensor, i: Inputs) -> Tensor:
    return norm(**i.norm() | {"x": x})[0]


def _shortcut(x: Tensor, i: Inputs) -> Tensor:
    return shortcut(x, 16, 0, 1, 4, False)


def _pixels(x: Tensor, i: Inputs) -> Tensor:
    frames = pixels_out(x, None, 0, 2)
    return pixels_in(frames, None, 2, 2, 0, 0, x.dtype)[0]


@pytest.mark.skipif(
    not ON_GPU or torch.cuda.mem_get_info()[0] < 2**35, reason="needs 32 GiB of GPU memory"
)
@pytest.mark.parametrize("operation", [_conv, _down, _up, _norm, _shortcut, _pixels])
def test_what_lies_beyond_2_31_elements(operation: Callable[[Tensor, Inputs], Tensor]) -> None:
    """No operation here looks back in time: the last frame is as if it were alone."""
    frames, side = (2160, 256) if operation is _up else (540, 512)
    assert_the_last_frame_is_right(operation, frames, side)


def assert_the_last_frame_is_right(
    operation: Callable[[Tensor, Inputs], Tensor], frames: int, side: int
) -> None:
    inputs = Inputs(torch.float16)
    x = torch.zeros(1, frames, side + 1, side + 1, 16, dtype=torch.float16, device=DEVICE)
    x[:, -1, :-1, :-1] = inputs.normal(side, side, 16)
    alone = operation(x[:, -1:].clone(), Inputs(torch.float16))
    whole = operation(x, Inputs(torch.float16))
    assert bool(alone.any())
    assert torch.equal(whole[:, -1:], alone)
