"""Kernels compiled for GPUs that are not here: nothing spilled, products on the tensor cores.

The whole table is `benchmarks/aot.py`'s; this compiles one launch of each kernel.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
AOT = Path(__file__).parents[2] / "benchmarks" / "aot.py"


@pytest.mark.skipif(platform.system() != "Linux", reason="the tools are in Triton's Linux wheels")
def test_compiled_kernels_keep_to_the_limits(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, AOT, "--presets", "tiny", "--dtypes", "bf16", "--one-each"],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *table, last = done.stdout.splitlines()
    assert last.endswith("0 faults")
    kernels = {"pixels_in", "conv", "down", "shortcut", "up", "norm", "pixels_out"}
    assert {line.split()[2] for line in table} == kernels
    assert len(table) == 2 * len(kernels)  # for two GPUs
