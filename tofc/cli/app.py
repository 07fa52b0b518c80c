"""The commands of `tofc`, in the order in which its help lists them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tofc import __version__
from tofc.cli import agents, ask, evaluations, export, familial, packets, serve, training, ui
from tofc.cli.options import HELP_OPTIONS, HELP_STYLE, command_of
from tofc.cli.report import USER_ERROR, note, report_fault, reports_user_errors, show_notes

app = typer.Typer(
    name="tofc",
    help="Ask a vision-language model about a picture through a bitstream of a few hundred bytes.",
    epilog="Start here: tofc example, then tofc ask cat.png 'How many cats are there?'",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=HELP_STYLE,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tofc {__version__}")
        raise typer.Exit


@app.callback(context_settings={"help_option_names": HELP_OPTIONS})
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but results and faults.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="TOFC_DEBUG", help="Show the traceback of a fault of ours.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    show_notes(not quiet)
    if debug:
        sys.excepthook = sys.__excepthook__


app.command(epilog=packets.EXAMPLE_EXAMPLES)(packets.example)
app.command(epilog=ask.EXAMPLES)(ask.ask)
app.command(epilog=packets.ENCODE_EXAMPLES)(packets.encode)
app.command(epilog=packets.INFO_EXAMPLES)(packets.info)
app.command(epilog=packets.ANSWER_EXAMPLES)(packets.answer)
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=ui.EXAMPLES)(ui.demo_ui)
app.command(epilog=export.EXAMPLES)(export.export_device)
app.command(epilog=export.BENCH_EXAMPLES)(export.bench_device)
app.command(epilog=training.PRETRAIN_EXAMPLES)(training.pretrain)
app.command(epilog=training.TRAIN_EXAMPLES)(training.train)
app.command(epilog=training.FAMILIAL_EXAMPLES)(training.train_familial)
app.command(epilog=training.MERGE_EXAMPLES)(training.merge)
app.command(epilog=training.IMPORT_EXAMPLES)(training.import_tower)
app.add_typer(familial.app)
app.add_typer(agents.app)
app.add_typer(evaluations.app)


@app.command("help", hidden=True)
@reports_user_errors
def help_(words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND")] = None) -> None:
    """Show the help of a command."""
    command_of(app).main([*(words or []), "--help"], prog_name="tofc")


def run() -> None:
    """Runs the command that the process was started with."""
    sys.excepthook = report_fault
    if sys.stdout is None:
        note("tofc: standard output is closed; send it somewhere, such as > /dev/null")
        raise SystemExit(USER_ERROR)
    # The command itself, not the Typer around it: that would put its own exception hook in place of ours.
    command_of(app)(prog_name="tofc")
