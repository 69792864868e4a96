"""Model checkpoints: a folder of `config.json` and `model.safetensors`. No pickle, no guessing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvtok.configs import ModelConfig
from pvtok.errors import (
    CheckpointError,
    CorruptCheckpointError,
    MissingDependencyError,
    OutputExistsError,
    WriteError,
)
from pvtok.model import PVVAE

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT_VERSION = 1
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, its configuration read and its bytes hashed."""

    folder: Path
    config: ModelConfig
    sha256: str
    """Of the weights file: the identity of the model wherever latents are stored."""


def bundled_models() -> dict[str, Path]:
    """Name -> folder of the models that ship with the package."""
    return {p.parent.name: p.parent for p in sorted(ASSETS.glob(f"*/{CONFIG_FILE}"))}


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(model: str | os.PathLike[str]) -> Path:
    """The checkpoint folder that a `--model` value means: a bundled name, a folder or a file in it.

    Raises:
        MissingDependencyError: there is no such model.
    """
    bundled = bundled_models()
    if str(model) in bundled:
        return bundled[str(model)]
    path = Path(model)
    folder = path.parent if path.suffix == ".safetensors" else path
    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise MissingDependencyError(
            f"no model {str(model)!r}",
            why=f"it is none of the bundled ones ({', '.join(bundled) or 'none'}), and no folder"
            f" with {CONFIG_FILE} and {WEIGHTS_FILE}",
            fix="'pvtok models' lists what is there.",
        )
    if path.suffix == ".safetensors" and path.name != WEIGHTS_FILE:
        raise MissingDependencyError(
            f"no model {str(model)!r}", why=f"the weights file is named {WEIGHTS_FILE}"
        )
    return folder


def inspect(model: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint's configuration and check its bytes against the recorded SHA-256.

    Raises:
        MissingDependencyError: there is no such model.
        CheckpointError: the configuration does not fit this version.
        CorruptCheckpointError: the files are damaged.
    """
    folder = find(model)
    try:
        document: Any = json.loads((folder / CONFIG_FILE).read_text())
        version, values = document["format_version"], document["model"]
        recorded = document["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpointError(
            f"{folder / CONFIG_FILE} is not a model configuration", why=repr(error)
        ) from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {version!r}",
            why=f"this version reads format {FORMAT_VERSION}",
            fix="Upgrade pvtok.",
        )
    sha256 = file_sha256(folder / WEIGHTS_FILE)
    if sha256 != recorded:
        raise CorruptCheckpointError(
            f"{folder / WEIGHTS_FILE} is damaged",
            why=f"its SHA-256 is {sha256}, {CONFIG_FILE} says {recorded}",
            fix="Fetch or write it again.",
        )
    return Checkpoint(folder, ModelConfig.from_dict(values), sha256)


def load(model: str | os.PathLike[str]) -> tuple[PVVAE, Checkpoint]:
    """Load a model, fp32 on the CPU, strictly.

    Raises:
        As `inspect`; CheckpointError also lists weights that are missing, unknown or of another
        shape.
    """
    checkpoint = inspect(model)
    try:
        tensors = load_file(checkpoint.folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise CorruptCheckpointError(
            f"{checkpoint.folder / WEIGHTS_FILE} cannot be read", why=str(error)
        ) from error
    with torch.device("meta"):
        net = PVVAE(checkpoint.config)
    if wrong := misfit(net.state_dict(), tensors):
        raise CheckpointError(
            f"the weights in {checkpoint.folder} do not fit its configuration", why=wrong
        )
    net.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=True, assign=True)
    return net, checkpoint


def save(
    net: PVVAE,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> Checkpoint:
    """Write a checkpoint folder, whole or not at all.

    Args:
        dtype: floating type of the stored weights; loading always gives fp32.
    """
    target = Path(folder)
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists", fix="Overwrite it or choose another name.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise WriteError(f"cannot write {target}", why=str(error)) from error
    try:
        tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in net.state_dict().items()}
        save_file(tensors, scratch / WEIGHTS_FILE)
        document = {
            "format_version": FORMAT_VERSION,
            "model": net.config.to_dict(),
            "sha256": file_sha256(scratch / WEIGHTS_FILE),
        }
        (scratch / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n")
        scratch.chmod(0o755)
        (scratch / WEIGHTS_FILE).chmod(0o644)  # safetensors leaves it to its owner alone
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    except OSError as error:
        raise WriteError(f"cannot write {target}", why=str(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return inspect(target)


def misfit(wanted: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> str | None:
    """In what names and shapes `held` differs from `wanted`; None where it fits."""
    missing = sorted(wanted.keys() - held.keys())
    unknown = sorted(held.keys() - wanted.keys())
    shapes = sorted(
        f"{name} is {tuple(held[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted.keys() & held.keys()
        if held[name].shape != wanted[name].shape
    )
    if missing or unknown or shapes:
        return f"missing {missing}, unknown {unknown}, wrong shapes {shapes}"
    return None
