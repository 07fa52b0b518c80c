"""`tofc eval rate CONFIG`: accuracy against bytes, as rows, curves and a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from eval.lab.terminal import evaluation
from tofc.cli.files import run_folder
from tofc.cli.options import ConfigArgument, JsonOption
from tofc.cli.report import note, print_json, reports_user_errors
from tofc.config import find_config, load_yaml
from tofc.errors import UserError, needs_extra

app = evaluation("Accuracy against bytes of TOFC, image codecs and feature codecs.")


@app.command(
    epilog="Examples:\n\ntofc eval rate eval-scenes --limit 64    (a bundled configuration, by its name)\n\n"
    "tofc eval rate configs/eval-scenes.yaml --out runs/rate"
)
@reports_user_errors
@needs_extra("eval")
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
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", metavar="DIR", help="Sweep nothing: draw the runs that lmms-eval left in DIR."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Sweep systems over rate points into rows, curves and a report; after a kill it goes on where it was.

    The folder of a finished sweep gets its figures and report.html anew, from its rows.
    """
    find_config(config)  # before what is slow to import
    from rich.console import Console

    from eval.lab.terminal import show
    from eval.rate.config import RateConfig
    from eval.rate.sweep import from_runs, sweep
    from eval.rate.table import remarks, tables

    for name, value in (("--limit", limit), ("--processes", processes)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; give at least 1")
    settings = load_yaml(config, RateConfig)
    settings = settings if limit is None else replace(settings, limit=limit)
    folder = run_folder(out, settings.name)
    if answers is None:
        summary = sweep(settings, folder, processes, Console(stderr=True))
    else:
        summary = from_runs(settings, answers, folder)
    if json_:
        print_json(summary)
        return
    show(*tables(summary))
    for remark in remarks(summary):
        note(remark)
    note(f"to look at: {folder / ('curves.png' if answers else 'report.html')}")
    typer.echo(folder)


if __name__ == "__main__":
    app(prog_name="python -m eval.rate")
