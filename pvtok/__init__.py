"""pvtok: video to compact predictive latents in Zarr stores, and back.

`Tokenizer` and `open_store` are loaded on first use, so that `import pvtok` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvtok.store import open_store
    from pvtok.tokenizer import Tokenizer

try:
    __version__ = version("pvtok")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = ["Tokenizer", "__version__", "open_store"]

_LAZY = {"Tokenizer": "pvtok.tokenizer", "open_store": "pvtok.store"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
