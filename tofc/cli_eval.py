"""The commands that measure: `tofc eval rate`, `tofc eval latency`, `tofc eval decoding`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tofc.cli_decoding import DECODING_EXAMPLES, decoding
from tofc.cli_latency import LATENCY_EXAMPLES, latency
from tofc.cli_report import ConfigArgument, JsonOption, note, print_json, print_table, reports_user_errors
from tofc.errors import UserError

app = typer.Typer(
    name="eval",
    help="Measure accuracy against bytes, time to an answer, and tokens a second.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.callback()
def group() -> None:
    """Measure accuracy against bytes."""


@app.command(
    epilog="Examples:\n\ntofc eval rate eval-scenes --limit 64    (a bundled configuration, by its name)\n\n"
    "tofc eval rate configs/eval-scenes.yaml --out runs/rate"
)
@reports_user_errors
def rate(
    config: ConfigArgument,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="The first N pictures; else CONFIG's limit.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="The sweep's folder, else runs/NAME; a sweep there goes on."
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", metavar="P", help="Processes at work; one a core if left out."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Sweep systems over rate points into rows, curves and a report; after a kill it goes on where it was.

    The folder of a finished sweep gets its figures and report.html anew, from its rows.
    """
    from dataclasses import replace

    from rich.console import Console

    from tofc.config import load_yaml

    for name, value in (("--limit", limit), ("--processes", processes)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; give at least 1")
    try:
        from eval.rate.config import RateConfig
        from eval.rate.sweep import sweep
        from eval.rate.table import remarks, tables
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; sweeps need an extra: pip install 'tofc[eval]'"
        ) from None
    settings = load_yaml(config, RateConfig)
    settings = settings if limit is None else replace(settings, limit=limit)
    folder = out if out is not None else Path("runs") / settings.name
    summary = sweep(settings, folder, processes, Console(stderr=True))
    if json_:
        print_json(summary)
        return
    for table in tables(summary):
        print_table(table)
        typer.echo()
    for remark in remarks(summary):
        note(remark)
    note(f"to look at: {folder / 'report.html'}")
    typer.echo(folder)


app.command(epilog=LATENCY_EXAMPLES)(latency)
app.command(epilog=DECODING_EXAMPLES)(decoding)
