"""`python -m eval.familial accuracy`: every member and direct exit on the scenes, as a table and figure 9.

`python -m eval.familial speed`: tokens a second and memory of each member, as ratios within one run.
Exit codes: 0 done, 2 something the user can put right, 1 a fault of ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from eval.familial.analysis import analyse
from eval.familial.answers import Row, answer, systems, write_rows
from eval.familial.figure import draw
from eval.familial.table import accuracy_table
from tofc.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"familial: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.familial", description="What members are worth.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    accuracy = commands.add_parser("accuracy", help="accuracy of every member, beside direct early exits")
    accuracy.add_argument("--checkpoint", default="scenes-tiny", help="bundled name, folder or hub id")
    accuracy.add_argument("--limit", type=int, default=100, help="scenes (%(default)s)")
    accuracy.add_argument("--split", default="test", choices=("validation", "test"))
    accuracy.add_argument("--quality", type=int, help="of the packets; the checkpoint's if left out")
    accuracy.add_argument("--uncoded", action="store_true", help="features travel uncoded")
    accuracy.add_argument("--no-direct", action="store_true", help="leave out direct early exits")
    accuracy.add_argument("--out", type=Path, default=Path("runs/familial"), help="rows, table and figure")
    accuracy.set_defaults(run=_accuracy)
    return parser


def _accuracy(options: argparse.Namespace) -> None:
    from tofc import Device, Edge

    if options.limit < 1:
        raise UserError(f"--limit is {options.limit}; give at least 1 scene")
    device, edge = Device.from_pretrained(options.checkpoint), Edge.from_pretrained(options.checkpoint)
    chosen = [s for s in systems(edge) if not (options.no_direct and s.kind == "direct")]
    quality = None if options.uncoded else options.quality or edge.config.default_quality
    rows: list[Row] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("members on scenes", total=options.limit * len(chosen))
        for part in answer(device, edge, chosen, options.split, options.limit, quality):
            rows += part
            bar.update(task, advance=len({row.scene for row in part}))
    write_rows(options.out / "rows.csv", rows)
    results = analyse(rows)
    sent = "uncoded" if quality is None else f"quality {quality}"
    title = f"{options.checkpoint}: {options.limit} {options.split} scenes, {sent}"
    table = accuracy_table(results, chosen, title)
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    print(draw(results, chosen, title, options.out / "figure9.png"))
    print(json.dumps({"title": title, "results": [asdict(result) for result in results]}))


if __name__ == "__main__":
    sys.exit(main())
