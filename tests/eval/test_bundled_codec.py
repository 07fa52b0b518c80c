"""What the bundled codec promises, on real merged features of test scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import tofc
from eval.scenes.world import make_scene
from tofc.config import ASSETS
from tofc.training.trainable import load_trainable

PICTURES = 8
OVERHEAD = 16  # bytes that a packet of one picture may have over the ideal size of its symbols


@pytest.fixture(scope="module")
def device() -> tofc.Device:
    return tofc.Device.from_pretrained("scenes-tiny")


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [Image.fromarray(make_scene("test", index)[1]) for index in range(PICTURES)]


@pytest.fixture(scope="module")
def merged(device: tofc.Device, scenes: list[Image.Image]) -> list[np.ndarray]:
    return [device.features(scene, tokens=64).tokens.numpy() for scene in scenes]


def test_more_quality_costs_more_bytes_and_errs_less(device: tofc.Device, merged: list[np.ndarray]) -> None:
    sizes = np.array([[len(device.codec.encode(m, q)) for q in device.codec.qualities] for m in merged])
    errors = np.array(
        [
            [np.square(device.codec.reconstruct(m, q) - m).mean() for q in device.codec.qualities]
            for m in merged
        ]
    )
    assert len(device.codec.qualities) == 8
    assert (np.diff(sizes.mean(0)) > 0).all()
    assert (np.diff(sizes, axis=1) > 0).all()  # and for each picture alone
    assert (np.diff(errors.mean(0)) < 0).all()


def test_packets_are_at_most_sixteen_bytes_over_the_ideal(
    device: tofc.Device, scenes: list[Image.Image], merged: list[np.ndarray]
) -> None:
    for scene, tokens in zip(scenes, merged, strict=True):
        for quality in device.codec.qualities:
            ideal = device.codec.estimate(tokens, quality) / 8
            size = len(bytes(device.encode(scene, quality=quality, tokens=64)))
            assert size <= 1.001 * ideal + OVERHEAD


@torch.no_grad()
def test_training_estimates_the_coded_bytes_within_one_percent(
    device: tofc.Device, merged: list[np.ndarray]
) -> None:
    trainable = load_trainable(ASSETS / "scenes-tiny/codec.safetensors").eval()
    for quality in device.codec.qualities:
        estimated = sum(
            float(trainable(torch.from_numpy(tokens)[None], quality - 1).rate.sum()) / 8 for tokens in merged
        )
        ideal = sum(device.codec.estimate(tokens, quality) / 8 for tokens in merged)
        coded = sum(len(device.codec.encode(tokens, quality)) for tokens in merged)
        assert ideal == pytest.approx(estimated, rel=0.01)
        assert 0 <= coded - ideal <= 5 * PICTURES  # the counts, and the coder's end


@pytest.mark.parametrize("tokens", [4, 7, 33, 100, 195, "all"])
def test_any_number_of_tokens_goes_with_any_quality(
    device: tofc.Device, scenes: list[Image.Image], tokens: int | str
) -> None:
    sizes = []
    for quality in device.codec.qualities:
        packet = device.encode(scenes[0], quality=quality, tokens=tokens)
        sizes.append(len(bytes(packet)))
        assert packet.num_tokens == (196 if tokens == "all" else tokens)
    assert sizes == sorted(set(sizes))


@torch.no_grad()
def test_every_entropy_model_is_used(device: tofc.Device, merged: list[np.ndarray]) -> None:
    """A router that has collapsed leaves models without tokens; training warns under two percent."""
    trainable = load_trainable(ASSETS / "scenes-tiny/codec.safetensors").eval()
    features = torch.from_numpy(np.stack(merged))
    used = sum(trainable(features, q - 1).router.mean((0, 1)) for q in device.codec.qualities)
    assert float((used / len(device.codec.qualities)).min()) > 0.02
