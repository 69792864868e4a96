"""What `pvtok doctor` looks at: is everything there, and does it work?"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import numpy as np

from pvtok.errors import PvtokError

Status = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Check:
    """One finding; `fix` is what to do where the status is not ok."""

    name: str
    status: Status
    found: str
    fix: str = ""


def diagnose() -> list[Check]:
    """All checks; one that breaks is a fault, not an end."""
    checks: list[Check] = []
    for name, check in _CHECKS:
        try:
            checks += check()
        except PvtokError as error:
            checks.append(Check(name, "fault", f"{error.what}: {error.why}", error.fix))
        except Exception as error:
            checks.append(Check(name, "fault", f"{type(error).__name__}: {error}"))
    return checks


def _python() -> list[Check]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    checks = [Check("python", "ok", found)]
    for package in ("pvtok", "numpy", "zarr", "safetensors"):
        try:
            checks.append(Check(package, "ok", version(package)))
        except PackageNotFoundError:
            checks.append(Check(package, "note", "not installed as a package"))
    return checks


def _ffmpeg() -> list[Check]:
    from pvtok.video import ffmpeg_version, find_ffmpeg

    binary = find_ffmpeg()
    checks = [Check("ffmpeg", "ok", f"{ffmpeg_version(binary)} ({binary})")]
    listing = subprocess.run(
        [binary, "-hide_banner", "-filters"], capture_output=True, text=True, check=True
    ).stdout
    uses = {"libvmaf": "VMAF in 'pvtok eval'", "zscale": "--tonemap"}
    for name, use in uses.items():
        if f" {name} " in listing:
            checks.append(Check(name, "ok", "in this ffmpeg"))
        else:
            checks.append(
                Check(
                    name,
                    "note",
                    f"not in this ffmpeg: no {use}",
                    "Unset PVTOK_FFMPEG and PATH's ffmpeg to use the one of imageio-ffmpeg.",
                )
            )
    return checks


def _torch() -> list[Check]:
    import torch

    checks = [Check("torch", "ok", torch.__version__)]
    if known := known_bad(torch.__version__, torch.backends.cudnn.version()):
        checks.append(known)
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / 2**30
            checks.append(
                Check(f"cuda:{i}", "ok", f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB")
            )
    else:
        checks.append(Check("cuda", "note", "no device: models run on the CPU"))
    if importlib.util.find_spec("triton") is None:
        checks.append(Check("triton", "note", "not installed: no --kernels triton"))
    else:
        checks.append(Check("triton", "ok", version("triton")))
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler:
        checks.append(Check("c++ compiler", "ok", compiler))
    else:
        checks.append(
            Check("c++ compiler", "note", "none: no --compile on the CPU", "Install g++.")
        )
    return checks


def known_bad(torch_version: str, cudnn_version: int | None) -> Check | None:
    """Version pairs whose 3-D convolutions are known to be slow or wrong on a GPU."""
    if torch_version.split("+")[0] == "2.9.0" and cudnn_version:
        return Check(
            "torch conv3d",
            "fault",
            "torch 2.9.0 does not use cuDNN for 3-D convolutions: slow, and 17 times the memory",
            "Install torch 2.9.1 or newer.",
        )
    if cudnn_version and 90800 <= cudnn_version < 91100:
        return Check(
            "cudnn conv3d",
            "fault",
            f"cuDNN {cudnn_version} gives wrong bf16 3-D convolutions (9.8 to 9.10)",
            "Install cuDNN 9.11 or newer, or compute in fp16 or fp32.",
        )
    return None


def _operations() -> list[Check]:
    """The model's operations on the default device against their plain definitions."""
    import torch

    from pvtok.kernels import fold_upsample_weight, upsample_conv, upsample_conv_folded

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    x, past, weight = (
        torch.randn(shape, generator=generator).to(device)
        for shape in ((1, 8, 3, 6, 5), (1, 8, 1, 6, 5), (4, 8, 3, 3, 3))
    )
    plain = upsample_conv(x, past, weight, None)
    folded = upsample_conv_folded(x, past, fold_upsample_weight(weight), None)
    error = float((plain - folded).abs().max() / plain.abs().max())
    if not error < 1e-3:  # NaN too
        return [Check("operations", "fault", f"folded upsampling is off by {error:.1e} ({device})")]
    return [Check("operations", "ok", f"folded upsampling agrees to {error:.1e} ({device})")]


def _kernels() -> list[Check]:
    """The Triton kernels against their references, where they can run."""
    import torch

    from pvtok.kernels.available import measured, obstacle

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if why := obstacle(device, torch.float32):
        return [Check("kernels", "note", f"--kernels triton cannot run here: {why}")]
    from pvtok.kernels.selftest import check_kernels

    interpreted = device.type == "cpu"
    dtypes = [torch.float32] if interpreted else [torch.float32, torch.float16, torch.bfloat16]
    size = {"channels": 16, "size": 4} if interpreted else {}
    found = [f for dtype in dtypes for f in check_kernels(device, dtype, **size)]
    bad = [f for f in found if not f.ok]
    if bad:
        worst = ", ".join(f"{f.what} ({f.error:.1e})" for f in bad[:5])
        return [
            Check(
                "kernels",
                "fault",
                f"{len(bad)} of {len(found)} checks differ from the reference: {worst}",
                "Use --kernels torch, and report this with your GPU and Triton version.",
            )
        ]
    choice = "taken by default" if measured(device) else "taken with --kernels triton"
    return [Check("kernels", "ok", f"{len(found)} checks agree with the reference; {choice}")]


def _model() -> list[Check]:
    """The bundled model: its bytes, and that streaming gives what one pass gives."""
    from pvtok.tokenizer import Tokenizer

    tok = Tokenizer.load("tiny", dtype="fp32")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    whole, _ = tok.encode_step(frames, None)
    state, parts = None, []
    for a, b in ((0, 1), (1, 5), (5, 9)):
        latents, state = tok.encode_step(frames[a:b], state)
        parts.append(latents)
    error = float(np.abs(np.concatenate(parts) - whole).max() / np.abs(whole).max())
    found = f"tiny {tok.sha256[:12]}, streaming agrees to {error:.1e} ({tok.device})"
    return [Check("model", "ok" if error < 1e-2 else "fault", found)]


_CHECKS: tuple[tuple[str, Callable[[], list[Check]]], ...] = (
    ("python", _python),
    ("ffmpeg", _ffmpeg),
    ("torch", _torch),
    ("operations", _operations),
    ("kernels", _kernels),
    ("model", _model),
)
