"""What tests of all parts share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Without a GPU, kernels run in Triton's interpreter: to be said before any test imports one.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def shared_video() -> Path:
    """The folder of real clips beside the project, which a checkout need not have."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "video"
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no real clips at {folder}")
    return folder
