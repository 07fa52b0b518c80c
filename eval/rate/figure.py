"""The curves of a sweep as a figure for a paper: accuracy over bytes, one panel a form of question."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.lab.figures import BLACK, BLUE, BROWN, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, drawn
from eval.rate.points import LABELS

FORM_TITLES = {
    "yes_no": "Yes/no",
    "choice": "Multiple choice",
    "free": "Short answers",
    "describe": "Descriptions",
}
# Pictures are solid, features dashed.
STYLES: Mapping[str, tuple[str, str, str]] = {
    "tofc": (BLUE, "-", "o"),
    "tofc_exits": (BLUE, "-.", "X"),
    "jpeg": (VERMILION, "-", "s"),
    "webp": (ORANGE, "-", "D"),
    "avif": (PURPLE, "-", "^"),
    "jpegxl": (BROWN, "-", "v"),
    "merged_jpeg": (GREEN, "--", "s"),
    "merged_webp": (SKY, "--", "D"),
    "int8": (GREY, "--", "P"),
    "uncoded": (BLACK, ":", "o"),
    "raw": (BLACK, "none", "*"),
}
WIDTH, HEIGHT = 3.4, 2.9  # inches of a panel
LABELS_A_PANEL = 2.5  # of the legend, side by side under a panel
MARGIN = 3.0  # points of accuracy above and below


def draw(summary: Mapping[str, Any], out: Path) -> list[Path]:
    """Writes `curves.png` and `curves.svg` into the folder `out`.

    Lines are Pareto fronts, bands the bootstrap 95 % intervals of their points, small dots the points behind
    the front. UserError where matplotlib is missing.
    """
    forms = list(summary["fronts"])
    targets = [out / "curves.png", out / "curves.svg"]
    with drawn(targets, (WIDTH * len(forms), HEIGHT + 0.5)) as figure:
        panels = figure.subplots(1, len(forms), squeeze=False)[0]
        for panel, form in zip(panels, forms, strict=True):
            _panel(panel, summary, form)
        panels[0].set_ylabel("accuracy (%)")
        labelled = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
        labels = [label for label in LABELS.values() if label in labelled]
        handles = [labelled[label] for label in labels]
        num_rows = math.ceil(len(labels) / (LABELS_A_PANEL * len(forms)))
        columns = math.ceil(len(labels) / num_rows)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return targets


def _panel(axes: Any, summary: Mapping[str, Any], form: str) -> None:
    points = {(point["system"], point["point"]): point for point in summary["points"]}
    fronts = summary["fronts"][form]
    _reference(axes, 100 * points["raw", fronts["raw"][0]]["accuracy"][form]["value"])
    heights = []
    for system in sorted(fronts, key=list(STYLES).index, reverse=True):
        best = [points[system, name] for name in fronts[system]]
        behind = [p for (s, name), p in points.items() if s == system and name not in fronts[system]]
        _curve(axes, system, best, behind, form)
        heights += [100 * point["accuracy"][form]["value"] for point in best]
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:,.0f}")
    axes.set_ylim(min(heights) - MARGIN, min(100, max(heights) + MARGIN))
    axes.set_xlabel("bytes a picture")
    axes.set_title(FORM_TITLES.get(form, form), loc="left")
    axes.grid(True, which="major", axis="x", color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)


def _reference(axes: Any, accuracy: float) -> None:
    """Lines at the accuracy of the uncoded features, and one point below, with their names at the right."""
    for below, style, words, side in ((0, "-", "uncoded", "bottom"), (1, (0, (2, 2)), "1 point less", "top")):
        height = accuracy - below
        axes.axhline(height, color="#999999", linewidth=0.8, linestyle=style, zorder=0)
        axes.annotate(
            words, (1, height), xycoords=("axes fraction", "data"), xytext=(0, -2 if below else 2),
            textcoords="offset points", ha="right", va=side, fontsize=6, color="#777777",
        )  # fmt: skip


def _curve(axes: Any, system: str, best: list[Any], behind: list[Any], form: str) -> None:
    colour, line, marker = STYLES[system]
    size = [point["bytes"]["mean"] for point in best]
    value, low, high = ([100 * p["accuracy"][form][key] for p in best] for key in ("value", "low", "high"))
    ours = system == "tofc"
    axes.scatter(
        [p["bytes"]["mean"] for p in behind],
        [100 * p["accuracy"][form]["value"] for p in behind],
        s=3, color=colour, alpha=0.35, linewidths=0, zorder=1,
    )  # fmt: skip
    if len(best) > 1:
        axes.fill_between(size, low, high, color=colour, alpha=0.18 if ours else 0.08, linewidth=0, zorder=1)
    axes.plot(
        size, value, linestyle=line, color=colour, marker=marker, label=LABELS[system],
        linewidth=1.8 if ours else 1.0, markersize=6 if marker == "*" else 3.5 if ours else 2.6,
        zorder=4 if ours else 3,
    )  # fmt: skip
