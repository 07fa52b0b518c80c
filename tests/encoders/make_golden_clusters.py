"""Writes golden_clusters.json: digests of clusters and averages, by the case that they belong to.

`python tests/encoders/make_golden_clusters.py`, only when clusters are meant to change: devices and edges of
different releases then merge differently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders import Clusters, cluster_tokens, dpc_knn, merge_tokens

GOLDEN = Path(__file__).with_name("golden_clusters.json")
SHAPES = [(1, 36, 24), (2, 196, 192), (1, 729, 1152), (3, 90, 1), (1, 400, 7), (1, 2601, 64)]
KINDS = ("float32", "float16", "float64", "few values", "outlier channel", "outlier token", "close groups")


def features_of(kind: str, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Features of one kind, from integers, so that no library's own noise is in them."""
    draws = np.random.default_rng(list(kind.encode()) + list(shape))
    values = draws.integers(-(2**20), 2**20, shape).astype(np.float64) / 2**18
    if kind == "few values":
        values = np.rint(values)
    elif kind == "outlier channel":
        values[..., shape[2] // 2] *= 1e5
    elif kind == "outlier token":
        values[:, shape[1] // 3] *= 1e4
    elif kind == "close groups":
        values = values[:, np.arange(shape[1]) % 9] + values / 2**16
    return values.astype(kind if kind.startswith("float") else np.float32)


def cases() -> Iterator[tuple[str, NDArray[Any], Clusters]]:
    """Name, features and clusters of every case."""
    for shape in SHAPES:
        for kind in KINDS:
            features = features_of(kind, shape)
            settings = [(1, 1), (9, 5), (shape[1] // 3, 5), (shape[1] - 1, 12)]
            for count, k in settings[1:3] if features[0].size > 10**5 else settings:
                yield f"{kind} {shape} to {count}, k {k}", features, dpc_knn(features, count, k)
            mask = np.arange(shape[0] * shape[1]).reshape(shape[:2]) % 5 != 1
            yield f"{kind} {shape} masked", features, dpc_knn(features, 7, 5, mask)
            side = round(shape[1] ** 0.5)
            grid = ((side, side),) if side * side == shape[1] else ((3, shape[1] // 6), (3, shape[1] // 6))
            for way in ("spread", "blocks"):
                yield f"{kind} {shape} {way}", features, cluster_tokens(features, 16, way, grid)


def digest(features: NDArray[Any], clusters: Clusters) -> str:
    """Of clusters, averages and counts, to the bit."""
    merged, counts = merge_tokens(features, clusters)
    parts = [*clusters, merged, counts]
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]


if __name__ == "__main__":
    digests = {name: digest(features, clusters) for name, features, clusters in cases()}
    GOLDEN.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
