"""The README's Python runs as it stands and gives the shapes its comments say."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvtok.convert import encode_video
from pvtok.scenes import render_scene
from pvtok.tokenizer import Tokenizer
from pvtok.video import VideoWriter

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 1
    frames = np.concatenate(list(render_scene(0, 17, 48, 32)))
    monkeypatch.chdir(tmp_path)
    with VideoWriter("v.mp4", 32, 48, Fraction(24)) as writer:
        writer.write(frames)
    encode_video(Tokenizer.load("tiny"), "v.mp4", "latents.zarr")
    names: dict[str, Any] = {"frames": frames, "chunks": [frames[:5], frames[5:]]}
    exec(blocks[0], names)
    assert names["z"].shape[1:] == (64, 3, 2)
    assert names["video"].shape == (17, 48, 32, 3)
    assert names["future"].shape == (8, 48, 32, 3)
    assert names["window"].shape == (5, 64, 3, 2)
    assert names["window"].dtype == np.float32
    assert names["raw"].dtype == np.float16
