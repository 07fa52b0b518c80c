"""Pixels to features: vision towers behind one interface, and token merging.

Merging needs numpy and numba alone; the towers need torch, and are imported on demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from encoders.merging import Clusters, cluster_tokens, dpc_knn, merge_tokens

if TYPE_CHECKING:
    from encoders.vision import VisionEncoder

__all__ = ["Clusters", "VisionEncoder", "cluster_tokens", "dpc_knn", "merge_tokens"]


def __getattr__(name: str) -> object:
    if name == "VisionEncoder":
        try:
            from encoders.vision import VisionEncoder
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the vision tower needs {error.name}: pip install 'tofc[edge]'", name=error.name
            ) from error
        return VisionEncoder
    raise AttributeError(f"module 'encoders' has no attribute {name!r}")
