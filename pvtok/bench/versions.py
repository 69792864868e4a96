"""Where and by what a number was measured."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import pvtok


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Device name, threads, versions and commit, as every recorded row holds them.

    Args:
        device: what computed; None is the GPU if there is one, else the CPU.
    """
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
        "triton": _version("triton"),
        "pvtok": pvtok.__version__,
        "commit": commit(),
    }


def processor() -> str:
    """The CPU's name and its number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def commit() -> str:
    """What `git describe` says of pvtok's own checkout; "unknown" where it is not in one."""
    root = Path(pvtok.__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed somewhere inside another project, perhaps
        return "unknown"
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return run.stdout.strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
