"""The accuracy table as people read it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_accuracy(result: Mapping[str, Any]) -> None:
    """Prints what the `accuracy` command found on standard output: shares in percent with 95 % intervals."""
    sent = result["bytes_per_picture"]
    how = f"quality {result['quality']}, {sent:.0f} bytes a picture" if sent else "uncoded"
    where = f"{result['scenes']} {result['split']} scenes"
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    rows = _table(f"{result['checkpoint']} on {where}, {result['tokens']} tokens, {how}", "questions")
    for row in result["rows"]:
        rows.add_row(row["name"], *_rate(row))
    console.print(rows)
    scores = ", ".join(f"{name} {value:.1f}" for name, value in result["mme"].items())
    console.print(f"MME score (0 to 200): {scores}")
    if result["held_out"]:
        console.print(_held_out_rows(result["held_out"]))


def _held_out_rows(differences: Sequence[Mapping[str, Any]]) -> Table:
    rows = _table("colour-object pairs never shown in training", "held out", "seen pairs", "difference")
    for row in differences:
        seen = _percent(row["seen"]["value"])
        rows.add_row(row["form"], *_rate(row["held_out"]), seen, f"{row['difference']:+.1f}")
    return rows


def _table(title: str, first: str, *more: str) -> Table:
    rows = Table(first, title=title, box=None)
    for name in ("n", "correct %", "95 % interval", *more):
        rows.add_column(name, justify="right")
    return rows


def _rate(rate: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(rate["n"]), _percent(rate["value"]), f"{_percent(rate['low'])} to {_percent(rate['high'])}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
