"""Merging against a direct transcription of the published procedure, in one run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from encoders import dpc_knn

__all__ = ["main"]

# Batch, tokens, width, rounds: one picture of scenes-tiny, 64 of them, SigLIP SO400M at one tile and at ten.
_CASES = ((1, 196, 192, 25), (64, 196, 192, 5), (1, 729, 1152, 15), (1, 7290, 1152, 3))
_NUM_CLUSTERS = 64


def main() -> None:
    """Time `dpc_knn` and the transcription alternately; print a table, then one line of JSON.

    Times are milliseconds, the median of some rounds after one to warm up; only their ratio, taken in one run
    on one machine, means anything. agreement is the share of tokens that both give to the same centre: the
    transcription breaks near-ties by noise, as published.
    """
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    threads = torch.get_num_threads()
    print(f"merging into {_NUM_CLUSTERS} tokens on {threads} CPU threads, milliseconds (lower is better)")
    print(f"{'batch x tokens x width':>24} {'published':>11} {'dpc_knn':>11} {'ratio':>7} {'agreement':>10}")
    for batch, num_tokens, width, rounds in _CASES:
        features = torch.randn(batch, num_tokens, width, generator=generator)
        noise = torch.rand(batch, num_tokens, generator=generator) * 1e-6
        published, ours = _alternate(
            partial(_transcription, features, _NUM_CLUSTERS, noise),
            partial(dpc_knn, features, _NUM_CLUSTERS),
            rounds,
        )
        clusters = dpc_knn(features, _NUM_CLUSTERS)
        chosen = clusters.centers.gather(1, clusters.assignment)
        agreement = (chosen == _transcription(features, _NUM_CLUSTERS, noise)).float().mean().item()
        rows.append(
            {
                "batch": batch,
                "tokens": num_tokens,
                "width": width,
                "published_ms": published,
                "dpc_knn_ms": ours,
                "ratio": published / ours,
                "agreement": agreement,
            }
        )
        size = f"{batch} x {num_tokens} x {width}"
        print(f"{size:>24} {published:11.2f} {ours:11.2f} {published / ours:6.2f}x {agreement:10.1%}")
    print(json.dumps({"benchmark": "merging", "threads": threads, "rows": rows}))


def _transcription(
    features: torch.Tensor, num_clusters: int, noise: torch.Tensor, k: int = 5
) -> torch.Tensor:
    """The published steps as they stand, with an N x N mask; returns the centre of each token, [B, N]."""
    distances = torch.cdist(features, features) / features.shape[2] ** 0.5  # [B, N, N]
    nearest = distances.topk(k, dim=2, largest=False).values
    density = nearest.square().mean(2).neg().exp() + noise  # [B, N]
    denser = (density[:, None, :] > density[:, :, None]).to(features.dtype)  # [B, N, N]
    largest = distances.amax((1, 2))[:, None, None]
    delta = (distances * denser + largest * (1 - denser)).min(2).values
    centers = (density * delta).topk(num_clusters, dim=1).indices  # [B, K]
    to_centers = distances.gather(1, centers[..., None].expand(-1, -1, features.shape[1]))  # [B, K, N]
    assignment = to_centers.argmin(1)
    own = torch.arange(num_clusters, device=features.device).expand_as(centers)
    return centers.gather(1, assignment.scatter(1, centers, own))


def _alternate(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median times of two functions in milliseconds; they take turns, so a busy machine is busy for both."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for function, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            if number > 0:
                taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])
