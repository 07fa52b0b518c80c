"""The commands of `tofc`, in the order in which its help lists them."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import Annotated

import typer

from tofc import __version__
from tofc.cli.options import HELP_OPTIONS, HELP_STYLE, command_of
from tofc.cli.report import USER_ERROR, note, report_fault, reports_user_errors, show_notes

# Where each command stands in `tofc.cli`, and what its help ends with; imported when it is asked for.
_COMMANDS = {
    "example": ("packets", "EXAMPLE_EXAMPLES"),
    "ask": ("ask", "EXAMPLES"),
    "encode": ("packets", "ENCODE_EXAMPLES"),
    "info": ("packets", "INFO_EXAMPLES"),
    "answer": ("packets", "ANSWER_EXAMPLES"),
    "serve": ("serve", "EXAMPLES"),
    "demo-ui": ("ui", "EXAMPLES"),
    "export-device": ("export", "EXAMPLES"),
    "bench-device": ("export", "BENCH_EXAMPLES"),
    "pretrain": ("training", "PRETRAIN_EXAMPLES"),
    "train": ("training", "TRAIN_EXAMPLES"),
    "train-familial": ("training", "FAMILIAL_EXAMPLES"),
    "merge": ("training", "MERGE_EXAMPLES"),
    "import-tower": ("training", "IMPORT_EXAMPLES"),
}
_GROUPS = {"familial": "familial", "agents": "agents", "eval": "evaluations"}


def app_with(word: str | None = None) -> typer.Typer:
    """The command line; with the command `word` alone, where there is one: to import all takes time."""
    app = typer.Typer(
        name="tofc",
        help="Ask a vision-language model about a picture through a bitstream of a few hundred bytes.",
        epilog="Start here: tofc example, then tofc ask cat.png 'How many cats are there?'",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=HELP_STYLE,
    )
    app.callback(context_settings={"help_option_names": HELP_OPTIONS})(options)
    is_one = word in _COMMANDS or word in _GROUPS
    for name, (place, examples) in _COMMANDS.items():
        if name == word or not is_one:
            module = import_module(f"tofc.cli.{place}")
            command = getattr(module, name.replace("-", "_"))
            app.command(name, epilog=getattr(module, examples))(command)
    for name, place in _GROUPS.items():
        if name == word or not is_one:
            app.add_typer(import_module(f"tofc.cli.{place}").app)
    app.command("help", hidden=True)(help_)
    return app


def __getattr__(name: str) -> typer.Typer:
    if name == "app":  # whole
        return app_with()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tofc {__version__}")
        raise typer.Exit


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
    gc.freeze()  # what is imported by now stays: later collections leave it out
    gc.enable()
    show_notes(not quiet)
    if debug:
        sys.excepthook = sys.__excepthook__


@reports_user_errors
def help_(words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND")] = None) -> None:
    """Show the help of a command."""
    command_of(app_with()).main([*(words or []), "--help"], prog_name="tofc")


def run() -> None:
    """Runs the command that the process was started with."""
    sys.excepthook = report_fault
    if sys.stdout is None:
        note("tofc: standard output is closed; send it somewhere, such as > /dev/null")
        raise SystemExit(USER_ERROR)
    # The command itself, not the Typer around it: that would put its own exception hook in place of ours.
    word = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    command_of(app_with(word))(prog_name="tofc")
