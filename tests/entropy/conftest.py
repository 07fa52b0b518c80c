from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from entropy import CodecConfig, FeatureCodec, TrainableCodec

WIDTH = 24


def make_features(pictures: int, tokens: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Correlated, heavy-tailed features [pictures, tokens, width] of a few kinds of token."""
    source = torch.Generator().manual_seed(123)
    mixing = torch.randn(width, width, generator=source) * torch.logspace(0.3, -1.5, width)
    kinds = torch.randn(5, width, generator=source)
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(5, (pictures, tokens), generator=generator)
    uniform = torch.rand(pictures, tokens, width, generator=generator) - 0.5
    laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs() + 1e-6)
    return (laplace + kinds[kind]) @ mixing.T


@functools.cache
def make_trainable(experts: int = 4, width: int = WIDTH, seed: int = 0) -> TrainableCodec:
    """An untrained codec whose networks all matter: every bias and context is drawn, none is zero."""
    config = CodecConfig(
        width=width, experts=experts, hyper=4, analysis_hidden=16, synthesis_hidden=16, router_hidden=8
    )
    codec = TrainableCodec(config, seed=seed)
    codec.fit_transform(make_features(50, 20, width))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter, spread in (
            (codec.router.context, 0.3),
            (codec.router.output.bias, 0.3),
            (codec.synthesis.mean.bias, 0.1),  # more would make every token of a quiet channel an outlier
        ):
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    return codec


@functools.cache
def make_codec(experts: int = 4, width: int = WIDTH, seed: int = 0) -> FeatureCodec:
    return make_trainable(experts, width, seed).export(make_features(20, 20, width))


@pytest.fixture(scope="session")
def codec() -> FeatureCodec:
    return make_codec()


@pytest.fixture(scope="session")
def codecs() -> Callable[..., FeatureCodec]:
    return make_codec


@pytest.fixture(scope="session")
def trainables() -> Callable[..., TrainableCodec]:
    return make_trainable


@pytest.fixture(scope="session")
def features() -> Callable[..., Tensor]:
    return make_features


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
