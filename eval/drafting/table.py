"""The summary of a run as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from eval.lab.tables import table


def tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    """Systems at each round trip; then two and three tiers at the paper's and at counted speeds."""
    yield _measured(summary)
    rows = summary["published"]
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        title = (
            f"{benchmark}, simulated with the speeds of the paper's tiers: times as fast as the top one alone"
        )
        yield _simulated(title, [row for row in rows if row["benchmark"] == benchmark])
    if "counted" in summary:
        names = [shape["name"] for shape in summary["config"]["counted"]["shapes"]]
        alone = ", ".join(
            f"{name} {rate:.0f}" for name, rate in zip(names, summary["counted"][0]["alone"], strict=True)
        )
        yield _simulated(f"counted passes ({alone} tokens/s alone): times as fast", summary["counted"])


def _measured(summary: Mapping[str, Any]) -> Table:
    found, config = summary["measured"], summary["config"]
    title = (
        f"{config['model']}: {config['draft']} drafts, {100 * found['agreement']:.0f} % of its tokens would "
        f"stand; alone it says {found['device_alone_tokens_per_second']:.0f} tokens/s"
    )
    columns = (
        "round trip",
        "tokens/s",
        "of edge alone",
        "drafts a round",
        "with states",
        "bytes a token",
        "equal",
        "simulated/measured",
    )
    rows = []
    for row in found["rows"]:
        ratio = row.get("simulated_over_measured")
        rows.append(
            (
                row["system"],
                f"{row['round_trip_ms']:g} ms",
                f"{row['tokens_per_second']:.1f}",
                f"{row['of_edge_alone']:.2f}",
                f"{row['stood_per_round']:.1f}",
                f"{100 * row['with_states']:.0f} %",
                f"{row['uplink_bytes_per_token']:.0f}",
                f"{row['equal_to_edge_alone']}/{row['answers']}",
                "" if ratio is None else f"{ratio:.2f}",
            )
        )
    return table(title, ["system"], columns, rows)


def _simulated(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    shares = list(dict.fromkeys(row["share"] for row in rows))
    lines = []
    for tiers in ("two", "three"):
        for parallel in (False, True):
            cells = [row for row in rows if (row["tiers"], row["parallel"]) == (tiers, parallel)]
            paper = cells[0].get("paper") if cells else None
            lines.append(
                (
                    f"{tiers}, {'in parallel' if parallel else 'in turn'}",
                    *(f"{row['ratio']:.2f}" for row in cells),
                    "" if paper is None else f"{paper:.2f}",
                )
            )
    return table(title, ["tiers"], [*(f"{100 * share:g} % stand" for share in shares), "paper"], lines)
