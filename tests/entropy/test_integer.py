from __future__ import annotations

import numpy as np
import pytest

from entropy.integer import EXACT, FixedPointMatrix, IntegerLayer, IntegerNetwork, quantize_layer


def exact(layer: IntegerLayer, inputs: np.ndarray, level: int) -> np.ndarray:
    """The layer in Python's unbounded integers."""
    limit, low, high = (int(bound) for bound in layer.bounds)
    rows = []
    for x in inputs.tolist():
        row = []
        for o in range(layer.weight.shape[0]):
            total = int(layer.bias[level, o])
            total += sum(
                int(w) * max(-limit, min(limit, int(v))) for w, v in zip(layer.weight[o], x, strict=True)
            )
            shift = int(layer.shift[o])
            value = (total * int(layer.multiplier[o]) + (1 << (shift - 1))) >> shift
            row.append(max(low, min(high, value)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("bits, limit", [(8, 127), (8, 255), (16, 32767)])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e4])
def test_layers_are_exact_and_near_the_float_layer(
    bits: int, limit: int, spread: float, rng: np.random.Generator
) -> None:
    weight = rng.standard_normal((9, 30)) * spread
    weight[2] = 0
    bias = rng.standard_normal((3, 9)) * spread
    bias[:, 4] *= 1e4
    step, inputs = 0.01, rng.integers(-limit, limit + 1, (20, 30))
    output_step = spread * 0.001 * limit
    layer = quantize_layer(
        weight,
        bias,
        input_step=step,
        input_limit=limit,
        output_step=output_step,
        output_range=(-(2**20), 2**20),
        weight_bits=bits,
    )
    got = layer(inputs.astype(np.float64), 1)
    assert np.array_equal(got, exact(layer, inputs, 1))
    expected = (inputs * step) @ weight.T + bias[1]
    tolerance = output_step + np.abs(weight).max() * step * limit * 30 * 2.0 ** -(bits - 1)
    usual = [o for o in range(9) if o != 4]
    assert np.abs(got * output_step - expected)[:, usual].max() <= tolerance


def test_networks_clip_between_layers_and_survive_storage(rng: np.random.Generator) -> None:
    def layer(out_width: int, in_width: int, output_range: tuple[int, int]) -> IntegerLayer:
        return quantize_layer(
            rng.standard_normal((out_width, in_width)),
            rng.standard_normal((2, out_width)),
            input_step=1.0,
            input_limit=50,
            output_step=0.5,
            output_range=output_range,
        )

    network = IntegerNetwork((layer(6, 4, (0, 50)), layer(3, 6, (-9, 9))))
    inputs = rng.integers(-500, 500, (40, 4)).astype(np.float64)
    output = network(inputs, 1)
    assert np.array_equal(output, network(np.clip(inputs, -50, 50), 1))
    assert np.abs(output).max() == 9
    again = IntegerNetwork.from_tensors(network.tensors("net"), "net")
    assert np.array_equal(again(inputs, 1), output)


def test_sums_that_could_leave_the_exact_range_are_refused() -> None:
    good = IntegerLayer(
        np.full((1, 4), 32767, np.int16),
        np.zeros((1, 1), np.int32),
        np.array([2**15], np.int32),
        np.array([20], np.uint8),
        np.array([32767, 0, 1], np.int32),
    )
    assert int(np.abs(good.weight.astype(np.int64)).sum()) * 32767 * 2**15 < EXACT
    with pytest.raises(ValueError, match=r"2\*\*53"):
        IntegerLayer(good.weight, good.bias, good.multiplier * 1024, good.shift, good.bounds)
    for shift in (0, 53):
        with pytest.raises(ValueError, match="shifts"):
            IntegerLayer(good.weight, good.bias, good.multiplier, np.array([shift], np.uint8), good.bounds)
    with pytest.raises(ValueError, match="match"):
        IntegerLayer(good.weight, good.bias[:, :0], good.multiplier, good.shift, good.bounds)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize_layer(
            np.array([[value]]),
            np.zeros((1, 1)),
            input_step=1.0,
            input_limit=1,
            output_step=1.0,
            output_range=(0, 1),
        )


def test_fixed_point_products_do_not_depend_on_order(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((50, 70))
    matrix = FixedPointMatrix.quantize(weight, grid=2.0**-14)
    inputs = rng.standard_normal((33, 70)) * 5
    output = matrix(inputs)
    assert np.abs(output - inputs @ weight.T).max() < 0.01
    order = rng.permutation(70)
    shuffled = FixedPointMatrix(matrix.weight[:, order], matrix.scale, matrix.grid)
    assert np.array_equal(shuffled(inputs[:, order]), output)
    assert np.array_equal(np.concatenate([matrix(row[None]) for row in inputs]), output)
    far = np.full((1, 70), 1e300)
    assert np.array_equal(matrix(far), matrix(np.full((1, 70), matrix.reach)))


def test_fixed_point_matrices_too_wide_to_be_exact_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2\*\*53"):
        FixedPointMatrix(np.full((1, 2**14 + 1), 32767, np.int16), np.ones(1), np.ones(1))
