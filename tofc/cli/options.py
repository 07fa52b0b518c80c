"""Arguments and options that commands share, alone and in groups.

A group is a frozen dataclass whose fields are options: `with_groups` lets a command take one as a parameter.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.main import get_command

from tofc.config import DEFAULT_MODEL, QUALITIES
from tofc.errors import UserError

ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="Any format that Pillow opens; - reads standard input.")
]
PacketArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A packet that `tofc encode` wrote; - reads standard input.")
]
QuestionArgument = Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")]
SourceArgument = Annotated[
    str, typer.Argument(metavar="SRC", help="A bundled name, a checkpoint folder, or a hub id.")
]
ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a bundled configuration.")
]
ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", metavar="SRC", help="A bundled name, a checkpoint folder, or a hub id."),
]
ExitOption = Annotated[
    str,
    typer.Option(
        "--exit", metavar="NAME", help="The member that answers, such as e2-50; in one process also auto."
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        metavar="N",
        help="Refuse pictures of more pixels than this (width x height; default 50 million).",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where results go, else runs/NAME.")
]
DataOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="An option of the data source, VALUE as in YAML; repeat for more.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")
]


_FEWEST_BYTES = 13  # of any packet: its frame of 11, and a stream of 2


@dataclass(frozen=True)
class MemberOptions:
    """A model, and the member of its family that answers."""

    model: ModelOption = DEFAULT_MODEL
    exit: ExitOption = "full"


@dataclass(frozen=True)
class RateOptions:
    """How much of a picture travels; UserError where the options make no sense."""

    quality: Annotated[
        int | None,
        typer.Option(
            "--quality",
            "-q",
            metavar="N",
            help="1 (fewest bytes) to 8 (best); the model's default if left out.",
        ),
    ] = None
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes",
            metavar="N",
            help="At most N bytes: quality and tokens are found, but for the one given.",
        ),
    ] = None
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            metavar="K",
            help="Tokens that travel: a number, or `all`; the model's default if left out.",
        ),
    ] = None

    def __post_init__(self) -> None:
        if None not in (self.quality, self.max_bytes, self.tokens):
            raise UserError(
                "--quality and --tokens leave --max-bytes nothing to choose; give two of the three"
            )
        if self.quality is not None and self.quality not in QUALITIES:
            raise UserError(
                f"--quality is {self.quality}; it goes from {QUALITIES[0]} (fewest bytes) to "
                f"{QUALITIES[-1]} (best)"
            )
        if self.max_bytes is not None and self.max_bytes < _FEWEST_BYTES:
            raise UserError(
                f"--max-bytes is {self.max_bytes}; no packet has fewer than {_FEWEST_BYTES} bytes, and some "
                "hundred say much of a picture"
            )
        if self.tokens not in (None, "all") and not (self.tokens.isdecimal() and int(self.tokens) >= 1):
            raise UserError(f"--tokens is {self.tokens}; give a number of at least 1, or all")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `Device.encode` that the options mean."""
        tokens = int(self.tokens) if self.tokens not in (None, "all") else self.tokens
        chosen = {"quality": self.quality, "max_bytes": self.max_bytes, "tokens": tokens}
        return {name: value for name, value in chosen.items() if value is not None}


R = TypeVar("R")
# Panels need room: on a narrow terminal they would break the names of options.
HELP_STYLE: Any = "rich" if shutil.get_terminal_size().columns >= 60 else None


HELP_OPTIONS = ["--help", "-h"]


def command_of(app: typer.Typer) -> Any:
    """The command that an app is; -h is --help, and flags, which take no value, show no type."""
    found: Any = get_command(app)
    commands = [found]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        flags = [
            command.get_help_option(typer.Context(command, help_option_names=HELP_OPTIONS)),
            *command.params,
        ]
        for option in flags:
            if getattr(option, "is_flag", False):
                option.metavar = ""
    return found


def with_groups(command: Callable[..., R]) -> Callable[..., R]:
    """The command with the options of each group in place of its parameter; any other command as it is."""
    signature = inspect.signature(command, eval_str=True)
    parameters = signature.parameters.values()
    groups: dict[str, Any] = {
        p.name: p.annotation for p in parameters if dataclasses.is_dataclass(p.annotation)
    }
    if not groups:
        return command

    @functools.wraps(command)
    def spread(**values: Any) -> R:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
        return command(**values)

    shown: list[inspect.Parameter] = []
    for parameter in parameters:
        shown += _fields(groups[parameter.name]) if parameter.name in groups else [parameter]
    shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in shown]
    spread.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]  # what Typer reads
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return spread


def _fields(group: Any) -> list[inspect.Parameter]:
    """The options of a group as parameters."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
    ]


def data_options(given: list[str] | None) -> dict[str, Any]:
    """Options of a data source as they stand on the command line; UserError for one without a key."""
    import yaml

    found: dict[str, Any] = {}
    for one in given or ():
        key, equals, value = one.partition("=")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--option {one}: the value is no YAML ({error})") from error
        if not key or not equals:
            raise UserError(f"--option is {one!r}; write KEY=VALUE, e.g. source=data/RealWorldQA")
    return found
