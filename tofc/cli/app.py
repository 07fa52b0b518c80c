"""The commands of `tofc`, in the order in which its help lists them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.main import get_command

from tofc import __version__
from tofc.cli import ask, evaluations, export, familial, packets, serve, training, ui
from tofc.cli.report import report_fault

app = typer.Typer(
    name="tofc",
    help="Ask a vision-language model about a picture through a bitstream of a few hundred bytes.",
    epilog="Start here: tofc ask photo.jpg 'What is in the picture?'",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tofc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="TOFC_DEBUG", help="Show the traceback of a fault of ours.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    if debug:
        sys.excepthook = sys.__excepthook__


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
app.add_typer(familial.app)
app.add_typer(evaluations.app)


def run() -> None:
    """Runs the command that the process was started with."""
    sys.excepthook = report_fault
    # The command itself, not the Typer around it: that would put its own exception hook in place of ours.
    get_command(app)(prog_name="tofc")
