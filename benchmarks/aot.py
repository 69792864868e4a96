"""Compile every kernel that the presets launch, for GPUs that need not be here, and read the code.

    python benchmarks/aot.py [--presets tiny,base,paper] [--dtypes bf16,fp32] [--save]

Each launch of a preset's first and steady steps at 17 and 16 frames of 256x256 is compiled ahead of
time, with the tile that would be used there. From the machine code: registers a thread, spilled
values, shared memory, tensor-core and bulk-copy instructions. Exits 1 where anything is spilled,
does not fit, or runs its products elsewhere than on the tensor cores. Rows go to
`results/aot_39.jsonl` for Triton 3.9, and `render.py` shows them in
docs/kernels.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import rows
import torch
import triton
from launches import DTYPES, LAUNCHES, calls
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from pvtok.kernels import (
    halo_conv,
    halo_down,
    halo_norm,
    halo_pixels,
    halo_shortcut,
    halo_up,
    tiles,
)

TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.uint8: "u8",
}
SHARED_LIMIT = {80: 101_376, 90: 232_448}
"""Bytes a block may have: of compute capability 9.0, and of the least of 8.x (8.6 and 8.9)."""
KERNELS = [
    (halo_conv, "conv_kernel"),
    (halo_down, "down_kernel"),
    (halo_up, "up_kernel"),
    (halo_shortcut, "shortcut_kernel"),
    (halo_norm, "norm_kernel"),
    (halo_pixels, "pixels_in_kernel"),
    (halo_pixels, "pixels_out_kernel"),
]
OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Launch:
    """A kernel with its argument types, constants and options."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[int, Any], ...]
    options: tuple[tuple[str, int], ...]

    def name(self) -> str:
        """The operation, its channels and taps, and what it does besides."""
        constants = {self.kernel.arg_names[i]: v for i, v in self.constants}
        passed = {name for name, _ in self.signature} - set(constants)
        what = f"{constants['C']}->{constants['O']}" if "O" in constants else str(constants["C"])
        parts = [self.kernel.__name__.removesuffix("_kernel"), what]
        if "KT" in constants:
            space = constants.get("KS", 3)
            parts.append(f"{constants['KT']}x{space}x{space}")
        parts += [f"time x{constants[name]}" for name in ("PT", "ST") if name in constants]
        named = {"residual_desc": "residual", "gain_ptr": "norm", "raw_desc": "raw"}
        named |= {"raw_ptr": "raw", "past_desc": "past", "past_ptr": "past"}
        parts += [text for name, text in named.items() if name in passed]
        return " ".join(parts)


class Recorder:
    """Stands in for a kernel and notes its launches."""

    def __init__(self, kernel: Any, launches: dict[Launch, None]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **named: Any) -> None:
            options = tuple((o, named.pop(o)) for o in OPTIONS if o in named)
            given = dict(zip(self.kernel.arg_names, args, strict=False)) | named
            signature, constants = [], []
            for i, name in enumerate(self.kernel.arg_names):
                value = given[name]
                if name in named or value is None:
                    signature.append((name, "constexpr"))
                    constants.append((i, value))
                else:
                    signature.append((name, type_of(value)))
            found = Launch(self.kernel, tuple(signature), tuple(constants), options)
            self.launches[found] = None

        return launch


def type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{TYPES[value.base.dtype]}{list(value.block_shape)}>"
    return "fp32" if isinstance(value, float) else "i32"


def launches(preset: str, dtype: torch.dtype, capability: tuple[int, int]) -> list[Launch]:
    """Every distinct launch of a preset's first and steady steps on such a GPU."""
    found: dict[Launch, None] = {}
    saved = [(module, name, getattr(module, name)) for module, name in KERNELS]
    saved.append((tiles, "gpu_of", tiles.gpu_of))
    wanted = calls(preset, dtype)
    try:
        for module, name in KERNELS:
            setattr(module, name, Recorder(getattr(module, name), found))
        tiles.gpu_of = lambda device: tiles.Gpu("", capability)
        for call in wanted:
            LAUNCHES[call.op](*call.args)
    finally:
        for module, name, value in saved:
            setattr(module, name, value)
    return list(found)


def inspect(launch: Launch, target: int) -> dict[str, Any]:
    """Compile for a compute capability and read the machine code."""
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, (_, kind) in enumerate(launch.signature)
        if kind.startswith("*")
    }
    source = ASTSource(
        launch.kernel,
        dict(launch.signature),
        {(i,): value for i, value in launch.constants},
        attributes,
    )
    kernel = triton.compile(
        source, target=GPUTarget("cuda", target, 32), options=dict(launch.options)
    )
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()

        def read(what: str) -> str:
            command = [str(tools / "cuobjdump"), what, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage, code = read("-res-usage"), read("-sass")
    constants = {launch.kernel.arg_names[i]: v for i, v in launch.constants}
    return {
        "kernel": launch.name(),
        "target": f"sm_{target}",
        "tile": "x".join(str(constants[n]) for n in ("BM", "BN", "BK") if n in constants),
        **dict(launch.options),
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "shared_bytes": kernel.metadata.shared,
        "wgmma": len(re.findall(r"\bHGMMA\b", code)),
        "mma": len(re.findall(r"\bHMMA\b", code)),
        "bulk_loads": len(re.findall(r"\bUTMALDG\b", code)),
    }


def fault(row: dict[str, Any], dtype: str) -> str | None:
    """What is wrong with a compiled kernel, if anything."""
    target = int(row["target"].removeprefix("sm_"))
    if row["spills"]:
        return f"{row['spills']} spills"
    if row["shared_bytes"] > SHARED_LIMIT[target]:
        return f"{row['shared_bytes']} bytes of shared memory"
    multiplies = row["kernel"].split()[0] in ("conv", "down", "up")
    if multiplies and dtype != "fp32" and not row["wgmma" if target == 90 else "mma"]:
        return "no tensor-core instructions"
    return None


def cases(args: argparse.Namespace) -> Iterator[tuple[str, str, int, Launch]]:
    seen = set()
    for target, dtype, preset in itertools.product(args.targets, args.dtypes, args.presets):
        for launch in launches(preset, DTYPES[dtype], divmod(target, 10)):
            key = (target, launch.kernel if args.one_each else launch)
            if key not in seen:
                seen.add(key)
                yield preset, dtype, target, launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--presets", type=names, default=["tiny", "base", "paper"])
    parser.add_argument("--dtypes", type=names, default=["bf16", "fp32"])
    parser.add_argument(
        "--targets", type=lambda t: [int(n) for n in t.split(",")], default=[90, 80]
    )
    parser.add_argument("--one-each", action="store_true", help="one launch of each kernel")
    parser.add_argument("--save", action="store_true", help="write the rows")
    args = parser.parse_args()
    results, faults = [], 0
    for preset, dtype, target, launch in cases(args):
        row = {"preset": preset, "dtype": dtype, **inspect(launch, target)}
        wrong = fault(row, dtype)
        faults += wrong is not None
        results.append({**row, "triton": triton.__version__})
        print(*row.values(), f"FAULT: {wrong}" if wrong else "", flush=True)
    if args.save:
        major, minor, *_ = triton.__version__.split(".")
        print(rows.write(f"aot_{major}{minor}", results))
    print(f"{len(results)} kernels, Triton {triton.__version__}, {faults} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
