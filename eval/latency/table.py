"""The summary of a run as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from eval.latency.rows import MODELLED, STAGES

_SHORT = {
    "device": ("device preprocess", "device vision", "device merge", "device code"),
    "link": ("link uplink", "link round trip"),
    "server": tuple(stage for stage in STAGES[:-1] if stage.startswith("server")),
}


def tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    """For each model and each rate of the figure: milliseconds by place to the first token, and beyond.

    A star stands at what is modelled in any part.
    """
    config = summary["config"]
    for model in config["models"]:
        for mbit in config["figure_mbit"]:
            title = f"{model['name']} at {mbit:g} Mbit/s: milliseconds (* modelled, at least in part)"
            table = Table("system", title=title, box=None, title_justify="left")
            columns = ("bytes", "visual tokens", *_SHORT, "first token", f"of {config['reference']}")
            for name in (*columns, f"{config['answer_tokens']} tokens"):
                table.add_column(name, justify="right")
            for bar in summary["bars"]:
                if (bar["model"], bar["mbit"]) == (model["name"], mbit):
                    table.add_row(*_cells(bar))
            yield table


def _cells(bar: Mapping[str, Any]) -> Iterator[str]:
    yield bar["system"]
    yield f"{bar['num_bytes']:,.0f}"
    yield f"{bar['visual_tokens']:.0f}"
    for stages in _SHORT.values():
        parts = [bar["parts"][stage] for stage in stages if stage in bar["parts"]]
        star = "*" if any(part["basis"] == MODELLED for part in parts) else ""
        yield f"{1e3 * sum(part['seconds'] for part in parts):,.1f}{star}"
    yield f"{1e3 * bar['first_token']:,.1f}"
    yield f"{100 * bar['of_reference']:.1f} %"
    yield f"{1e3 * bar['answer']:,.1f}"
