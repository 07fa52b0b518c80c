"""`tofc eval NAME`: everything that is measured, in one list; each is a command of its own in `eval/NAME`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import typer

from tofc.cli.options import HELP_STYLE, command_of
from tofc.cli.report import reports_user_errors
from tofc.errors import UserError

EVALUATIONS = {
    "rate": "Accuracy against bytes, beside image codecs: rows, curves and a report.",
    "latency": "Time from a picture to an answer, stage by stage, over links of many rates.",
    "drafting": "Device, edge and cloud together: tokens a second, equal answers, states on the wire.",
    "familial": "Accuracy, speed and memory of a family's members, and of exits chosen by question.",
    "agents": "Agents alone, together, with fewer of them, revised, and by votes.",
    "serving": "A server under load, with and without batches, and over a thin link.",
    "scenes": "The scenes benchmark: look at it, export it, let a checkpoint answer it.",
    "photos": "Questions about photographs: look at them, export them, let a model answer.",
    "ablation": "What each part of the codec and of merging brings.",
    "bench": "Speed of the coder, of merging and of a whole device.",
    "demo": "A few pictures with questions, through the bitstream, as a drawing.",
    "house": "The rooms of the source tree as one picture.",
}

app = typer.Typer(
    name="eval",
    help="Measure accuracy, bytes, time and speed: a command for each evaluation, all with --help.",
    no_args_is_help=True,
    rich_markup_mode=HELP_STYLE,
)


def _passed_on(name: str, *first: str) -> Callable[[typer.Context], None]:
    """A command that hands all its words, behind `first`, to those of `eval.NAME`, loaded only then."""

    @reports_user_errors
    def passed_on(context: typer.Context) -> None:
        try:
            commands = import_module(f"eval.{name}.__main__").app
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("eval"):
                raise
            raise UserError(f"{error.name} is not installed: pip install 'tofc[eval]'") from error
        command_of(commands).main([*first, *context.args], prog_name=f"tofc eval {name}")

    return passed_on


_ALL_WORDS = {"ignore_unknown_options": True, "allow_extra_args": True}
for _name, _help in EVALUATIONS.items():
    app.command(_name, help=_help, add_help_option=False, context_settings=_ALL_WORDS)(_passed_on(_name))
app.command("decoding", hidden=True, context_settings=_ALL_WORDS)(_passed_on("drafting", "measure"))
