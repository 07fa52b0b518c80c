"""From rows to accuracies of members and direct exits: in numbers, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from rich.table import Table

from eval.familial.members import BRANCH, DIRECT, FamilyExit
from eval.lab.figures import BLUE, VERMILION, drawn
from eval.lab.intervals import Estimate, Tallies, resamples
from eval.lab.terminal import interval, percent, table
from tofc.familial import FULL

AVERAGE = "average"
STYLES = {
    BRANCH: (BLUE, "-", "o", "branches (EESB)"),
    DIRECT: (VERMILION, "--", "s", "head on the exit's state"),
}
WIDTH, HEIGHT, COLUMNS = 2.9, 2.4, 4  # inches of a panel
BAR_SHARE, BAR_KEPT = 45, 0.95


@dataclass(frozen=True)
class ExitAccuracy:
    """An exit on one category (or their `AVERAGE`): accuracy, and accuracy over the full model's."""

    system: str
    category: str
    questions: int
    accuracy: Estimate
    kept: Estimate


def analyse(rows: pyarrow.Table, seed: int = 0) -> list[ExitAccuracy]:
    """Accuracies of every exit and category, all forms of question together.

    The average weighs categories alike. The same resamples of pictures serve all exits, so that `kept`
    compares like with like.
    """
    tallies = Tallies.read(rows)
    weights = resamples(len(tallies.pictures), seed=seed)
    categories = sorted(tallies.of)
    shares = {category: tallies.accuracy(weights, category) for category in categories}
    shares[AVERAGE] = np.mean([shares[category] for category in categories], axis=0)
    questions = {category: tallies.of[category].sum(0) for category in categories}
    questions[AVERAGE] = np.sum([questions[category] for category in categories], axis=0)
    full = tallies.systems.index((FULL,))
    results = []
    for number, (name,) in enumerate(tallies.systems):
        for category, share in shares.items():
            kept = share[:, number] / np.maximum(share[:, full], 1e-9)
            pair = (Estimate.of(share[:, number]), Estimate.of(kept))
            results.append(ExitAccuracy(name, category, int(questions[category][number]), *pair))
    return results


def accuracy_table(results: Sequence[ExitAccuracy], exits: Sequence[FamilyExit], title: str) -> Table:
    """Exits by size: what each keeps of the full accuracy on average, and its accuracy by category."""
    whole = next(one.num_parameters for one in exits if one.name == FULL)
    categories = sorted({result.category for result in results} - {AVERAGE})
    by_place = {(result.system, result.category): result for result in results}
    rows = []
    for one in sorted(exits, key=lambda one: (one.kind, one.num_parameters)):
        average = by_place[one.name, AVERAGE]
        rows.append(
            [
                one.name,
                f"{one.num_parameters:,}",
                f"{percent(one.num_parameters / whole)} %",
                percent(average.accuracy.value),
                interval(average.accuracy),
                percent(average.kept.value),
                interval(average.kept),
                *(percent(by_place[one.name, category].accuracy.value) for category in categories),
            ]
        )
    figures = ("parameters", "of full", "average %", "95 % interval", "kept %", "95 % interval", *categories)
    return table(title, ["member"], figures, rows)


def draw(results: Sequence[ExitAccuracy], exits: Sequence[FamilyExit], title: str, out: Path) -> Path:
    """Accuracy over parameters, by category and on average: figure 9 of arXiv 2506.12479 for one family."""
    categories = sorted({result.category for result in results} - {AVERAGE})
    panels = [AVERAGE, *categories]
    rows = -(-len(panels) // COLUMNS)
    with drawn([out], (WIDTH * COLUMNS, HEIGHT * rows + 0.5)) as figure:
        axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        for panel, category in zip(axes, panels, strict=False):
            _panel(panel, [r for r in results if r.category == category], exits)
            panel.set_title(category, fontsize=9, fontweight="bold" if category == AVERAGE else "normal")
        for panel in axes[len(panels) :]:
            panel.axis("off")
        for number in range(0, len(panels), COLUMNS):
            axes[number].set_ylabel("correct %")
        for number in range(max(0, len(panels) - COLUMNS), len(panels)):
            axes[number].set_xlabel("parameters, % of the full language model")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.suptitle(title, fontsize=9)
    return out


def _panel(panel: Any, results: Sequence[ExitAccuracy], exits: Sequence[FamilyExit]) -> None:
    of = {one.name: one for one in exits}
    whole = of[FULL].num_parameters
    full = next(result for result in results if result.system == FULL)
    for kind, (colour, line, marker, label) in STYLES.items():
        # The full model ends both lines: it is the branch, and the exit, behind the last block.
        chosen = [r for r in results if of[r.system].kind == kind or r.system == FULL]
        chosen.sort(key=lambda result: of[result.system].num_parameters)
        x = [100 * of[result.system].num_parameters / whole for result in chosen]
        y = [100 * result.accuracy.value for result in chosen]
        low = [100 * result.accuracy.low for result in chosen]
        high = [100 * result.accuracy.high for result in chosen]
        panel.plot(x, y, line, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=label)
        panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    kept = 100 * BAR_KEPT * full.accuracy.value
    panel.axhline(kept, color="#666666", linewidth=0.8, linestyle=":", label="95 % of the full accuracy")
    panel.axvline(BAR_SHARE, color="#999999", linewidth=0.8, linestyle=":")
    panel.set_xlim(0, 103)
    panel.grid(alpha=0.2)
