"""`tofc eval serving`: a real server under load, with and without batches, or over a thin link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from eval.lab.terminal import Evaluation, show, table
from tofc.cli.report import print_json

app = Evaluation(
    "A real server under load, with and without batches, and over a thin link.", extra="serve,eval"
)


@dataclass(frozen=True)
class TroubleOptions:
    """What goes wrong while clients ask."""

    restarts: Annotated[
        int, typer.Option(min=0, metavar="N", help="kill -9 the server so often, and start it anew.")
    ] = 0
    faults: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="SHARE", help="Of what good clients send, broken by a proxy."),
    ] = 0.0


@app.command()
def soak(
    clients: Annotated[int, typer.Option(min=1, metavar="N")] = 64,
    seconds: Annotated[float, typer.Option(metavar="S")] = 300.0,
    pause: Annotated[
        float, typer.Option(min=0, metavar="S", help="Of a client between questions, at most.")
    ] = 0.0,
    *,
    trouble: TroubleOptions,
    drafting: Annotated[int, typer.Option(min=0, metavar="N", help="Clients that draft.")] = 0,
    requests: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after so many good answers.")
    ] = None,
    deadline: Annotated[float, typer.Option(min=1, metavar="S", help="Of an answer.")] = 120.0,
    seed: Annotated[int, typer.Option(metavar="N")] = 0,
) -> None:
    """Many clients, some broken, and what becomes of every answer.

    Exit code 1 where an answer was wrong, lost or late, or memory grew by more than a tenth.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from eval.serving import soak as soaking

    load = soaking.Load(
        clients,
        seconds,
        pause,
        restarts=trouble.restarts,
        faults=trouble.faults,
        drafting=drafting,
        requests=requests,
        deadline=deadline,
        seed=seed,
    )
    with TemporaryDirectory() as folder:
        outcome = soaking.soak(load, Path(folder))
    figures = outcome.summary(load)
    for name, value in figures.items():
        print(f"{name:>20}  {value}")
    for name in ("wrong", "lost", "late", "odd", "ended"):
        for text in getattr(outcome, name)[:5]:
            print(f"{name}: {text}")
    print_json({"benchmark": "serving soak", **figures})
    bad = outcome.wrong or outcome.lost or outcome.late or outcome.odd
    raise typer.Exit(int(bool(bad) or outcome.growth > 1.1))


@app.command(extra="train,eval")
def kills(
    count: Annotated[int, typer.Option("--kills", min=0, metavar="N", help="Of each command.")] = 35,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="COMMAND", help="Once for each.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N")] = 0,
) -> None:
    """Kill every command that writes at random moments; what must hold is in `eval.serving.kills`.

    Exit code 1 where something half stood under a final name, or a run did not end as an unbroken one.
    """
    from dataclasses import asdict
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from eval.serving.kills import COMMANDS, KillOutcome, kill_all

    def told(name: str, outcome: KillOutcome) -> None:
        print(
            f"{name:>15}  {outcome.kills} kills, {outcome.ended} ended before; {len(outcome.faults)} faults"
        )
        for fault in outcome.faults[:20]:
            print(f"{'':>15}  {fault}")

    wanted = dict.fromkeys(only or COMMANDS, count)
    with TemporaryDirectory() as folder:
        found = kill_all(Path(folder).resolve(), wanted, seed, told)
    print_json({"benchmark": "kills", **{name: asdict(outcome) for name, outcome in found.items()}})
    raise typer.Exit(int(any(outcome.faults for outcome in found.values())))


@app.command()
def throughput(
    seconds: Annotated[float, typer.Option(metavar="S", help="Of each turn.")] = 10.0,
    clients: Annotated[int, typer.Option(min=1, metavar="N")] = 32,
    batch: Annotated[int, typer.Option(min=1, metavar="N")] = 16,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cores for a pass of the model.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many under Ray Serve, over one server.")
    ] = None,
) -> None:
    """Answers a second, batched and one at a time."""
    from eval.serving.speed import measure_throughput

    rows = measure_throughput(seconds, clients, batch, threads=threads, replicas=replicas)
    _show("answers a second", rows)
    print_json({"benchmark": "serving throughput", "clients": clients, "batch": batch, "rows": rows})


@app.command()
def link(
    mbit: Annotated[float, typer.Option(metavar="R", help="Of the uplink, Mbit/s.")] = 1.0,
    round_trip: Annotated[float, typer.Option(min=0, metavar="MS")] = 50.0,
    pictures: Annotated[int, typer.Option(min=1, metavar="N")] = 16,
) -> None:
    """Packets against WebP over a shaped link."""
    from eval.serving.speed import measure_link

    rows = measure_link(mbit, round_trip / 1e3, pictures)
    _show(f"milliseconds, {pictures} pictures", rows)
    print_json({"benchmark": "serving link", "mbit": mbit, "round_trip_ms": round_trip, "rows": rows})


def _show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    label, *figures = rows[0]
    show(table(title, [label], figures, ([str(value) for value in row.values()] for row in rows)))


if __name__ == "__main__":
    app(prog_name="python -m eval.serving")
