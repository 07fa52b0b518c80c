"""Merging against a direct transcription of the published procedure; and what it and coding add to a tower.

The second is for one tile at so400m's shape on a CPU.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import entropy.kernels  # noqa: F401  once they are loaded, they alone code
from encoders import dpc_knn, merge_tokens
from eval.latency.assemble import random_encoder, untrained_codec
from eval.latency.stages import one_thread, processor_seconds
from tofc.config import load_yaml
from tofc.training.estimate import base_shape
from tofc.training.settings import TrainConfig

# Batch, tokens, width, rounds: one picture of scenes-tiny, 64 of them, SigLIP SO400M at one tile and at ten.
_CASES = ((1, 196, 192, 25), (64, 196, 192, 5), (1, 729, 1152, 15), (1, 7290, 1152, 3))
_NUM_CLUSTERS = 64


def merging() -> None:
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


_RECIPE = "llava-onevision-7b"  # so400m's shape, and the codec that goes with it
_TOKENS, _QUALITY = 64, 4
_ROUNDS = 3
GOAL = 0.05


def encoding() -> None:
    """Time tower, merging and coding in turns; print a table, then one line of JSON.

    Weights are random and the codec untrained, on which times do not depend. Times are seconds of processor
    time on one core, the median of some rounds after one to warm up; the overhead is the median of its ratios
    within a round.
    """
    with one_thread():
        rounds = _encoding_rounds()
    overhead = statistics.median((r["merging"] + r["coding"]) / r["tower"] for r in rounds)
    times = {part: statistics.median(r[part] for r in rounds) for part in rounds[0]}
    print(f"{_RECIPE}: one tile, merged to {_TOKENS} tokens, quality {_QUALITY}, one core")
    for part, seconds in times.items():
        print(f"{part:>10} {1e3 * seconds:10.1f} ms {seconds / times['tower']:8.2%} of the tower")
    print(f"{'overhead':>10} {overhead:10.2%} of the tower, the goal is at most {GOAL:.0%}")
    print(
        json.dumps({"benchmark": "encoding", "seconds": times, "overhead": overhead, "rounds": len(rounds)})
    )


@torch.inference_mode()
def _encoding_rounds() -> list[dict[str, float]]:
    recipe = load_yaml(_RECIPE, TrainConfig)
    encoder = random_encoder(base_shape(recipe.base), None, seed=0).eval()
    codec = untrained_codec(recipe, seed=0)
    side = encoder.image_size
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = encoder(pixels)  # [1, N, C]
    merged = merge_tokens(features, dpc_knn(features, _TOKENS))[0][0].numpy()  # [K, C]
    calls: dict[str, Callable[[], object]] = {
        "tower": lambda: encoder(pixels),
        "merging": lambda: merge_tokens(features, dpc_knn(features, _TOKENS)),
        "coding": lambda: codec.encode(merged, _QUALITY),
    }
    return [{part: processor_seconds(call) for part, call in calls.items()} for _ in range(1 + _ROUNDS)][1:]
