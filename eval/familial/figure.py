"""Accuracy over parameters, by category and on average: figure 9 of arXiv 2506.12479 for one family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.familial.analysis import AVERAGE, Result
from eval.familial.answers import BRANCH, DIRECT, System
from tofc.errors import UserError
from tofc.familial import FULL

STYLES = {
    BRANCH: ("#0072B2", "-", "o", "branches (EESB)"),
    DIRECT: ("#D55E00", "--", "s", "head on the exit's state"),
}
WIDTH, HEIGHT, COLUMNS = 2.9, 2.4, 4  # inches of a panel
BAR_SHARE, BAR_KEPT = 45, 0.95


def draw(results: Sequence[Result], systems: Sequence[System], title: str, out: Path) -> Path:
    """Writes the figure as a PNG; UserError where matplotlib is missing."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"the figure needs matplotlib ({error}): pip install 'tofc[eval]'") from error
    categories = sorted({result.category for result in results} - {AVERAGE})
    panels = [AVERAGE, *categories]
    rows = -(-len(panels) // COLUMNS)
    settings: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH * COLUMNS, HEIGHT * rows + 0.5), layout="constrained")
        axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        for panel, category in zip(axes, panels, strict=False):
            _panel(panel, [r for r in results if r.category == category], systems)
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
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    return out


def _panel(panel: Any, results: Sequence[Result], systems: Sequence[System]) -> None:
    of = {system.name: system for system in systems}
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
