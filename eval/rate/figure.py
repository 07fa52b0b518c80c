"""The curves of a sweep as a figure for a paper: accuracy over bytes, one panel a form of question.

Beside them may stand what others published: the numbers are theirs, and labelled as theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.lab.figures import BLACK, BLUE, BROWN, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, drawn
from eval.rate.points import LABELS
from tofc.config import load_yaml
from tofc.errors import ConfigError


@dataclass(frozen=True)
class PublishedCurve:
    """One system of one publication on one data set.

    `points` are (size, score): sizes in `unit`, which is bits a pixel or bytes, scores as they were published
    of `form`, a form of question of a sweep.
    """

    label: str
    data: str
    form: str
    points: tuple[tuple[float, float], ...]
    unit: Literal["bpp", "bytes"] = "bpp"


@dataclass(frozen=True)
class PublishedSaving:
    """What the paper says that TOFC saves against a system on a data set, as a share, lowest to highest."""

    data: str
    system: str
    saves: tuple[float, float]


@dataclass(frozen=True)
class Published:
    """A file of published figures, with their sources."""

    sources: tuple[str, ...]
    curves: tuple[PublishedCurve, ...]
    savings: tuple[PublishedSaving, ...]


def published(data: str) -> Published:
    """What `configs/published.yaml` has about a data set; ConfigError where that is nothing."""
    whole = load_yaml("published", Published)
    curves = tuple(one for one in whole.curves if one.data == data)
    savings = tuple(one for one in whole.savings if one.data == data)
    if not curves and not savings:
        known = sorted({one.data for one in whole.curves} | {one.data for one in whole.savings})
        raise ConfigError(f"beside is {data!r}; there are published figures of {', '.join(known)}")
    return Published(whole.sources, curves, savings)


FORM_TITLES = {
    "yes_no": "Yes/no",
    "choice": "Multiple choice",
    "free": "Short answers",
    "describe": "Descriptions",
    "exact_match": "Exact match",
    "perception": "MME perception",
    "cognition": "MME cognition",
}
# Pictures are solid, features dashed, and so are pictures whose features are merged.
STYLES: Mapping[str, tuple[str, str, str]] = {
    "tofc": (BLUE, "-", "o"),
    "tofc_exits": (BLUE, "-.", "X"),
    "jpeg": (VERMILION, "-", "s"),
    "webp": (ORANGE, "-", "D"),
    "jpeg_fmm": (VERMILION, "--", "s"),
    "webp_fmm": (ORANGE, "--", "D"),
    "avif": (PURPLE, "-", "^"),
    "jpegxl": (BROWN, "-", "v"),
    "merged_jpeg": (GREEN, "--", "s"),
    "merged_webp": (SKY, "--", "D"),
    "int8": (GREY, "--", "P"),
    "uncoded": (BLACK, ":", "o"),
    "raw": (BLACK, "none", "*"),
}
PUBLISHED_COLOURS = ("#555555", GREEN, PURPLE, BROWN, SKY, VERMILION, ORANGE, BLUE)


@dataclass(frozen=True)
class Axis:
    """What sizes are told in."""

    name: str
    digits: str
    of: Callable[[Mapping[str, Any]], float]


BYTES_AXIS = Axis("bytes a picture", ",.0f", lambda point: float(point["bytes"]["mean"]))
BPP_AXIS = Axis("bits a pixel", "g", lambda point: float(point["bits_per_pixel"]))
WIDTH, HEIGHT = 3.4, 2.9  # inches of a panel
LABELS_A_PANEL = 2.5  # of the legend, side by side under a panel
MARGIN = 3.0  # percent of the whole above and below


def draw(summary: Mapping[str, Any], out: Path, beside: Sequence[PublishedCurve] = ()) -> list[Path]:
    """Writes `curves` (over bytes) and, where pixels are known, `curves-bpp` (over bits a pixel of the
    picture as it came) as .png and .svg into the folder `out`.

    Lines are Pareto fronts, bands the bootstrap 95 % intervals of their points, small dots the points behind
    the front; `beside` are published curves, thin and dotted. UserError where matplotlib is missing.
    """
    targets = _draw(summary, out / "curves", BYTES_AXIS, [one for one in beside if one.unit == "bytes"])
    if all("bits_per_pixel" in point for point in summary["points"]):
        targets += _draw(summary, out / "curves-bpp", BPP_AXIS, [one for one in beside if one.unit == "bpp"])
    return targets


def _draw(summary: Mapping[str, Any], stem: Path, axis: Axis, beside: Sequence[PublishedCurve]) -> list[Path]:
    forms = list(summary["fronts"])
    targets = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".svg")]
    others = {one.label: i for i, one in enumerate(beside)}
    height = HEIGHT + 0.5 + 0.12 * len(others)
    with drawn(targets, (WIDTH * len(forms), height)) as figure:
        panels = figure.subplots(1, len(forms), squeeze=False)[0]
        for panel, form in zip(panels, forms, strict=True):
            _panel(panel, summary, form, axis)
            for one in beside:
                if one.form == form:
                    _published(panel, one, others[one.label])
        labelled: dict[str, Any] = {}
        for panel in panels:
            labelled |= dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True))
        labels = [label for label in (*LABELS.values(), *others) if label in labelled]
        handles = [labelled[label] for label in labels]
        num_rows = math.ceil(len(labels) / (LABELS_A_PANEL * len(forms)))
        columns = math.ceil(len(labels) / num_rows)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return targets


def _panel(axes: Any, summary: Mapping[str, Any], form: str, axis: Axis) -> None:
    points = {(point["system"], point["point"]): point for point in summary["points"]}
    fronts, scale = summary["fronts"][form], summary["scales"][form]
    factor = scale["factor"]
    reference = points["raw", fronts["raw"][0]]["accuracy"][form]["value"]
    _reference(axes, factor * reference, factor / 100)
    heights = []
    for system in sorted(fronts, key=list(STYLES).index, reverse=True):
        best = [points[system, name] for name in fronts[system]]
        behind = [p for (s, name), p in points.items() if s == system and name not in fronts[system]]
        _curve(axes, system, (best, behind), form, factor, axis)
        heights += [factor * point["accuracy"][form]["value"] for point in best]
    margin = MARGIN * factor / 100
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:{axis.digits}}")
    axes.set_ylim(min(heights) - margin, min(factor, max(heights) + margin))
    axes.set_xlabel(axis.name)
    axes.set_ylabel(scale["name"])
    axes.set_title(FORM_TITLES.get(form, form), loc="left")
    axes.grid(True, which="major", axis="x", color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)


def _published(axes: Any, curve: PublishedCurve, number: int) -> None:
    """Somebody else's curve, labelled as theirs; scores are on the axis as they were published."""
    sizes, scores = zip(*curve.points, strict=True)
    axes.plot(
        sizes, scores, label=curve.label, color=PUBLISHED_COLOURS[number % len(PUBLISHED_COLOURS)],
        linestyle=(0, (1, 1.5)), linewidth=1.0, marker="x", markersize=3, zorder=2,
    )  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, *scores), max(high, *scores))


