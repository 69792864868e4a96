"""What tests of all parts share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_video() -> Path:
    """The folder of real clips beside the project, which a checkout need not have."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "video"
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no real clips at {folder}")
    return folder
