"""Fronts, bytes at an accuracy and Bjøntegaard differences, against cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.lab.curves import Curve, bd_accuracy, bd_rate, bytes_at, front, pareto
from eval.lab.intervals import NotComputable


def curve(*points: tuple[float, float]) -> Curve:
    return Curve(*np.array(points, float).T)


RISING = curve((100, 0.6), (200, 0.7), (400, 0.75), (800, 0.76))


def test_the_front_drops_what_is_no_better_than_something_cheaper() -> None:
    points = curve((300, 0.7), (100, 0.6), (200, 0.7), (400, 0.65), (200, 0.68), (500, 0.8))
    assert pareto(points).tolist() == [1, 2, 5]
    assert front(points).num_bytes.tolist() == [100, 200, 500]


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=30))
def test_nothing_beats_the_front(points: list[tuple[int, int]]) -> None:
    best = front(curve(*points))
    assert (np.diff(best.num_bytes) > 0).all()
    assert (np.diff(best.accuracy) > 0).all()
    for size, accuracy in points:
        assert best.accuracy[best.num_bytes <= size].max() >= accuracy


def test_bytes_at_an_accuracy_are_interpolated_in_log_bytes() -> None:
    assert bytes_at(RISING, 0.65) == (pytest.approx(100 * 2**0.5), False)
    assert bytes_at(RISING, 0.7) == (pytest.approx(200), False)
    assert bytes_at(RISING, 0.755) == (pytest.approx(400 * 2**0.5), False)


def test_an_accuracy_below_the_curve_gives_a_bound_and_one_above_an_error() -> None:
    assert bytes_at(RISING, 0.5) == (100, True)
    with pytest.raises(NotComputable, match=r"77.0 % is not reached: the best is 76.0 % at 800 bytes"):
        bytes_at(RISING, 0.77)


def test_a_curve_does_not_differ_from_itself() -> None:
    assert bd_rate(RISING, RISING) == pytest.approx(0, abs=1e-12)
    assert bd_accuracy(RISING, RISING) == pytest.approx(0, abs=1e-12)


def test_half_the_bytes_are_minus_fifty_percent() -> None:
    half = Curve(RISING.num_bytes / 2, RISING.accuracy)
    assert bd_rate(half, RISING) == pytest.approx(-0.5)
    assert bd_rate(RISING, half) == pytest.approx(1)


def test_a_shifted_curve_differs_by_its_shift() -> None:
    better = Curve(RISING.num_bytes, RISING.accuracy + 0.02)
    assert bd_accuracy(better, RISING) == pytest.approx(0.02)
    assert bd_accuracy(RISING, better) == pytest.approx(-0.02)


def test_two_points_are_compared_along_straight_lines() -> None:
    """Between accuracies 0.6 and 0.7 one needs 100 to 400 bytes and the other always 50: mean of the logs."""
    ours, other = curve((100, 0.6), (400, 0.7)), curve((50, 0.5), (50.0001, 0.8))
    assert bd_rate(ours, other) == pytest.approx(200 / 50 - 1, rel=1e-5)


def test_points_behind_the_front_change_nothing() -> None:
    worse = curve((150, 0.55), (900, 0.7), *zip(*RISING, strict=True))
    half = Curve(RISING.num_bytes / 2, RISING.accuracy)
    assert bd_rate(half, worse) == pytest.approx(-0.5)


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(NotComputable, match="single point"):
        bd_rate(RISING, curve((100, 0.7)))
    with pytest.raises(NotComputable, match="no accuracies in common"):
        bd_rate(RISING, curve((100, 0.1), (200, 0.2)))
    with pytest.raises(NotComputable, match="no sizes in common"):
        bd_accuracy(RISING, curve((1, 0.1), (2, 0.9)))
