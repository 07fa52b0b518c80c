"""Pixels to features: vision towers behind one interface, and token merging.

Everything is imported on demand: merging needs numpy and numba alone, the towers torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from encoders.merging import Clusters, cluster_tokens, dpc_knn, merge_tokens
    from encoders.vision import VisionEncoder

__all__ = ["Clusters", "VisionEncoder", "cluster_tokens", "dpc_knn", "merge_tokens"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'encoders' has no attribute {name!r}")
    try:
        module = importlib.import_module("encoders.vision" if name == "VisionEncoder" else "encoders.merging")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"encoders.{name} needs {error.name}: pip install 'tofc[edge]'", name=error.name
        ) from error
    return getattr(module, name)
