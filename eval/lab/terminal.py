"""What commands of evaluations take and print: options, tables on standard output, progress beside them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from eval.lab.intervals import Estimate
from tofc.cli.options import HELP_OPTIONS, HELP_STYLE
from tofc.cli.report import print_json, reports_user_errors
from tofc.errors import needs_extra

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., object])
WIDTH = 170  # of what is no terminal
FEW_PICTURES = 50


def table(title: str, labels: Sequence[str], figures: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first columns are `labels`; the others, `figures`, stand at the right."""
    made = Table(*labels, title=title, box=None, title_justify="left")
    for name in figures:
        made.add_column(name, justify="right")
    for row in rows:
        made.add_row(*row)
    return made


def remark_of_few(pictures: int) -> str:
    """What is to be said of figures from so many pictures; nothing where these are enough."""
    if pictures >= FEW_PICTURES:
        return ""
    return f"{pictures} pictures are few: figures of less than {FEW_PICTURES} may change a lot"


def percent(share: float, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return f"{100 * share:.{digits}f}"


def interval(found: Estimate) -> str:
    """The bounds of a share in percent."""
    return f"{percent(found.low)} to {percent(found.high)}"


def show(*tables: Table, pictures: int = FEW_PICTURES) -> None:
    """Prints tables on standard output, whole even where that is no terminal.

    pictures: how many their figures come from; few ones are remarked on.
    """
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH)
    for one in tables:
        console.print(one)
    if few := remark_of_few(pictures):
        console.print(few)


def progress(console: Console | None = None) -> Progress:
    """A bar on standard error, only where that is a terminal."""
    console = Console(stderr=True) if console is None else console
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def track(steps: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The steps one by one, with a bar."""
    with progress() as bar:
        yield from bar.track(steps, total=total, description=what)


CheckpointOption = Annotated[
    str, typer.Option("--checkpoint", metavar="NAME", help="A bundled name, a folder or a hub id.")
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The first N scenes.")]
SplitOption = Annotated[
    Literal["test", "validation"], typer.Option("--split", metavar="SPLIT", help="Of the scenes.")
]


class Evaluation(typer.Typer):
    """The commands of one evaluation, which `tofc eval` and `python -m eval.NAME` run alike.

    A command ends with one line on a UserError; where a library is missing, it names the extra (`extra`
    unless the command says another) that brings it.
    """

    def __init__(self, help: str, extra: str = "eval") -> None:
        super().__init__(
            help=help,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=HELP_STYLE,
            context_settings={"help_option_names": HELP_OPTIONS},
        )
        self.extra = extra

    def command(self, *name: Any, extra: str | None = None, **settings: Any) -> Callable[[C], C]:
        """As typer's."""
        register = super().command(*name, **settings)

        def add(command: C) -> C:
            register(reports_user_errors(needs_extra(extra or self.extra)(command)))
            return command

        return add


def print_summary(
    summary: dict[str, Any], tables: Callable[[dict[str, Any]], Iterable[Table]], folder: Path, as_json: bool
) -> None:
    """What was found: one JSON object, or its tables and the folder that holds the rest."""
    if as_json:
        print_json(summary)
        return
    show(*tables(summary))
    print(folder)
