"""Pixels to features: vision towers behind one interface, and token merging."""

from encoders.merging import Clusters, dpc_knn, merge_tokens
from encoders.vision import VisionEncoder

__all__ = ["Clusters", "VisionEncoder", "dpc_knn", "merge_tokens"]
