"""pvtok: video to compact predictive latents in Zarr stores, and back.

Everything is loaded on first use, so that `import pvtok` is quick and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvtok.store import open_store
    from pvtok.tokenizer import Tokenizer

    __version__: str

__all__ = ["Tokenizer", "__version__", "open_store"]

_LAZY = {"Tokenizer": "pvtok.tokenizer", "open_store": "pvtok.store"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pvtok")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
