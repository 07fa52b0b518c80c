"""What the commands of all evaluations have in common: options, and faults in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from eval.lab.tables import show
from tofc.cli.options import HELP_OPTIONS, HELP_STYLE
from tofc.cli.report import print_json

CheckpointOption = Annotated[
    str, typer.Option("--checkpoint", metavar="NAME", help="A bundled name, a folder or a hub id.")
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The first N scenes.")]
SplitOption = Annotated[
    Literal["test", "validation"], typer.Option("--split", metavar="SPLIT", help="Of the scenes.")
]


def evaluation(help: str) -> typer.Typer:
    """The commands of one evaluation, which `tofc eval` and `python -m eval.NAME` run alike."""
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=HELP_STYLE,
        context_settings={"help_option_names": HELP_OPTIONS},
    )


def print_summary(
    summary: dict[str, Any], tables: Callable[[dict[str, Any]], Iterable[Table]], folder: Path, as_json: bool
) -> None:
    """What was found: one JSON object, or its tables and the folder that holds the rest."""
    if as_json:
        print_json(summary)
        return
    show(*tables(summary))
    print(folder)
