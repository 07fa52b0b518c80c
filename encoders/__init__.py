"""Pixels to features: vision towers behind one interface, and token merging."""

from encoders.merging import Clusters, dpc_knn, merge_tokens

__all__ = ["Clusters", "dpc_knn", "merge_tokens"]
