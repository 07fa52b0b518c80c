"""What merging and entropy coding add to the vision tower, for one tile at so400m's shape on a CPU."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from encoders import VisionEncoder, dpc_knn, merge_tokens
from entropy import CodecConfig, TrainableCodec

__all__ = ["main"]

_TOWER = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26, "num_attention_heads": 16,
    "image_size": 384, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
# The codec of configs/llava-onevision-7b.yaml.
_CODEC = {"experts": 4, "hyper": 16, "analysis_hidden": 128, "synthesis_hidden": 96, "router_hidden": 64}
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
    layers, width = _TOWER["num_hidden_layers"], _TOWER["hidden_size"]
    print(
        f"one tile, {layers} layers, width {width}, merged to {_TOKENS} tokens, quality {_QUALITY}, one core"
    )
    for part, seconds in times.items():
        print(f"{part:>10} {1e3 * seconds:10.1f} ms {seconds / times['tower']:8.2%} of the tower")
    print(f"{'overhead':>10} {overhead:10.2%} of the tower, the goal is at most {GOAL:.0%}")
    print(
        json.dumps({"benchmark": "encoding", "seconds": times, "overhead": overhead, "rounds": len(rounds)})
    )


@torch.inference_mode()
def _measure() -> list[dict[str, float]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = VisionEncoder(SiglipVisionModel(SiglipVisionConfig(**_TOWER)).eval())
    side = encoder.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    trainable = TrainableCodec(CodecConfig(width=encoder.width, **_CODEC))
    features = encoder(pixels)  # [1, N, C]
    trainable.fit_transform(features)
    codec = trainable.export(features)
    rounds = []
    for _ in range(1 + _ROUNDS):
        taken = {"tower": _seconds(lambda: encoder(pixels))}
        merged = merge_tokens(features, dpc_knn(features, _TOKENS))[0][0].numpy()  # [K, C]
        taken["merging"] = _seconds(lambda: merge_tokens(features, dpc_knn(features, _TOKENS)))
        taken["coding"] = _seconds(lambda merged=merged: codec.encode(merged, _QUALITY))
        rounds.append(taken)
    return rounds[1:]


def _seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin
