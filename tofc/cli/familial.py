"""The commands around families: `tofc familial members`, `calibrate` and `import`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tofc import familial
from tofc.cli.files import check_new
from tofc.cli.options import HELP_STYLE, DataOptions, JsonOption, SourceArgument, data_options
from tofc.cli.report import note, print_json, print_table, reports_user_errors, working
from tofc.cli.training import report_folder
from tofc.config import resolve
from tofc.errors import UserError, needs_extra

app = typer.Typer(
    name="familial",
    help="Look at a model's smaller members, and bring in those of others.",
    no_args_is_help=True,
    rich_markup_mode=HELP_STYLE,
)


@app.command(
    epilog="Examples:\n\ntofc familial members scenes-tiny\n\ntofc familial members scenes-tiny --ratio 0.45"
)
@reports_user_errors
def members(
    source: SourceArgument,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="N", help="Name the largest member of so many parameters (3.2B)."),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", metavar="X", help="Name the largest member of this share of the full model."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """List the members of a family with their sizes, or find the one that fits."""
    with working("reading the index"):
        found = familial.family(source)
    if budget is not None or ratio is not None:
        chosen = familial.member(found, budget=budget, ratio=ratio)
        if json_:
            print_json(asdict(chosen))
        else:
            typer.echo(chosen.name)
            note(f"{chosen.num_parameters:,} parameters, {chosen.share:.1%} of the full model")
        return
    if json_:
        print_json({"members": [asdict(member) for member in found]})
        return
    table = Table("exit", box=None)
    for name in ("blocks before it", "parameters", "of full"):
        table.add_column(name, justify="right")
    for member in found:
        size = f"{member.num_parameters:,}"
        table.add_row(member.name, str(member.exit_layer), size, f"{member.share:.1%}")
    print_table(table)


@app.command(epilog="Example:\n\ntofc familial calibrate runs/family --member e2-50 --keep 0.99")
@reports_user_errors
def calibrate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint folder with a family.")],
    member: Annotated[
        list[str],
        typer.Option("--member", metavar="NAME", help="Ask this one before the full model; repeat to go on."),
    ],
    keep: Annotated[
        float, typer.Option("--keep", metavar="X", help="Of the full member's accuracy, at least.")
    ] = 0.99,
    pictures: Annotated[int, typer.Option("--pictures", metavar="N", help="Validation pictures.")] = 64,
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="MODULE:CLASS", help="Questions and answers: a corpus, or data of evaluations."
        ),
    ] = "eval.scenes.corpus:SceneCorpus",
    option: DataOptions = None,
    json_: JsonOption = False,
) -> None:
    """Find out how sure a member must be, and write that into the family: then `--exit auto` works."""
    from tofc.familial.index import read_index, write_index

    if not 0 < keep <= 1 or pictures < 1:
        raise UserError("--keep is a share above 0 to 1, --pictures at least 1")
    checkpoint = resolve(folder)
    if checkpoint.family is None:
        raise UserError(f"{folder} has no family: train one with `tofc train-familial CONFIG`")
    with needs_extra("train", "training needs"):
        from tofc.device import Device
        from tofc.edge import Edge
        from tofc.familial.calibrate import ask
        from tofc.familial.calibrate import calibrate as find
        from tofc.training.data import questions_of
    device, edge = Device.from_pretrained(folder), Edge.from_pretrained(folder)
    asked = questions_of(data, data_options(option), edge, pictures)
    with working("asking the members"):
        found = find(ask(device, edge, member, asked), keep)
    write_index(checkpoint.family, replace(read_index(checkpoint.family), policy=found.policy))
    if json_:
        print_json(asdict(found))
        return
    for stage in found.policy.stages:
        typer.echo(f"{stage.member} answers where each token is at least {stage.threshold:.3f} probable")
    note(f"here {found.accuracy:.1%} of the full accuracy for {found.compute:.1%} of its compute")


@app.command("import", epilog="Example:\n\ntofc familial import models/AI-Flow-Ruyi-7B-0725 runs/ruyi")
@reports_user_errors
def import_(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A Ruyi checkpoint: a folder or a hub id.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Where the family goes; a new folder.")],
    json_: JsonOption = False,
) -> None:
    """Bring in a checkpoint of the Ruyi kind: exits with layers, norms and heads of their own."""
    from tofc.familial.ruyi import import_ruyi

    check_new(out)
    with working(f"reading {source}"):
        folder = import_ruyi(source, out)
    report_folder(folder, json_)
