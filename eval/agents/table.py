"""From rows to accuracies with intervals, and leads over the best agent and over the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow
from rich.table import Table

from eval.lab.intervals import Estimate, Tallies, resamples
from eval.lab.terminal import interval, percent, table

SERVER = "server"


@dataclass(frozen=True)
class SystemAccuracy:
    """One system: accuracy over all questions, its lead over two rivals, accuracy by category, failures.

    Leads are of the same resamples of pictures. The best agent is the one that is best on these very
    questions: a rival that could not be known beforehand.
    """

    system: str
    accuracy: Estimate
    over_best_agent: Estimate
    over_server: Estimate
    by_category: dict[str, float]
    failed: int


def analyse(rows: pyarrow.Table, agents: Sequence[str], seed: int = 0) -> tuple[str, list[SystemAccuracy]]:
    """The best agent's name, and all systems in the order of the rows."""
    tallies = Tallies.read(rows)
    tallies.check_equal_questions("the rows")
    weights = resamples(len(tallies.pictures), seed=seed)
    right, of = (np.sum(list(sums.values()), axis=0) for sums in (tallies.right, tallies.of))
    shares = (weights @ right) / (weights @ of)  # [1 + resamples, systems]
    names = [name for (name,) in tallies.systems]
    best = max(agents, key=lambda name: shares[0, names.index(name)])
    by_category = {one: tallies.accuracy(weights[:1], one)[0] for one in sorted(tallies.of)}
    failed = [
        name
        for name, fault in zip(rows["system"].to_pylist(), rows["fault"].to_pylist(), strict=True)
        if fault
    ]
    found = []
    for number, name in enumerate(names):
        best_lead, server_lead = (
            Estimate.of(shares[:, number] - shares[:, names.index(other)]) for other in (best, SERVER)
        )
        own = {one: float(share[number]) for one, share in by_category.items()}
        accuracy = Estimate.of(shares[:, number])
        found.append(SystemAccuracy(name, accuracy, best_lead, server_lead, own, failed.count(name)))
    return best, found


def accuracy_table(found: Sequence[SystemAccuracy], best: str, title: str) -> Table:
    """One line a system, in percent."""
    categories = list(found[0].by_category)
    rows = (
        [
            one.system,
            percent(one.accuracy.value),
            interval(one.accuracy),
            *_lead(one.over_best_agent),
            *_lead(one.over_server),
            *(percent(one.by_category[category], 0) for category in categories),
            str(one.failed or ""),
        ]
        for one in found
    )
    figures = (
        "correct %",
        "95 % interval",
        f"- {best}",
        "interval",
        "- server",
        "interval",
        *categories,
        "failed",
    )
    return table(title, ["system"], figures, rows)


def _lead(found: Estimate) -> tuple[str, str]:
    return f"{100 * found.value:+.1f}", f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
