from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from entropy import CodecConfig, FeatureCodec, TrainableCodec
from entropy.hyperprior import LogisticMixture, Router, balance_loss, usage_by_level

MakeCodec = Callable[..., FeatureCodec]
MakeTrainable = Callable[..., TrainableCodec]
MakeFeatures = Callable[..., Tensor]


def uniform_noise(codec: TrainableCodec, pictures: int, tokens: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(pictures, tokens, codec.config.width + codec.config.hyper, generator=generator) - 0.5


@torch.no_grad()
@pytest.mark.parametrize("experts", [1, 4])
def test_the_exported_codec_does_what_the_float_one_promises(
    experts: int, trainables: MakeTrainable, codecs: MakeCodec, features: MakeFeatures
) -> None:
    """One definition of the rate: evaluation mode estimates coded bytes within 1 %, and decodes alike."""
    trainable, codec = trainables(experts).eval(), codecs(experts)
    values = features(1, 300, seed=9)
    for quality in codec.qualities:
        output = trainable(values, quality - 1)
        payload = codec.encode(values[0], quality)
        assert float(output.rate.sum()) / 8 == pytest.approx(len(payload), rel=0.01, abs=8)
        error = float((output.decoded[0] - values[0]).square().mean())
        coded = float((torch.from_numpy(codec.decode(payload)) - values[0]).square().mean())
        assert coded == pytest.approx(error, rel=0.03)


def test_training_outputs_have_gradients_for_every_parameter(features: MakeFeatures) -> None:
    codec = TrainableCodec(CodecConfig(width=24, hyper=4, analysis_hidden=16))
    values = features(8, 20)
    codec.fit_transform(values)
    output = codec(values, torch.arange(8), noise=uniform_noise(codec, 8, 20))
    assert output.decoded.shape == values.shape
    assert output.rate.shape == values.shape[:2]
    assert output.router.shape == (8, 20, 4)
    assert torch.allclose(output.router.sum(-1), torch.ones(8, 20))
    error = (output.decoded - values).square().mean()
    balance = balance_loss(*usage_by_level(output.router, torch.arange(8), 8))
    (output.rate.mean() + error + balance).backward()
    for name, parameter in codec.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_noise_comes_from_the_argument_alone(features: MakeFeatures) -> None:
    codec = TrainableCodec(CodecConfig(width=24))
    values = features(2, 10)
    codec.fit_transform(values)
    state = torch.get_rng_state()
    rates = [codec(values, 3, noise=uniform_noise(codec, 2, 10, seed)).rate for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(rates[0], rates[1])
    assert not torch.equal(rates[0], rates[2])
    codec.eval()
    assert torch.equal(codec(values, 3).rate, codec(values, 3).rate)


def test_a_level_for_each_picture_is_each_picture_at_its_level(
    trainables: MakeTrainable, features: MakeFeatures
) -> None:
    codec = trainables().eval()
    values = features(3, 10)
    together = codec(values, torch.tensor([0, 7, 3]))
    for picture, level in enumerate((0, 7, 3)):
        alone = codec(values[picture : picture + 1], level)
        assert torch.allclose(together.rate[picture], alone.rate[0], rtol=1e-4)
        assert torch.allclose(together.decoded[picture], alone.decoded[0], atol=1e-4)


def test_gains_grow_whatever_training_does() -> None:
    codec = TrainableCodec(CodecConfig(width=5))
    steps = torch.tensor(codec.config.steps)
    assert torch.allclose(codec.gains, (1 / steps)[:, None].expand(-1, 5), rtol=1e-4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (codec.first_gain, codec.gain_growth):
            parameter += 3 * torch.randn(parameter.shape, generator=generator)
    assert bool((codec.gains.diff(dim=0) > 0).all())


def test_transform_decorrelates_and_inverts(features: MakeFeatures) -> None:
    codec = TrainableCodec(CodecConfig(width=24))
    values = features(50, 20)
    codec.fit_transform(values)
    coefficients = codec.transform(values).flatten(0, 1)
    covariance = coefficients.T @ coefficients / len(coefficients)
    assert float(covariance.diagonal().mean()) == pytest.approx(1.0, rel=1e-3)
    assert float((covariance - covariance.diagonal().diag()).abs().max()) < 1e-2
    back = codec.transform(values) @ codec.inverse_transform.T + codec.center
    assert torch.allclose(back, values, atol=1e-3)


def test_weighted_transform_measures_the_weighted_error(features: MakeFeatures) -> None:
    """Squared error of coefficients is proportional to the weighted squared error of features."""
    generator = torch.Generator().manual_seed(3)
    projector = torch.randn(40, 24, generator=generator)
    codec = TrainableCodec(CodecConfig(width=24))
    values = features(50, 20)
    codec.fit_transform(values, projector.T @ projector)
    other = values + 0.1 * torch.randn(values.shape, generator=generator)
    plain = (codec.transform(other) - codec.transform(values)).square().sum(-1)
    projected = ((other - values) @ projector.T).square().sum(-1)
    ratio = plain / projected
    assert float(ratio.std() / ratio.mean()) < 1e-2


@pytest.mark.parametrize(
    "weight", [torch.eye(3), torch.zeros(24, 24), -torch.eye(24), torch.full((24, 24), torch.nan)]
)
def test_transform_refuses_weights(weight: Tensor, features: MakeFeatures) -> None:
    with pytest.raises(ValueError, match="distortion weight"):
        TrainableCodec(CodecConfig(width=24)).fit_transform(features(2, 5), weight)


def test_transform_and_export_refuse_features(trainables: MakeTrainable) -> None:
    with pytest.raises(ValueError, match="two tokens"):
        TrainableCodec(CodecConfig(width=24)).fit_transform(torch.full((5, 24), torch.nan))
    with pytest.raises(ValueError, match="calibration"):
        trainables().export(torch.zeros(2, 24))


@pytest.mark.parametrize(
    "fault, text",
    [
        ({"experts": 0}, "experts"),
        ({"steps": (1.0, 2.0)}, "fall"),
        ({"steps": ()}, "fall"),
        ({"steps": (1.0, -1.0)}, "positive"),
        ({"dead_zone": 0.5}, "dead_zone"),
        ({"hyper": 65}, "64"),
    ],
)
def test_configurations_that_cannot_be(fault: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CodecConfig(**{"width": 8, **fault})


def test_router_names_experts_at_the_cost_of_its_tables() -> None:
    router = Router(4, 8, 3, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        router.context.copy_(torch.arange(24.0).reshape(2, 4, 3).sin())
    neighbours = torch.tensor([[3, 2, 0], [3, 1, 1]])
    bits = router.bits(neighbours, torch.tensor([0, 1]))
    share = router.context.softmax(-1)
    assert bits.shape == (2, 3, 3)
    for picture, (level, before) in enumerate([(0, [3, 2, 0]), (1, [3, 1, 1])]):
        for token, left in enumerate(before):
            assert torch.allclose(2 ** -bits[picture, token], share[level, left])


def test_balance_is_zero_only_for_equal_use_at_every_level() -> None:
    def balance(probabilities: Tensor, level: list[int]) -> float:
        return float(balance_loss(*usage_by_level(probabilities, torch.tensor(level), 2)))

    assert balance(torch.full((2, 3, 4), 0.25), [0, 1]) == 0
    assert balance(torch.eye(4)[None], [1]) == 0
    assert balance(torch.eye(4)[:1][None], [0]) == pytest.approx(0.75)
    # Two experts, each for a level of its own: equal use over all, none within a level.
    assert balance(torch.eye(2)[:, None].expand(2, 5, 2), [0, 1]) == pytest.approx(0.5)
    assert balance(torch.eye(2)[:, None].expand(2, 5, 2), [1, 1]) == 0


def test_logistic_mixture_is_a_distribution() -> None:
    density = LogisticMixture(2)
    values = torch.arange(-40.0, 41.0).expand(2, -1)
    mass = density(values)
    assert torch.allclose(mass.sum(1), torch.ones(2), atol=1e-3)
    assert np.all(mass.detach().numpy() > 0)
