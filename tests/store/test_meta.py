"""Metadata that cannot be is refused before anything is written."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pvtok.errors import StoreError, UsageError
from pvtok.store import StoreMeta, fingerprint_file

from .build import make_meta


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": 0}, "channels must be"),
        ({"channels": True}, "channels must be"),
        ({"width": 30.0}, "width must be"),
        ({"temporal_ratio": -4}, "temporal_ratio must be"),
        ({"model_name": ""}, "model_name must be"),
        ({"model_sha256": None}, "model_sha256 must be"),
        ({"model_config": {"x": float("nan")}}, "model_config cannot be written as JSON"),
        ({"extra": {"x": object()}}, "extra cannot be written as JSON"),
        ({"color": []}, "color must be a dict"),
        ({"fps": 25.0}, "fps must be a positive Fraction"),
        ({"fps": Fraction(0)}, "fps must be a positive Fraction"),
        ({"tail": "wrap"}, "tail must be one of"),
        ({"segment": 8}, "segment 8 is not 1"),
        ({"crop": (1, 0, 1)}, "crop must be four"),
        ({"crop": (1, 0, -1, 1)}, "crop must be four"),
        ({"crop": (1, 0, 2, 1)}, "33x32.*cover 32x32"),
        ({"width": 31}, "33x32.*cover 32x32"),
        ({"latent_mean": None}, "given together"),
        ({"latent_mean": [0.0, 1.0]}, "2 values for 3 channels"),
        ({"latent_mean": [0.0, 1.0, float("inf")]}, "latent_mean holds inf"),
        ({"latent_std": [0.0, 1.0, 1.0]}, "latent_std holds 0.0"),
        ({"source": {"name": "/home/me/clip.mp4"}}, "without folders"),
    ],
)
def test_impossible_values_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_meta(**changes)


def test_the_document_is_json_and_comes_back() -> None:
    meta = make_meta(segment=17, model_config={"widths": [1, 2]})
    document = json.loads(json.dumps(meta.to_document()))
    assert StoreMeta.from_document(document) == meta


def test_the_order_of_settings_does_not_matter() -> None:
    a, b = make_meta(extra={"a": 1, "b": 2}), make_meta(extra={"b": 2, "a": 1})
    assert json.dumps(a.to_document()) == json.dumps(b.to_document())


def test_the_tool_version_is_filled_in() -> None:
    values = make_meta().__dict__.copy()
    del values["tool_version"]
    assert StoreMeta(**values).tool_version


def test_fingerprints(tmp_path: Path) -> None:
    """They follow the content, wherever the file is and whatever it is called."""
    data = bytes(range(256)) * 10_000
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    a.write_bytes(data)
    b.write_bytes(data)
    c.write_bytes(data[:-1] + b"\0")
    assert fingerprint_file(a) == fingerprint_file(str(b)) != fingerprint_file(c)
    assert len(fingerprint_file(a)) == 64


def test_fingerprint_of_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(StoreError, match="there is no file"):
            fingerprint_file(path)
