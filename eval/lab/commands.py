"""What the commands of all evaluations have in common: options, and faults in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from eval.lab.tables import show
from tofc.cli.options import HELP_OPTIONS, HELP_STYLE
from tofc.cli.report import print_json
from tofc.errors import UserError

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


@contextmanager
def needs_extra(extra: str = "eval") -> Iterator[None]:
    """Turns a library that is missing inside of it, or of the command below it, into a UserError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("eval", "tofc", "encoders", "entropy"):
            raise
        raise UserError(f"{error.name} is not installed: pip install 'tofc[{extra}]'") from error


def run_folder(out: Path | None, name: str) -> Path:
    """Where the results of a configuration go: `out`, else runs/NAME."""
    return out if out is not None else Path("runs") / name


def print_summary(
    summary: dict[str, Any], tables: Callable[[dict[str, Any]], Iterable[Table]], folder: Path, as_json: bool
) -> None:
    """What was found: one JSON object, or its tables and the folder that holds the rest."""
    if as_json:
        print_json(summary)
        return
    show(*tables(summary))
    print(folder)
