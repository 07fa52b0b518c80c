"""`python -m eval.familial accuracy`: every member and direct exit on the scenes, as a table and figure 9.

`python -m eval.familial policy`: what exits chosen by question keep of the full accuracy, and what they cost.

`python -m eval.familial speed` and `memory`: tokens a second, bytes read and memory of each member; `random`
writes a family of the published 0.5B shape to measure on.
Exit codes: 0 done, 2 something the user can put right, 1 a fault of ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from eval.familial.analysis import analyse
from eval.familial.answers import Row, answer, systems, write_rows
from eval.familial.choice import choose, summarise
from eval.familial.figure import draw
from eval.familial.speed import HALF_BILLION, load_here, loading, open_family, random_family, speeds
from eval.familial.table import accuracy_table
from tofc.errors import UserError

if TYPE_CHECKING:
    from tofc import Edge

DTYPES = ("float32", "bfloat16", "float16")


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
    accuracy.add_argument("--no-direct", action="store_true", help="leave out direct early exits")
    accuracy.add_argument("--out", type=Path, default=Path("runs/familial"), help="rows, table and figure")
    accuracy.set_defaults(run=_accuracy)

    policy = commands.add_parser("policy", help="what exits chosen by question keep, and what they cost")
    policy.set_defaults(run=_policy)
    for command in (accuracy, policy):
        command.add_argument("--checkpoint", default="scenes-tiny", help="bundled name, folder or hub id")
        command.add_argument("--limit", type=int, default=100, help="scenes (%(default)s)")
        command.add_argument("--split", default="test", choices=("validation", "test"))
        command.add_argument("--quality", type=int, help="of the packets; the checkpoint's if left out")
        command.add_argument("--uncoded", action="store_true", help="features travel uncoded")

    speed = commands.add_parser("speed", help="tokens a second of every member, as ratios in one run")
    speed.add_argument("source", nargs="?", default="scenes-tiny", help="a checkpoint, or a plain family")
    speed.add_argument("--dtype", default="float32", choices=DTYPES)
    speed.add_argument("--rounds", type=int, default=15, help="of one token each (%(default)s)")
    speed.set_defaults(run=_speed)

    memory = commands.add_parser("memory", help="bytes read and memory of every member, loaded alone")
    memory.add_argument("source", nargs="?", default="scenes-tiny", help="a checkpoint, or a plain family")
    memory.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    memory.set_defaults(run=_memory)

    load = commands.add_parser("load", help="what loading one member takes, here")
    load.add_argument("source")
    load.add_argument("--exit", required=True)
    load.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    load.set_defaults(run=_load)

    half = commands.add_parser("random", help="write a family of random weights of the published 0.5B shape")
    half.add_argument("folder", type=Path)
    half.add_argument("--exits", type=int, nargs="+", default=[5, 11])
    half.set_defaults(run=_random)
    return parser


def _accuracy(options: argparse.Namespace) -> None:
    from tofc import Device, Edge

    device, edge = Device.from_pretrained(options.checkpoint), Edge.from_pretrained(options.checkpoint)
    chosen = [s for s in systems(edge) if not (options.no_direct and s.kind == "direct")]
    quality = _quality(options, edge)
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


def _quality(options: argparse.Namespace, edge: Edge) -> int | None:
    """Of the packets, None for features that travel uncoded; UserError for scenes that are not there."""
    if options.limit < 1:
        raise UserError(f"--limit is {options.limit}; give at least 1 scene")
    return None if options.uncoded else options.quality or edge.config.default_quality


def _policy(options: argparse.Namespace) -> None:
    from tofc import Device, Edge

    device, edge = Device.from_pretrained(options.checkpoint), Edge.from_pretrained(options.checkpoint)
    steps = choose(device, edge, options.split, options.limit, _quality(options, edge))
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        found = summarise(list(bar.track(steps, total=options.limit, description="scenes")))
    who = ", ".join(f"{name} {share:.0%}" for name, share in found.exits.items())
    print(f"{found.questions} questions, answered by {who}")
    for name, one in (("accuracy kept", found.kept), ("compute", found.compute)):
        print(f"{name}: {one.value:.1%} ({one.low:.1%} to {one.high:.1%}) of the full member's")
    print(json.dumps(asdict(found)))


def _speed(options: argparse.Namespace) -> None:
    family = open_family(options.source, dtype=getattr(torch, options.dtype))
    found = speeds(family, options.rounds)
    table = Table("member", title=f"{options.source}, {options.dtype}, batch 1", box=None)
    for name in ("parameters", "of full", "ms a token", "tokens/s over full"):
        table.add_column(name, justify="right")
    for one in found:
        ratio = f"{one.speedup:.2f}x"
        table.add_row(one.name, f"{one.num_parameters:,}", f"{one.share:.1%}", f"{one.step_ms:.2f}", ratio)
    Console().print(table)
    print(json.dumps([asdict(one) for one in found]))


def _memory(options: argparse.Namespace) -> None:
    from tofc import familial

    found = [
        loading(options.source, member.name, options.dtype) for member in familial.family(options.source)
    ]
    full = found[-1]
    table = Table("member", title=f"{options.source}, {options.dtype}, each loaded alone", box=None)
    for name in ("MB from disk", "MB of weights", "MB at most", "of full", "s"):
        table.add_column(name, justify="right")
    for one in found:
        sizes = (one.disk_bytes, one.tensor_bytes, one.peak_bytes)
        ratio = f"{one.peak_bytes / full.peak_bytes:.0%}"
        table.add_row(one.name, *(f"{size / 1e6:.1f}" for size in sizes), ratio, f"{one.seconds:.1f}")
    Console().print(table)
    print(json.dumps([asdict(one) for one in found]))


def _load(options: argparse.Namespace) -> None:
    print(json.dumps(asdict(load_here(options.source, options.exit, getattr(torch, options.dtype)))))


def _random(options: argparse.Namespace) -> None:
    if options.folder.exists():
        raise UserError(f"{options.folder} is there already; name a new folder")
    print(random_family(options.folder, HALF_BILLION, options.exits, torch.bfloat16))


if __name__ == "__main__":
    sys.exit(main())
