"""What the command line says: results on standard output, all else on standard error, faults in one line."""

from __future__ import annotations

import functools
import json
import logging
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from tofc.answer import Answer
from tofc.cli.options import with_groups
from tofc.errors import UserError, needs_edge
from tofc.writing import disk_fault

USER_ERROR = 2  # exit code for what the user can put right; 1, Python's own, is a fault of ours

R = TypeVar("R")


def reports_user_errors(command: Callable[..., R]) -> Callable[..., R]:
    """Makes a command end with one line and exit code 2 on a UserError; anything else passes through.

    Option groups among its parameters become options (`tofc.cli.options`).
    """
    command = with_groups(command)

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> R:
        try:
            with needs_edge(f"tofc {command.__name__.replace('_', '-')}"):
                return command(*args, **kwargs)
        except UserError as error:
            typer.echo(f"tofc: {one_line(error)}", err=True)
            raise typer.Exit(USER_ERROR) from None
        except OSError as error:  # of libraries that write by themselves, or of standard output
            if (reason := disk_fault(error)) is None:
                raise
            note(f"tofc: {error.filename or 'what the command writes'}: {reason}; make room there")
            raise typer.Exit(USER_ERROR) from None

    return wrapped


def report_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception hook: a fault of ours in one line instead of a traceback, which `--debug` brings back."""
    where = traceback.extract_tb(trace)[-1:] if trace is not None else []
    place = "".join(f" in {frame.name} ({frame.filename}:{frame.lineno})" for frame in where)
    typer.echo(
        f"tofc: this is a fault of ours: {kind.__name__}: {one_line(error)}{place}. "
        "Run it again as `tofc --debug ...` for the traceback, and report it with that",
        err=True,
    )


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())


class _Notes:
    """Whether notes are shown; faults always are."""

    are_wanted = True


def show_notes(are_wanted: bool) -> None:
    """Says whether `note`, `working` and warnings of the library show anything, as --quiet asks."""
    _Notes.are_wanted = are_wanted
    logging.getLogger("tofc").setLevel(logging.NOTSET if are_wanted else logging.ERROR)


def note(text: str) -> None:
    """A line for the person in front of the terminal: standard error, never mixed with results."""
    if _Notes.are_wanted:
        typer.echo(text, err=True)


def answer_line(answer: Answer) -> str:
    """An answer for people; scripts, whose standard output is no terminal, get its text alone."""
    return f"{answer.text} (unsure)" if answer.is_unsure and sys.stdout.isatty() else answer.text


def print_pieces(pieces: Generator[str, None, Answer]) -> Answer:
    """An answer on a terminal, as it grows; returns the whole."""
    try:
        while True:
            typer.echo(next(pieces), nl=False)
    except StopIteration as end:
        answer: Answer = end.value
    typer.echo(" (unsure)" if answer.is_unsure else "")
    return answer


def answer_fields(answer: Answer) -> dict[str, Any]:
    """An answer, ready for JSON; `answer_tokens` counts those that the language model generated."""
    return {
        "answer": answer.text,
        "exit": answer.exit,
        "answer_tokens": len(answer.tokens),
        "confidence": answer.confidence,
    }


def packet_line(fields: Mapping[str, Any]) -> str:
    """What a packet holds (`tofc.contents.packet_fields`), for people."""
    return f"{fields['bytes']} bytes: {fields['tokens']} tokens at quality {fields['quality']}"


def timing_line(timing: Mapping[str, float]) -> str:
    """Seconds by stage, for people."""
    return ", ".join(f"{stage} {milliseconds(seconds)}" for stage, seconds in timing.items())


def print_json(result: Mapping[str, Any] | Sequence[Any]) -> None:
    """One JSON value on one line of standard output."""
    typer.echo(json.dumps(result))


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner that says `what` is being done; only where standard error is a terminal."""
    console = Console(stderr=True)
    if not (console.is_terminal and _Notes.are_wanted):
        yield
        return
    with console.status(f"{what} ..."):
        yield


def milliseconds(seconds: float) -> str:
    """A duration for people: milliseconds below ten seconds, else seconds."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def size_table(sections: Mapping[str, int]) -> Table:
    """A table of bytes by part of a packet, with shares and the total."""
    total = sum(sections.values())
    table = Table("part", show_footer=True, box=None, pad_edge=False)
    table.columns[0].footer = "total"
    table.add_column("bytes", str(total), justify="right")
    table.add_column("share", "100.0 %", justify="right")
    for name, size in sections.items():
        table.add_row(name, str(size), f"{100 * size / total:.1f} %")
    return table


def print_table(table: Table) -> None:
    """A table on standard output, at its natural width even where that is no terminal."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    console.print(table)
