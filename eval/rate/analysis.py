"""From the rows of a sweep to its figures. Every one is computed from the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from eval.rate.config import RateConfig
from eval.rate.fronts import Curve, NotComputable, bd_accuracy, bd_rate, bytes_at, front, pareto
from eval.rate.points import GROUPS, LABELS, Point
from tofc.errors import UserError

QUANTILES = (0.025, 0.975)
FULL, MOST = "full accuracy", "95 % of it"
TARGETS: dict[str, Callable[[float], float]] = {FULL: lambda a: a - 0.01, MOST: lambda a: 0.95 * a}
"""What bytes are compared at, from the accuracy of the uncoded features."""
NOT_REACHED = "not reached"  # a bound of an interval whose resamples do not reach the accuracy
MIN_COMPUTED = 0.95  # share of resamples that must have a figure before an interval is given


@dataclass(frozen=True)
class Results:
    """Sums by picture and point: `right` and `of` by form, and `num_bytes`, each [pictures, points]."""

    points: tuple[Point, ...]
    right: dict[str, np.ndarray]
    of: dict[str, np.ndarray]
    num_bytes: np.ndarray
    num_tokens: np.ndarray

    @classmethod
    def read(cls, rows: Path, points: Sequence[Point]) -> Results:
        """Sums up the rows; UserError unless every point has answered all questions about every picture."""
        table = pyarrow.parquet.read_table(rows)
        names = [(point.system, point.name) for point in points]
        columns = {name: i for i, name in enumerate(names)}
        found = zip(table["system"].to_pylist(), table["point"].to_pylist(), strict=True)
        column = np.array([columns[name] for name in found])
        pictures, row = np.unique(table["picture"].to_numpy(), return_inverse=True)
        forms = table["form"].to_numpy()
        shape = (len(pictures), len(points))

        def total(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
            sums = np.zeros(shape)
            np.add.at(sums, (row[chosen], column[chosen]), values[chosen])
            return sums

        kinds = {form: forms == form for form in dict.fromkeys(forms)}
        right = {form: total(table["right"].to_numpy(), chosen) for form, chosen in kinds.items()}
        # Descriptions state as many facts as they like, so that questions are what must be equal.
        asked = {form: total(np.ones(len(column)), chosen) for form, chosen in kinds.items()}
        for form, counts in asked.items():
            if (counts != counts[:, :1]).any():
                raise UserError(f"{rows}: not every point has answered every {form} question; sweep again")
        of = {form: total(table["of"].to_numpy(), chosen) for form, chosen in kinds.items()}
        size, tokens = np.zeros(shape), np.zeros(shape)
        size[row, column], tokens[row, column] = table["bytes"].to_numpy(), table["tokens"].to_numpy()
        return cls(tuple(points), right, of, size, tokens)


def analyse(rows: Path, points: Sequence[Point], config: RateConfig) -> dict[str, Any]:
    """The summary of a sweep in plain numbers; a figure that cannot be had is `{"not_computed": why}`."""
    results = Results.read(rows, points)
    if config.headline not in results.right:
        raise UserError(
            f"headline is {config.headline!r}; the questions have the forms {', '.join(results.right)}"
        )
    weights = _resamples(len(results.num_bytes), config)  # [S, n]
    accuracy = {form: _accuracy(results, form, weights) for form in results.right}  # [1 + S, P] each
    mean_bytes = np.vstack([results.num_bytes.mean(0), weights @ results.num_bytes / len(results.num_bytes)])
    return {
        "pictures": len(results.num_bytes),
        "resamples": config.resamples,
        "headline": config.headline,
        "points": _points(results, accuracy),
        "fronts": {form: _fronts(results, a[0]) for form, a in accuracy.items()},
        "reference": _interval(accuracy[config.headline][:, 0]),
        "systems": _systems(results.points, accuracy[config.headline], mean_bytes),
    }


def _resamples(num_pictures: int, config: RateConfig) -> np.ndarray:
    """How often each picture is drawn: [S, n]."""
    generator = np.random.default_rng(config.seed)
    return generator.multinomial(num_pictures, np.full(num_pictures, 1 / num_pictures), config.resamples)


def _accuracy(results: Results, form: str, weights: np.ndarray) -> np.ndarray:
    """Accuracy of each point, [1 + S, P]: of all pictures, then of each resample."""
    every = np.vstack([np.ones(weights.shape[1]), weights])
    of = every @ results.of[form]
    if (of == 0).any():
        raise UserError(f"too few pictures for the accuracy of {form} questions: raise the limit")
    return every @ results.right[form] / of


def _interval(values: np.ndarray) -> dict[str, Any]:
    """The first value with the quantiles of the others, rounded outwards to one that was drawn."""
    low = np.quantile(values[1:], QUANTILES[0], method="lower")
    high = np.quantile(values[1:], QUANTILES[1], method="higher")
    bounds = {"low": float(low), "high": float(high)}
    return {
        "value": float(values[0]),
        **{name: value if np.isfinite(value) else NOT_REACHED for name, value in bounds.items()},
    }


def _points(results: Results, accuracy: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    found = []
    for column, point in enumerate(results.points):
        size = results.num_bytes[:, column]
        p50, p95 = np.quantile(size, (0.5, 0.95))
        found.append(
            {
                "system": point.system,
                "point": point.name,
                "settings": dict(point.settings),
                "bytes": {"mean": float(size.mean()), "p50": float(p50), "p95": float(p95)},
                "tokens": float(results.num_tokens[:, column].mean()),
                "accuracy": {form: _interval(a[:, column]) for form, a in accuracy.items()},
            }
        )
    return found


def _columns(points: Sequence[Point]) -> dict[str, np.ndarray]:
    """The columns of each system."""
    systems = [point.system for point in points]
    return {name: np.flatnonzero([s == name for s in systems]) for name in LABELS if name in systems}


def _fronts(results: Results, accuracy: np.ndarray) -> dict[str, list[str]]:
    """Names of the points on the front of each system."""
    size = results.num_bytes.mean(0)
    return {
        system: [results.points[columns[i]].name for i in pareto(Curve(size[columns], accuracy[columns]))]
        for system, columns in _columns(results.points).items()
    }


def _systems(points: Sequence[Point], accuracy: np.ndarray, size: np.ndarray) -> dict[str, Any]:
    """By system and group of systems: bytes at the targets, and how TOFC compares with it."""
    members = {system: [system] for system in _columns(points)}
    members |= {name: list(group) for name, group in GROUPS.items() if set(group) <= members.keys()}
    columns = _columns(points)
    curves = {
        name: [front(Curve(s[chosen], a[chosen])) for s, a in zip(size, accuracy, strict=True)]
        for name, group in members.items()
        for chosen in [np.concatenate([columns[system] for system in group])]
    }  # of all pictures, then of each resample
    found: dict[str, Any] = {}
    for name, own in curves.items():
        found[name] = {"bytes": {}}
        for target, at in TARGETS.items():
            wanted = [at(a[0]) for a in accuracy]  # the reference is the first point
            found[name]["bytes"][target] = _needed(own, wanted)
            if "tofc" in curves and name != "tofc":
                saved = _savings(curves["tofc"], own, wanted)
                found[name].setdefault("savings", {})[target] = saved
        if "tofc" in curves and name != "tofc":
            found[name]["bd_rate"] = _over_resamples(bd_rate, curves["tofc"], own)
            found[name]["bd_accuracy"] = _over_resamples(bd_accuracy, curves["tofc"], own)
    return found


def _bytes_or_infinity(curve: Curve, target: float) -> float:
    """What no number of bytes reaches takes infinitely many: resamples may say so, the whole may not."""
    return bytes_at(curve, target)[0] if curve.accuracy[-1] >= target else np.inf


def _saving(ours: Curve, other: Curve, target: float) -> float:
    mine, theirs = _bytes_or_infinity(ours, target), _bytes_or_infinity(other, target)
    if np.isinf(mine) and np.isinf(theirs):
        raise NotComputable("neither reaches this accuracy")
    return 1.0 if np.isinf(theirs) else 1 - mine / theirs


def _needed(own: Sequence[Curve], wanted: Sequence[float]) -> dict[str, Any]:
    try:
        bytes_at(own[0], wanted[0])
    except NotComputable as error:
        return {"not_computed": str(error)}
    found = _over_resamples(_bytes_or_infinity, own, wanted)
    if "value" in found and bytes_at(own[0], wanted[0])[1]:
        found["bound"] = "at most"
    return found


def _savings(ours: Sequence[Curve], other: Sequence[Curve], wanted: Sequence[float]) -> dict[str, Any]:
    """The share of the other system's bytes that TOFC does without."""
    try:
        few, fewer = bytes_at(ours[0], wanted[0])[1], bytes_at(other[0], wanted[0])[1]
    except NotComputable as error:
        return {"not_computed": str(error)}
    if few and fewer:
        return {"not_computed": "both begin above this accuracy: sweep cheaper points"}
    found = _over_resamples(_saving, ours, other, wanted)
    if few or fewer:
        found["bound"] = "at least" if few else "at most"
    return found


def _over_resamples(figure: Callable[..., float], *series: Sequence[Any]) -> dict[str, Any]:
    """A figure of all pictures with its interval over the resamples."""
    arguments = list(zip(*series, strict=True))
    try:
        values = [figure(*arguments[0])]
    except NotComputable as error:
        return {"not_computed": str(error)}
    for sample in arguments[1:]:
        try:
            values.append(figure(*sample))
        except NotComputable:
            continue
    computed = (len(values) - 1) / (len(arguments) - 1)
    if computed < MIN_COMPUTED:
        why = f"only {100 * computed:.0f} % of the resamples have this figure"
        return {"value": values[0], "interval_not_computed": why}
    return {**_interval(np.array(values)), "computed": computed}