def _reference(axes: Any, accuracy: float, point: float) -> None:
    """Lines at the accuracy of the uncoded features, and one point below, with their names at the right."""
    for below, style, words, side in ((0, "-", "uncoded", "bottom"), (1, (0, (2, 2)), "1 point less", "top")):
        height = accuracy - below * point
        axes.axhline(height, color="#999999", linewidth=0.8, linestyle=style, zorder=0)
        axes.annotate(
            words, (1, height), xycoords=("axes fraction", "data"), xytext=(0, -2 if below else 2),
            textcoords="offset points", ha="right", va=side, fontsize=6, color="#777777",
        )  # fmt: skip


def _curve(
    axes: Any, system: str, parts: tuple[list[Any], list[Any]], form: str, factor: float, axis: Axis
) -> None:
    """The front of a system, and the points behind it."""
    best, behind = parts
    colour, line, marker = STYLES[system]
    size = [axis.of(point) for point in best]
    value, low, high = ([factor * p["accuracy"][form][key] for p in best] for key in ("value", "low", "high"))
    ours = system == "tofc"
    axes.scatter(
        [axis.of(p) for p in behind],
        [factor * p["accuracy"][form]["value"] for p in behind],
        s=3, color=colour, alpha=0.35, linewidths=0, zorder=1,
    )  # fmt: skip
    if len(best) > 1:
        axes.fill_between(size, low, high, color=colour, alpha=0.18 if ours else 0.08, linewidth=0, zorder=1)
    axes.plot(
        size, value, linestyle=line, color=colour, marker=marker, label=LABELS[system],
        linewidth=1.8 if ours else 1.0, markersize=6 if marker == "*" else 3.5 if ours else 2.6,
        zorder=4 if ours else 3,
    )  # fmt: skip
