"""The member table as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from eval.familial.analysis import AVERAGE, Result
from eval.familial.answers import System
from tofc.familial import FULL


def accuracy_table(results: Sequence[Result], systems: Sequence[System], title: str) -> Table:
    """Systems by size: what each keeps of the full accuracy on average, and its accuracy by category."""
    whole = next(system.num_parameters for system in systems if system.name == FULL)
    categories = sorted({result.category for result in results} - {AVERAGE})
    table = Table(title=title, box=None)
    table.add_column("member")
    for name in (
        "parameters",
        "of full",
        "average %",
        "95 % interval",
        "kept %",
        "95 % interval",
        *categories,
    ):
        table.add_column(name, justify="right")
    by_place = {(result.system, result.category): result for result in results}
    for system in sorted(systems, key=lambda system: (system.kind, system.num_parameters)):
        average = by_place[system.name, AVERAGE]
        table.add_row(
            system.name,
            f"{system.num_parameters:,}",
            f"{100 * system.num_parameters / whole:.1f} %",
            _percent(average.accuracy.value),
            f"{_percent(average.accuracy.low)} to {_percent(average.accuracy.high)}",
            _percent(average.kept.value),
            f"{_percent(average.kept.low)} to {_percent(average.kept.high)}",
            *(_percent(by_place[system.name, category].accuracy.value) for category in categories),
        )
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
