"""`tofc eval rate CONFIG`: accuracy against bytes, as rows, curves and a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from eval.lab.intervals import NOT_REACHED
from eval.lab.terminal import Evaluation, remark_of_few, show, table
from eval.rate.points import EQUAL, LABELS, TARGETS
from tofc.cli.files import run_folder
from tofc.cli.options import ConfigArgument, JsonOption
from tofc.cli.report import note, print_json
from tofc.config import find_config, load_yaml
from tofc.errors import UserError

app = Evaluation("Accuracy against bytes of TOFC, image codecs and feature codecs.")


@app.command(
    epilog="Examples:\n\ntofc eval rate eval-scenes --limit 64    (a bundled configuration, by its name)\n\n"
    "tofc eval rate configs/eval-scenes.yaml --out runs/rate"
)
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

    from eval.rate.config import RateConfig
    from eval.rate.sweep import from_runs, sweep

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
    show(*_tables(summary))
    for remark in _remarks(summary):
        note(remark)
    note(f"to look at: {folder / ('curves.png' if answers else 'report.html')}")
    typer.echo(folder)


def _tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    """The fronts of the headline form, then what each system needs and what TOFC saves against it."""
    yield _fronts(summary)
    yield _savings(summary)
    if "published" in summary:
        yield _beside(summary)


def _remarks(summary: Mapping[str, Any]) -> Iterator[str]:
    """Why figures are missing from the tables, a line each, and what an infinite bound means."""
    if few := remark_of_few(summary["pictures"]):
        yield few
    yield "intervals are bootstrap 95 %; ∞: not reached with pictures drawn like this, -∞: not by TOFC"
    for name, found in summary["systems"].items():
        for what, figure in _figures(found):
            why = figure.get("not_computed") or figure.get("interval_not_computed")
            if why is not None:
                yield f"{LABELS.get(name, name)}, {what}: {why}"


def _figures(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for target in TARGETS:
        yield f"bytes at {target}", found["bytes"][target]
        if "savings" in found:
            yield f"savings at {target}", found["savings"][target]
    for name in ("bd_rate", "bd_accuracy"):
        if name in found:
            yield name.replace("bd_", "BD-"), found[name]


def _fronts(summary: Mapping[str, Any]) -> Table:
    form = summary["headline"]
    scale = summary["scales"][form]
    reference = _interval(summary["reference"], scale["factor"], ".1f")
    title = f"{form} on {summary['pictures']} pictures of {summary['data']}; uncoded {reference}"
    points = {(point["system"], point["point"]): point for point in summary["points"]}
    rows = []
    for system, names in summary["fronts"][form].items():
        for i, name in enumerate(names):
            point = points[system, name]
            sizes = (f"{point['bytes'][key]:.0f}" for key in ("mean", "p50", "p95"))
            accuracy = _interval(point["accuracy"][form], scale["factor"], ".1f")
            bits = f"{point['bits_per_pixel']:.3f}" if "bits_per_pixel" in point else "-"
            rows.append(("" if i else LABELS[system], name, *sizes, bits, f"{point['tokens']:.0f}", accuracy))
    return table(title, ["system", "point"], ("bytes", "p50", "p95", "bpp", "tokens", scale["name"]), rows)


def _beside(summary: Mapping[str, Any]) -> Table:
    """Others' figures, as they published them, and the savings that the paper claims, beside those here."""
    form, told = summary["headline"], summary["published"]
    rows = [
        (one["label"], f"{size:g} {one['unit']}", f"{score:g}")
        for one in told["curves"]
        if one["form"] == form
        for size, score in one["points"]
    ]
    for one in told["savings"]:
        found = summary["systems"].get(one["system"], {}).get("savings", {}).get(EQUAL)
        here = "not swept" if found is None else _interval(found, 100, ".1f")
        low, high = (f"{100 * share:.0f}" for share in one["saves"])
        theirs = low if low == high else f"{low} to {high}"
        rows.append((f"saved against {LABELS[one['system']]}, % (the paper)", f"here {here}", theirs))
    return table("Published by others, not measured here", ["what"], ("size", "figure"), rows)


def _savings(summary: Mapping[str, Any]) -> Table:
    figures = [name for target in TARGETS for name in (f"{target}:\nbytes", "\nTOFC saves %")]
    rows = []
    for name, found in summary["systems"].items():
        cells = []
        for target in TARGETS:
            cells.append(_interval(found["bytes"][target], 1, ".0f"))
            cells.append(_interval(found["savings"][target], 100, ".1f") if "savings" in found else "-")
        cells.append(_interval(found["bd_rate"], 100, ".0f") if "bd_rate" in found else "-")
        rows.append((LABELS.get(name, name), *cells))
    return table("Bytes needed, and what TOFC saves", ["system"], (*figures, "\nBD-rate %"), rows)


def _interval(figure: Mapping[str, Any], factor: float, digits: str) -> str:
    """A figure with its interval; "see below" for what there is not, of which `_remarks` tells."""
    if "not_computed" in figure:
        return "see below"
    sign = {"at most": "<=", "at least": ">="}.get(figure.get("bound", ""), "")
    value = f"{sign}{factor * figure['value']:{digits}}"
    if "low" not in figure:
        return f"{value} (see below)"
    low, high = (
        endless if bound == NOT_REACHED else f"{factor * bound:{digits}}"
        for bound, endless in ((figure["low"], "-∞"), (figure["high"], "∞"))
    )
    return escape(f"{value} [{low}, {high}]")


if __name__ == "__main__":
    app(prog_name="python -m eval.rate")
