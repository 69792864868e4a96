"""Checkpoints: strict, checked, whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pvtok import checkpoint
from pvtok.errors import (
    CheckpointError,
    CorruptCheckpointError,
    MissingDependencyError,
    OutputExistsError,
    WriteError,
)
from tests.models import small_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(small_model("patch4"), tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    """Change weights and record the new checksum, as a foreign tool would."""
    weights = load_file(folder / "model.safetensors")
    for key, value in change.items():
        if value is None:
            del weights[key]
        else:
            weights[key] = value
    save_file(weights, folder / "model.safetensors")
    document = json.loads((folder / "config.json").read_text())
    document["sha256"] = checkpoint.file_sha256(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(document))


def test_round_trip(saved: Path) -> None:
    net, found = checkpoint.load(saved)
    original = small_model("patch4").state_dict()
    loaded = net.state_dict()
    assert original.keys() == loaded.keys()
    assert all(torch.equal(original[k], loaded[k]) for k in original)
    assert found.sha256 == checkpoint.file_sha256(saved / "model.safetensors")
    assert checkpoint.load(saved / "model.safetensors")[1] == found


def test_missing_unknown_and_misshapen_weights_are_all_listed(saved: Path) -> None:
    rewrite(
        saved,
        {
            "padding_token": None,
            "decoder.extra": torch.zeros(1),
            "encoder.conv_in.bias": torch.zeros(3),
        },
    )
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(saved)
    for text in ("padding_token", "decoder.extra", "encoder.conv_in.bias is (3,), not (8,)"):
        assert text in str(caught.value)


def test_a_flipped_bit(saved: Path) -> None:
    file = saved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="SHA-256"):
        checkpoint.load(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}', '"x"'])
def test_a_broken_configuration(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(CorruptCheckpointError, match=r"config\.json"):
        checkpoint.load(saved)


def test_a_newer_format(saved: Path) -> None:
    document = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(document | {"format_version": 2}))
    with pytest.raises(CheckpointError, match="format 2"):
        checkpoint.load(saved)


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="tiny"):
        checkpoint.load(tmp_path)


def test_an_existing_checkpoint_is_kept(saved: Path) -> None:
    before = (saved / "model.safetensors").read_bytes()
    with pytest.raises(OutputExistsError):
        checkpoint.save(small_model("patch4", seed=1), saved)
    assert (saved / "model.safetensors").read_bytes() == before
    checkpoint.save(small_model("patch4", seed=1), saved, overwrite=True)
    assert (saved / "model.safetensors").read_bytes() != before
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"):
        checkpoint.save(small_model("patch4"), tmp_path / "file" / "model")


def test_halves_are_stored_small_and_loaded_as_fp32(tmp_path: Path) -> None:
    net = small_model("patch4")
    checkpoint.save(net, tmp_path / "half", dtype=torch.float16)
    checkpoint.save(net, tmp_path / "full")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    loaded, _ = checkpoint.load(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
