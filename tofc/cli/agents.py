"""The command `tofc agents ask`: a group of agents and their server answer a question together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from tofc.cli.options import (
    HELP_STYLE,
    ConfigArgument,
    ImageArgument,
    JsonOption,
    MaxPixelsOption,
    QuestionArgument,
)
from tofc.cli.report import milliseconds, note, print_json, reports_user_errors, timing_line, working
from tofc.cli.steps import check_question, open_picture, quieten_libraries
from tofc.config import load_yaml

if TYPE_CHECKING:
    from tofc.agents import AgentReply, Collaboration

app = typer.Typer(
    name="agents",
    no_args_is_help=True,
    rich_markup_mode=HELP_STYLE,
)


@app.callback()  # without which the one command would be the group
def group() -> None:
    """Ask several agents, each with a model of its own, and aggregate what they say."""


@app.command(
    epilog="Examples:\n\ntofc agents ask agents-scenes street.jpg 'How many cars are there?'\n\n"
    "tofc agents ask mine.yaml street.jpg 'Is there a bus?' --json"
)
@reports_user_errors
def ask(
    config: ConfigArgument,
    image: ImageArgument,
    question: QuestionArgument,
    max_pixels: MaxPixelsOption = None,
    json_: JsonOption = False,
) -> None:
    """Select agents for a question, ask them at the same time, aggregate their answers, let them revise."""
    from tofc.agents import Agents, AgentsConfig

    check_question(question)
    settings = load_yaml(config, AgentsConfig)
    picture = open_picture(image, max_pixels)
    with working("opening the agents"):
        quieten_libraries()
        agents = Agents.from_config(settings)
    with agents, working("asking the agents"):
        found = agents.ask(picture, question, max_pixels=picture.width * picture.height)
    if json_:
        print_json(_fields(found))
        return
    typer.echo(found.text)
    _show(found)


def _fields(found: Collaboration) -> dict[str, Any]:
    """All of it, ready for JSON."""
    return {
        "answer": found.text,
        "selected": dict(found.selected),
        "replies": [asdict(reply) for reply in found.replies],
        "aggregate": asdict(found.aggregate),
        "revised": [asdict(reply) for reply in found.revised],
        "packet_bytes": found.packet_bytes,
        "bytes": found.traffic,
        "timing": dict(found.seconds),
    }


def _show(found: Collaboration) -> None:
    """All of it for people, on standard error."""
    console = Console(stderr=True)
    console.print(_table(found), highlight=False)
    traffic = ", ".join(f"{step} {size} B" for step, size in found.traffic.items())
    note(f"packet {found.packet_bytes} bytes; on the way: {traffic}; {timing_line(found.seconds)}")


def _table(found: Collaboration) -> Table:
    table = Table("step", "who", "said", box=None, pad_edge=False)
    for name in ("score", "sure", "time", "bytes"):
        table.add_column(name, justify="right")
    for reply in found.replies:
        table.add_row("answer", *_row(reply, f"{found.selected[reply.name]:.2f}"))
    table.add_row("aggregate", *_row(found.aggregate))
    for reply in found.revised:
        table.add_row("revise", *_row(reply))
    return table


def _row(reply: AgentReply, score: str = "") -> Sequence[Any]:
    """Who, what and how; agents' words come as quotations, which no terminal obeys."""
    from rich.text import Text

    from tofc.agents.aggregation import quoted

    said = quoted(reply.text) if reply.text else ""
    fault = f" (left out: {quoted(reply.fault)})" if reply.fault else ""
    sure = "" if reply.confidence is None else f"{reply.confidence:.0%}"
    sizes = str(reply.sent + reply.received)
    return Text(reply.name), Text(f"{said}{fault}".strip()), score, sure, milliseconds(reply.seconds), sizes
