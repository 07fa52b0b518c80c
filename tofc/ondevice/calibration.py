"""What 8-bit integers would cost each matrix product of a tower, on a few pictures, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tofc.ondevice.checkpoint import TowerWeights
from tofc.ondevice.graph import PRODUCTS, TowerGraph, quantised, rows_of
from tofc.ondevice.vision import start

Array = NDArray[np.float32]

LEAST_SNR = 30.0  # dB; a product that is worse as integers stays in float32
_SAMPLE = 512  # tokens on which a product is tried
_TINY = 1e-9


@dataclass(frozen=True)
class Loss:
    """The signal-to-noise ratio in dB of the product `name` ("3.fc1") in integers; is it left in float32?"""

    name: str
    snr: float
    stays_float: bool


def run_blocks(weights: TowerWeights, pixels: Array) -> Iterator[dict[str, Array]]:
    """Each block's output "after" [T, N, C] and the inputs of its products, for pixels [T, 3, S, S].

    One block is in memory at a time.
    """
    (hidden,) = _run(TowerGraph(weights).embeddings().SerializeToString(), "embeddings", {"pixels": pixels})
    for index in range(weights.shape.depth):
        graph = TowerGraph(weights).block(index).SerializeToString()
        outputs = _run(graph, f"block {index}", {"hidden": hidden})
        seen = dict(zip(("after", *PRODUCTS), outputs, strict=True))
        hidden = seen["after"]
        yield seen


def calibrate(
    weights: TowerWeights, index: int, seen: dict[str, Array], least_snr: float
) -> Iterator[tuple[Loss, Array]]:
    """The loss of each product of a block, and the smoothing of its channels [K]."""
    for product in PRODUCTS:
        inputs = seen[product].reshape(-1, seen[product].shape[-1])  # [T * N, K]
        rows = rows_of(weights, index, product)  # [out, K]
        smoothing = _smoothing(np.abs(inputs).max(axis=0), np.abs(rows).max(axis=0))
        step = max(1, len(inputs) // _SAMPLE)
        snr = decibels(*_both_ways(inputs[::step], rows, smoothing))
        yield Loss(f"{index}.{product}", snr, snr < least_snr), smoothing


def decibels(exact: Array, approximate: Array) -> float:
    """The power of `exact` over that of the difference, in dB."""
    noise = float(np.square(exact - approximate, dtype=np.float64).mean())
    return 10 * float(np.log10(np.square(exact, dtype=np.float64).mean() / max(noise, 1e-30)))


def made_pictures(image_size: int, count: int = 2) -> list[NDArray[np.uint8]]:
    """Pictures [S, S, 3] of blurred noise on three scales, the same each time, where nobody gives any."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        layers = []
        for cells in (3, 16, image_size):
            coarse = rng.random((cells, cells, 3))
            places = np.arange(image_size) * cells // image_size
            layers.append(coarse[places][:, places])
        pictures.append((255 * np.mean(layers, axis=0)).astype(np.uint8))
    return pictures


def _smoothing(inputs: Array, weights: Array) -> Array:
    """sqrt(largest input / largest weight) of each channel, around one: both sides take half of the range."""
    ratio = np.sqrt(np.maximum(inputs, _TINY) / np.maximum(weights, _TINY))
    return (ratio / np.exp(np.log(ratio).mean())).astype(np.float32)


def _both_ways(inputs: Array, rows: Array, smoothing: Array) -> tuple[Array, Array]:
    """inputs [n, K] @ rows.T [K, out], and the same as the int8 graph computes it."""
    smooth = inputs / smoothing
    largest = np.maximum(np.abs(smooth).max(axis=1, keepdims=True), _TINY)
    scaled = smooth / largest
    low, high = min(0.0, float(scaled.min())), max(0.0, float(scaled.max()))
    step = max(high - low, _TINY) / 255
    zero = np.rint(-low / step)
    rounded = (np.clip(np.rint(scaled / step) + zero, 0, 255) - zero) * step
    integers, scales = quantised((rows * smoothing).T)
    return inputs @ rows.T, (rounded.astype(np.float32) @ integers.astype(np.float32)) * scales * largest


def _run(graph: bytes, name: str, given: dict[str, Array]) -> list[Array]:
    outputs: list[Array] = start(graph, name).run(None, given)
    return outputs
