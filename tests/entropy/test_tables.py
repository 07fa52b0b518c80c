from __future__ import annotations

import numpy as np
import pytest
import torch

from entropy.hyperprior import laplacian_bits, unwarp, warp
from entropy.tables import (
    NUM_SCALES,
    TOTAL,
    RansTables,
    join_tables,
    laplacian_scales,
    laplacian_tables,
    quantize_frequencies,
    reconstruction_offsets,
)


@pytest.mark.parametrize("size", [2, 3, 100, 5000, 65535])
def test_frequencies_are_positive_and_whole(size: int, rng: np.random.Generator) -> None:
    for sharpness in (0.0, 1.0, 30.0):
        frequency = quantize_frequencies(np.exp(sharpness * rng.standard_normal(size)))
        assert frequency.astype(np.int64).sum() == TOTAL
        assert frequency.min() >= 1


def test_frequencies_of_a_certain_value() -> None:
    assert quantize_frequencies(np.array([0.0, 1.0, 0.0])).tolist() == [1, TOTAL - 2, 1]


@pytest.mark.parametrize("bad", [[1.0], [0.0, 0.0], [1.0, -0.1], [np.nan, 1.0], [np.inf, 1.0]])
def test_frequencies_refuse(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        quantize_frequencies(np.array(bad))


@pytest.mark.parametrize("dead_zone", [0.0, 0.1, 0.3])
def test_quantised_laplacians_cost_what_the_laplacian_costs(dead_zone: float) -> None:
    """Expected code length under each integer table is within 0.1 % and 0.002 bit of the entropy."""
    tables = laplacian_tables(dead_zone)
    for index, scale in enumerate(laplacian_scales()):
        values = np.arange(-int(30 * scale) - 3, int(30 * scale) + 4)
        exact = laplacian_bits(
            torch.from_numpy(values).double(), torch.tensor(scale, dtype=torch.float64), dead_zone
        ).numpy()
        mass = np.exp2(-exact)
        assert mass.sum() == pytest.approx(1.0, abs=1e-9)
        cost = tables.cost(values.astype(np.int32), np.full(values.size, index))
        entropy = (mass * exact).sum()
        assert entropy - 1e-9 <= (mass * cost).sum() <= 1.001 * entropy + 0.002


@pytest.mark.parametrize("dead_zone", [0.0, 0.2])
def test_reconstruction_offsets_are_conditional_means(dead_zone: float) -> None:
    offsets = reconstruction_offsets(dead_zone)
    assert offsets.shape == (NUM_SCALES,)
    for scale, offset in zip(laplacian_scales(), offsets, strict=True):
        fine = np.linspace(1.5 + dead_zone, 2.5 + dead_zone, 20001)
        weight = np.exp(-(fine - fine[0]) / scale)
        assert 2 + offset == pytest.approx((fine * weight).sum() / weight.sum(), abs=1e-3)


def test_rounding_unwarped_values_is_rounding_with_a_dead_zone() -> None:
    residual = torch.linspace(-5, 5, 9973, dtype=torch.float64)
    rounded = unwarp(residual, 0.2).round()
    expected = residual.sign() * (residual.abs() + 0.3).floor()
    assert torch.equal(rounded, expected + 0.0)
    assert torch.allclose(warp(unwarp(residual, 0.2), 0.2), residual)


def test_relaxed_bits_have_finite_gradients_everywhere() -> None:
    position = torch.linspace(-300, 300, 4001, requires_grad=True)
    scale = torch.tensor(laplacian_scales(), dtype=torch.float32)[:, None].requires_grad_()
    bits = laplacian_bits(position, scale, 0.1)
    assert bool((bits >= 0).all())
    bits.sum().backward()
    for gradient in (position.grad, scale.grad):
        assert gradient is not None
        assert bool(torch.isfinite(gradient).all())


def test_cost_counts_escapes() -> None:
    tables = laplacian_tables(0.0)
    last = int(tables.minimum[0] + tables.sizes[0] - 2)
    escape = tables.bits[tables.offsets[1] - 1]
    costs = tables.cost(np.array([last + 1, -last - 1, last + 2], np.int32), np.zeros(3, np.int64))
    assert costs.tolist() == pytest.approx([escape + 1, escape + 3, escape + 3])


def test_reciprocals_divide_exactly(rng: np.random.Generator) -> None:
    frequency = np.concatenate([np.arange(1, 400), [32767, 32768, 32769, 65533]])
    for f in frequency.tolist():
        tables = RansTables(
            np.array([f, TOTAL - 1 - f, 1] if f < TOTAL - 1 else [f, 1], np.uint16),
            np.array([3 if f < TOTAL - 1 else 2], np.int32),
            np.zeros(1, np.int32),
        )
        packed = int(tables.reciprocals[0])
        states = [2**31 - 1, f, f - 1, (2**31 - 1) // f * f, (2**31 - 1) // f * f - 1]
        for state in [*states, *rng.integers(0, 2**31, 50).tolist()]:
            assert (state * (packed & 0xFFFFFFFF)) >> (packed >> 32) == state // f


@pytest.mark.parametrize(
    "frequencies, sizes, text",
    [
        ([65535, 2], [2], "sums"),
        ([65535, 1], [3], "declare"),
        ([65535, 0, 1], [3], "zero"),
        ([65535], [1], "2 to 65535"),
        ([], [], r"\[T\]"),
    ],
)
def test_tables_refuse(frequencies: list[int], sizes: list[int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RansTables(
            np.array(frequencies, np.uint16), np.array(sizes, np.int32), np.zeros(len(sizes), np.int32)
        )


def test_joined_tables_keep_their_rows() -> None:
    first, second = laplacian_tables(0.0), laplacian_tables(0.2)
    joined = join_tables([first, second])
    assert joined.num_tables == 2 * NUM_SCALES
    symbols, indices = np.array([0, 3, -9], np.int32), np.array([0, 20, 63])
    assert np.array_equal(joined.cost(symbols, indices + NUM_SCALES), second.cost(symbols, indices))
