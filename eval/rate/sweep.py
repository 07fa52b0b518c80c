"""A sweep from its config to its rows, figures and summary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.rate import work
from eval.rate.analysis import analyse
from eval.rate.config import RateConfig
from eval.rate.data import load_data
from eval.rate.figure import draw
from eval.rate.fingerprint import made_with
from eval.rate.report import write as write_report
from eval.rate.store import Store

SUMMARY = "summary.json"


def sweep(config: RateConfig, out: Path, processes: int | None, console: Console) -> dict[str, Any]:
    """Runs what is not yet done of a sweep, and writes rows, curves, report and summary, which it returns."""
    data = load_data(config.data)
    config = replace(config, limit=min(config.limit, len(data)))
    store = Store(out, made_with(config, data.name))
    units = work.unfinished(config, store)
    total = len(work.blocks(config)) * len(config.senders())
    default = work.usable_cores() if config.device == "cpu" else 1
    count = max(1, min(processes or default, len(units)))
    if len(units) < total:
        console.print(f"{out}: {total - len(units)} of {total} units are done already")
    with _progress(console) as progress:
        task = progress.add_task("sweep", total=total, completed=total - len(units))
        for done, _ in enumerate(work.run(config, store, units, count) if units else (), 1):
            progress.advance(task)
            if not console.is_terminal and done * 10 // len(units) > (done - 1) * 10 // len(units):
                console.print(f"{done} of {len(units)} units")
    points = [point for sender in config.senders() for point in sender.points]
    rows = store.merge(points, work.blocks(config))
    summary = {"name": config.name, "checkpoint": config.checkpoint, "data": data.name}
    summary |= analyse(rows, points, config)
    draw(summary, out)
    write_report(summary, config, data, out)
    (out / SUMMARY).write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return summary


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
