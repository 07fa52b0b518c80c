"""What merging and entropy coding add to the vision tower, for one tile at so400m's shape on a CPU."""

from __future__ import annotations

import json
import statistics

import torch

import entropy.kernels  # noqa: F401  once they are loaded, they alone code
from encoders import dpc_knn, merge_tokens
from eval.latency.assemble import random_encoder, untrained_codec
from eval.latency.stages import processor_seconds
from tofc.config import load_yaml
from tofc.training.estimate import base_shape
from tofc.training.settings import TrainConfig

__all__ = ["main"]

_RECIPE = "llava-onevision-7b"  # so400m's shape, and the codec that goes with it
_TOKENS, _QUALITY = 64, 4
_ROUNDS = 3
GOAL = 0.05


def main() -> None:
    """Time tower, merging and coding in turns; print a table, then one line of JSON.

    Weights are random and the codec untrained, on which times do not depend. Times are seconds of processor
    time on one core, the median of some rounds after one to warm up; the overhead is the median of its ratios
    within a round.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds = _measure()
    finally:
        torch.set_num_threads(threads)
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
def _measure() -> list[dict[str, float]]:
    recipe = load_yaml(_RECIPE, TrainConfig)
    encoder = random_encoder(base_shape(recipe.base), None, seed=0).eval()
    codec = untrained_codec(recipe, seed=0)
    side = encoder.image_size
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = encoder(pixels)  # [1, N, C]
    merged = merge_tokens(features, dpc_knn(features, _TOKENS))[0][0].numpy()  # [K, C]
    rounds = []
    for _ in range(1 + _ROUNDS):
        taken = {
            "tower": processor_seconds(lambda: encoder(pixels)),
            "merging": processor_seconds(lambda: merge_tokens(features, dpc_knn(features, _TOKENS))),
            "coding": processor_seconds(lambda: codec.encode(merged, _QUALITY)),
        }
        rounds.append(taken)
    return rounds[1:]
