"""Whitened decomposition: equation 3 holds, smaller ranks are views, budgets are kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tofc.errors import UserError
from tofc.familial.branches import LowRankLinear
from tofc.familial.decomposition import (
    Covariance,
    Spectrum,
    Whitening,
    decompose,
    rank_for_ratio,
    share_ranks,
)


def correlated(count: int, width: int, seed: int, rank: int | None = None) -> Tensor:
    """Inputs [count, width] with very unequal directions, of the rank given."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank or width, width, generator=generator, dtype=torch.float64)
    scales = torch.logspace(0, -3, rank or width, dtype=torch.float64)
    return torch.randn(count, rank or width, generator=generator, dtype=torch.float64) * scales @ mixing


def calibrated(inputs: Tensor, parts: int = 3) -> Whitening:
    covariance = Covariance(inputs.shape[1])
    for part in inputs.chunk(parts):
        covariance.add(part)
    return Whitening.of(covariance)


def weight(num_outputs: int, num_inputs: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_outputs, num_inputs, generator=generator, dtype=torch.float64)


def measured_loss(matrix: Tensor, spectrum: Spectrum, rank: int, inputs: Tensor) -> float:
    up, down = spectrum.factors(rank)
    return float((inputs @ matrix.T - inputs @ down.T @ up).square().sum())


@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 1000), st.floats(0.1, 0.9))
@settings(max_examples=40)
def test_the_predicted_loss_is_the_measured_one(outputs: int, inputs: int, seed: int, share: float) -> None:
    seen, matrix = correlated(200, inputs, seed), weight(outputs, inputs, seed + 1)
    spectrum = decompose(matrix, calibrated(seen))
    rank = max(1, int(share * (min(outputs, inputs) - 1)))
    assert measured_loss(matrix, spectrum, rank, seen) == pytest.approx(spectrum.loss(rank), rel=1e-4)


def test_no_other_matrix_of_that_rank_loses_less() -> None:
    seen, matrix = correlated(300, 24, 0), weight(16, 24, 1)
    spectrum = decompose(matrix, calibrated(seen))
    plain = decompose(matrix)
    best = measured_loss(matrix, spectrum, 6, seen)
    assert best < 0.9 * measured_loss(matrix, plain, 6, seen)
    outputs = torch.linalg.svdvals(seen @ matrix.T)
    assert best == pytest.approx(float(outputs[6:].square().sum()), rel=1e-6)  # Eckart and Young


def test_streaming_in_batches_changes_nothing() -> None:
    seen = correlated(120, 12, 3)
    one, many = calibrated(seen, 1), calibrated(seen, 7)
    torch.testing.assert_close(one.factor, many.factor, rtol=1e-7, atol=1e-9)


def test_inputs_that_do_not_fill_their_space_get_a_stated_ridge() -> None:
    seen, matrix = correlated(200, 20, 0, rank=6), weight(10, 20, 1)
    whitening = calibrated(seen)
    assert whitening.ridge > 0
    assert calibrated(correlated(200, 20, 0)).ridge == 0
    spectrum = decompose(matrix, whitening)
    total = float((seen @ matrix.T).square().sum())
    assert spectrum.loss(3) == pytest.approx(measured_loss(matrix, spectrum, 3, seen), rel=1e-4)
    assert measured_loss(matrix, spectrum, 6, seen) < 1e-6 * total  # six directions are all there is


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_calibration_that_is_not_finite_names_the_layer(bad: float) -> None:
    covariance = Covariance(4, "block 3, mlp.up_proj")
    with pytest.raises(UserError, match=r"block 3, mlp\.up_proj.*not all finite"):
        covariance.add(torch.tensor([[0.0, 1.0, bad, 2.0]]))


def test_no_calibration_at_all_is_an_error() -> None:
    with pytest.raises(UserError, match="no input other than zero"):
        Whitening.of(Covariance(4))


def test_a_ratio_is_kept_and_used_up() -> None:
    for outputs, inputs, ratio in ((192, 192, 1.0), (576, 192, 0.5), (64, 4864, 0.75)):
        rank = rank_for_ratio(outputs, inputs, ratio)
        size = rank * (outputs + inputs)
        assert size <= ratio * outputs * inputs < size + outputs + inputs
    with pytest.raises(UserError, match="above 0"):
        rank_for_ratio(8, 8, 0.0)


def test_a_budget_goes_where_energy_is() -> None:
    spectra = {
        "steep": decompose(torch.diag(torch.tensor([100.0, 50.0, 1e-3, 1e-3]))),
        "flat": decompose(torch.diag(torch.tensor([20.0, 20.0, 20.0, 20.0]))),
    }
    assert share_ranks(spectra, 8 * 5) == {"steep": 2, "flat": 3}
    for budget in range(16, 64, 5):
        ranks = share_ranks(spectra, budget)
        assert sum(8 * rank for rank in ranks.values()) <= budget
        others = [(s, f) for s in range(1, 5) for f in range(1, 5) if 8 * (s + f) <= budget]
        least = min(spectra["steep"].loss(s) + spectra["flat"].loss(f) for s, f in others)
        assert sum(spectra[name].loss(rank) for name, rank in ranks.items()) == pytest.approx(least)
    with pytest.raises(UserError, match="at least 16"):
        share_ranks(spectra, 15)


def test_a_smaller_rank_is_a_view() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(12, 20)
    inputs = torch.randn(64, 12, generator=generator)
    layer = LowRankLinear.from_linear(linear, decompose(linear.weight, calibrated(inputs.double())), 7)
    small = layer.at_rank(3)
    assert small.down.data_ptr() == layer.down.data_ptr()
    assert small.up.data_ptr() == layer.up.data_ptr()
    expected = inputs @ layer.down[:3].T @ layer.up[:3] + linear.bias
    torch.testing.assert_close(small(inputs), expected)
    whole = LowRankLinear.from_linear(linear, decompose(linear.weight), 12)
    torch.testing.assert_close(whole(inputs), linear(inputs), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        layer.down.mul_(2.0)
    torch.testing.assert_close(small(inputs) - linear.bias, 2 * (expected - linear.bias))
    with pytest.raises(UserError, match="has 1 to 7"):
        layer.at_rank(8)
