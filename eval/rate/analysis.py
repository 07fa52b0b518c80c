"""From the rows of a sweep to its figures. Every one is computed from the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from eval.lab.curves import Curve, bd_accuracy, bd_rate, bytes_at, front, pareto
from eval.lab.intervals import MIN_COMPUTED, Estimate, NotComputable, Tallies, over_resamples, resamples
from eval.lab.rows import read_table
from eval.rate.config import RateConfig
from eval.rate.points import GROUPS, LABELS, TARGETS, WITH_MERGING, AnswerRow, RatePoint
from tofc.errors import UserError

MME_TOTAL = "mme"  # perception and cognition together


def analyse(
    rows: Path, points: Sequence[RatePoint], config: RateConfig, pixels: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The summary of a sweep in plain numbers; a figure that cannot be had is `{"not_computed": why}`.

    `pixels` are those of each picture as it came; without them there are no bits a pixel. UserError unless
    every one of `points`, which are those of the rows, has answered all questions.
    """
    table = read_table(rows, AnswerRow)
    tallies = Tallies.read(
        table, system=("system", "point"), group="form", picture_values=("bytes", "tokens")
    )
    tallies.check_equal_questions(rows)
    assert list(tallies.systems) == [(point.system, point.name) for point in points]
    kinds = dict(zip(table["picture"].to_pylist(), table["category"].to_pylist(), strict=True))
    # MME is so many pictures of each category, which is a design and no accident.
    strata = [kinds[picture] for picture in tallies.pictures] if config.score == "mme" else None
    weights = resamples(len(tallies.pictures), config.resamples, config.seed, strata)  # [1 + R, n]
    accuracy, scales = _measured(table, tallies, weights, config.score)
    if config.headline not in accuracy:
        raise UserError(
            f"headline is {config.headline!r}; the questions have the forms {', '.join(accuracy)}"
        )
    # Resamples that drew no picture of some kind of question have no figure.
    whole = ~np.any([np.isnan(values).any(1) for values in accuracy.values()], axis=0)
    if whole.mean() < MIN_COMPUTED:
        raise UserError(f"too few pictures of some kind of question in {rows}: raise the limit")
    weights, accuracy = weights[whole], {form: values[whole] for form, values in accuracy.items()}
    num_bytes = tallies.picture_values["bytes"]
    curves = [point.curve(config.merged_apart) for point in points]
    columns = {name: np.flatnonzero([c == name for c in curves]) for name in LABELS if name in curves}
    return {
        "pictures": len(tallies.pictures),
        "resamples": config.resamples,
        "headline": config.headline,
        "scales": scales,
        "points": _points(points, curves, tallies, accuracy, pixels),
        "fronts": {form: _fronts(points, columns, num_bytes.mean(0), a[0]) for form, a in accuracy.items()},
        "reference": Estimate.of(accuracy[config.headline][:, 0]).as_json(),
        "systems": _systems(columns, accuracy[config.headline], weights @ num_bytes / len(num_bytes)),
    }


def _measured(
    table: pyarrow.Table, tallies: Tallies, weights: np.ndarray, score: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What is compared, in 0..1, [1 + R, P] by form, and in which units it is told: factor and name."""
    if score != "mme":
        measure = tallies.accuracy if score == "accuracy" else tallies.whole
        found = {form: measure(weights, form) for form in tallies.right}
        scales = {form: {"factor": 100, "name": "accuracy (%)"} for form in found}
    else:
        categories = Tallies.read(table, system=("system", "point"))
        pairs = zip(table["form"].to_pylist(), table["category"].to_pylist(), strict=True)
        held: dict[str, list[str]] = {form: [] for form in (*tallies.right, MME_TOTAL)}
        for form, category in dict.fromkeys(pairs):
            held[form].append(category)
            held[MME_TOTAL].append(category)
        found = {form: categories.mme_score(weights, some) for form, some in held.items()}
        scales = {form: {"factor": 200 * len(some), "name": "MME score"} for form, some in held.items()}
    return found, scales


def _points(
    points: Sequence[RatePoint],
    curves: Sequence[str],
    tallies: Tallies,
    accuracy: dict[str, np.ndarray],
    pixels: Mapping[str, int] | None,
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    sizes = None if pixels is None else np.array([pixels[str(picture)] for picture in tallies.pictures])
    for column, (point, curve) in enumerate(zip(points, curves, strict=True)):
        size = tallies.picture_values["bytes"][:, column]
        p50, p95 = np.quantile(size, (0.5, 0.95))
        found.append(
            {
                "system": curve,
                "point": point.name,
                "settings": dict(point.settings),
                "bytes": {"mean": float(size.mean()), "p50": float(p50), "p95": float(p95)},
                "tokens": float(tallies.picture_values["tokens"][:, column].mean()),
                "accuracy": {form: Estimate.of(a[:, column]).as_json() for form, a in accuracy.items()},
            }
        )
        if sizes is not None:
            found[-1]["bits_per_pixel"] = float((8 * size / sizes).mean())
    return found


def _fronts(
    points: Sequence[RatePoint], columns: dict[str, np.ndarray], size: np.ndarray, accuracy: np.ndarray
) -> dict[str, list[str]]:
    """Names of the points on the front of each system."""
    return {
        system: [points[own[i]].name for i in pareto(Curve(size[own], accuracy[own]))]
        for system, own in columns.items()
    }


def _systems(columns: dict[str, np.ndarray], accuracy: np.ndarray, size: np.ndarray) -> dict[str, Any]:
    """By system and group of systems: bytes at the targets, and how TOFC compares with it."""
    members = {system: [system] for system in columns}
    for name, group in GROUPS.items():
        if set(group) <= members.keys():
            merged = [WITH_MERGING[one] for one in group if WITH_MERGING.get(one) in members]
            members[name] = [*group, *merged]
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
    """Bytes at which a curve reaches an accuracy; infinite where a resample's curve never does."""
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
    try:
        found, computed = over_resamples(figure, *series)
    except NotComputable as error:
        return {"not_computed": str(error)}
    if isinstance(found, Estimate):
        return {**found.as_json(), "computed": computed}
    why = f"only {100 * computed:.0f} % of the resamples have this figure"
    return {"value": found, "interval_not_computed": why}
