"""Senders: what travels is counted whole, and what arrives is what the bytes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tofc
from eval.baselines import Jpeg, WebP
from eval.rate.points import RatePoint
from eval.rate.senders import (
    IMAGE_CODECS,
    FeatureSender,
    Float16,
    GreyPicture,
    Int8Zstd,
    Pictures,
    PictureSender,
    TofcSender,
    shrink,
)

TOKENS = np.random.default_rng(0).normal(0, 3, (24, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def pictures(checkpoint_folder: Path, make_picture) -> Pictures:
    device = tofc.Device.from_pretrained(checkpoint_folder)
    return Pictures(device, [make_picture(96, 64), make_picture(64, 64, 1)])


def test_float16_takes_two_bytes_a_value() -> None:
    data = Float16().encode(TOKENS)
    assert len(data) == 2 * TOKENS.size
    np.testing.assert_array_equal(Float16().decode(data, 32), TOKENS.astype(np.float16).astype(np.float32))
    with pytest.raises(ValueError, match="float16"):
        Float16().encode(TOKENS * 1e6)


@pytest.mark.parametrize("levels", [255, 15, 3])
def test_int8_stays_within_half_a_step(levels: int) -> None:
    codec = Int8Zstd(levels)
    decoded = codec.decode(codec.encode(TOKENS), 32)
    step = np.abs(TOKENS).max() / (levels // 2)
    assert np.abs(decoded - TOKENS).max() <= step / 2 * 1.001
    assert len(np.unique(decoded)) <= levels
    np.testing.assert_array_equal(codec.decode(codec.encode(0 * TOKENS), 32), 0 * TOKENS)


def test_fewer_levels_take_fewer_bytes() -> None:
    sizes = [len(Int8Zstd(levels).encode(TOKENS)) for levels in (255, 31, 7, 3)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < TOKENS.size + 32, "255 levels are a byte a value, and zstd adds next to nothing"


@pytest.mark.parametrize("codec", [Jpeg(), WebP()], ids=lambda codec: codec.name)
def test_a_grey_picture_of_features_comes_back_in_place(codec) -> None:
    # Smooth along both axes, so that an image codec keeps it: a mixed-up layout would not survive.
    smooth = (np.linspace(-2, 5, 24)[:, None] + np.linspace(0, 3, 32)).astype(np.float32)
    grey = GreyPicture(codec, 90)
    assert np.abs(grey.decode(grey.encode(smooth), 32) - smooth).max() < 0.3
    with pytest.raises(ValueError, match="32 columns where tokens have 16"):
        grey.decode(grey.encode(smooth), 16)


def test_tofc_sends_whole_packets(pictures) -> None:
    sender = TofcSender(4, 12)
    (arrived,) = sender.send(pictures)
    assert [point.name for point in sender.points] == ["quality 4, tokens 12"]
    for image, one in zip(pictures.images, arrived, strict=True):
        assert one.seen == bytes(pictures.device.encode(image, quality=4, tokens=12))
        assert (one.num_bytes, one.num_tokens) == (len(one.seen), 12)


def test_the_tower_runs_once_for_all_senders(pictures, monkeypatch) -> None:
    fresh = Pictures(pictures.device, pictures.images)
    calls = []
    run = tofc.Device.features_of
    monkeypatch.setattr(tofc.Device, "features_of", lambda *a, **k: calls.append(a) or run(*a, **k))
    for sender in (TofcSender(1, 12), TofcSender(8, 12), TofcSender(4, 5)):
        sender.send(fresh)
    FeatureSender(RatePoint("raw"), Float16(), "all").send(fresh)
    assert len(calls) == 1


def test_uncoded_features_are_those_of_the_device(pictures) -> None:
    (arrived,) = FeatureSender(RatePoint("uncoded"), Float16(), 9).send(pictures)
    for image, one in zip(pictures.images, arrived, strict=True):
        expected = pictures.device.features(image, 9).tokens
        torch.testing.assert_close(one.seen.tokens, expected.half().float(), rtol=2e-3, atol=1e-3)
        assert (one.num_bytes, one.num_tokens) == (2 * 9 * 32, 9)


@pytest.mark.parametrize("system", list(IMAGE_CODECS))
def test_pictures_are_whole_files_seen_after_decoding(pictures, system: str) -> None:
    chroma, codec = list(IMAGE_CODECS[system].items())[-1]
    sender = PictureSender(system, 0.5, chroma, 40, ("all", 12))
    arrived = sender.send(pictures)
    assert [dict(point.settings)["tokens"] for point in sender.points] == ["all", 12]
    for index, image in enumerate(pictures.images):
        data = codec.encode(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS), 40)
        expected = pictures.device.features(codec.decode(data), "all").tokens
        for one, count in zip((arrived[0][index], arrived[1][index]), (36, 12), strict=True):
            assert (one.num_bytes, one.num_tokens) == (len(data), count)
        torch.testing.assert_close(arrived[0][index].seen.tokens, expected, rtol=1e-3, atol=1e-4)


def test_shrinking_keeps_at_least_a_pixel() -> None:
    picture = Image.new("RGB", (10, 1))
    assert shrink(picture, 0.25).size == (2, 1)
    assert shrink(picture, 1) is picture
