"""Shared fixtures: tiny checkpoints of the real kind with random weights, and a picture."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
)

from entropy import CodecConfig, FeatureCodec, TrainableCodec
from tofc.config import CheckpointConfig, MergingConfig
from tofc.model import save_checkpoint
from tofc.training.base_model import CHAT_TEMPLATE, build_tokenizer

# What people set for their terminal, and a width at which no path wraps.
TERMINAL = {"COLUMNS": "1000", "TERM": "dumb", "FORCE_COLOR": "", "NO_COLOR": "1"}
TILE, PATCH, WIDTH = 48, 8, 32  # 6 x 6 = 36 tokens a tile
# Up to 16 tiles: more than `anyres_max_9` lets through unscaled.
PINPOINTS = [[TILE * rows, TILE * columns] for rows in range(1, 5) for columns in range(1, 5)]


# The same examples every time, on a machine of any speed; `--hypothesis-profile=default` looks for others.
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


class Deprecations(logging.Handler):
    """Makes a warning of what a library only logs, so that it is the error that every warning is here."""

    def emit(self, record: logging.LogRecord) -> None:
        if "deprecated" in record.getMessage():
            warnings.warn(record.getMessage(), FutureWarning, stacklevel=2)


def pytest_configure() -> None:
    logging.getLogger("transformers").addHandler(Deprecations(logging.WARNING))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """Fixtures see no terminal of the person who runs the tests."""
    with wide_terminal():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    with wide_terminal():
        return (yield)


@contextmanager
def wide_terminal() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TERMINAL.items():
            patch.setenv(name, value)
        yield


def tiny_base(folder: Path, seed: int = 0) -> Path:
    """A LLaVA-OneVision checkpoint with processor and random weights, as save_pretrained writes it."""
    tokenizer = build_tokenizer(["How many cars are there? What colour is it? Yes. No. A red car."], 300)
    size = {"height": TILE, "width": TILE}
    half = [0.5, 0.5, 0.5]
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=PINPOINTS, image_mean=half, image_std=half
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size, image_mean=half, image_std=half),
        num_image_tokens=(TILE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    blocks = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": WIDTH, "intermediate_size": 64}
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model", **blocks,
            "image_size": TILE, "patch_size": PATCH, "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2", **blocks, "num_key_value_heads": 1, "vocab_size": len(tokenizer),
            "tie_word_embeddings": True, "eos_token_id": tokenizer.eos_token_id, "initializer_range": 0.2,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_codec(seed: int = 0) -> FeatureCodec:
    """A codec that has learnt nothing but the scale of its features."""
    generator = torch.Generator().manual_seed(seed)
    features = 1.5 * torch.randn(8, 24, WIDTH, generator=generator)
    trainable = TrainableCodec(
        CodecConfig(width=WIDTH, hyper=4, analysis_hidden=16, synthesis_hidden=16, router_hidden=8), seed=seed
    )
    trainable.fit_transform(features)
    return trainable.export(features)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA-OneVision checkpoint with processor and no codec."""
    return tiny_base(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture(scope="session")
def checkpoint_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of tofc: base tile only, merged to 12 of 36 tokens."""
    config = CheckpointConfig(merging=MergingConfig(tokens=12))
    return save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", base_folder, tiny_codec(), config)


@pytest.fixture(scope="session")
def anyres_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the stock grid of tiles, merged to 20 tokens."""
    config = CheckpointConfig(tiling="anyres", merging=MergingConfig(tokens=20))
    return save_checkpoint(tmp_path_factory.mktemp("models") / "anyres", base_folder, tiny_codec(), config)


@pytest.fixture(scope="session")
def other_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose codec differs from all others."""
    config = CheckpointConfig(merging=MergingConfig(tokens=12))
    folder = tmp_path_factory.mktemp("models") / "other"
    return save_checkpoint(folder, base_folder, tiny_codec(seed=1), config)


def draw_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise: a picture that is neither flat nor random."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=float
    )
    noisy = smooth + generator.normal(0, 8, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def make_picture() -> Callable[..., Image.Image]:
    """`make_picture(width, height, seed=0)` draws a picture."""
    return draw_picture


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A landscape picture of 100 x 70 pixels."""
    return draw_picture(100, 70)
