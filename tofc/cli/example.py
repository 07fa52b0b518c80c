"""The command `tofc example`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tofc.cli.files import check_output, read_input, write_output
from tofc.cli.report import note, reports_user_errors
from tofc.errors import UserError

EXAMPLES = (
    "Examples:\n\ntofc example\n\ntofc ask cat.png 'What animal is this?'\n\n"
    "tofc example street.jpg\n\ntofc ask street.jpg 'How many cars are there?' --model scenes-tiny"
)


@reports_user_errors
def example(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="cat.png, a photograph, or street.jpg, a drawing.")
    ] = "cat.png",
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Where it goes; else NAME.")
    ] = None,
) -> None:
    """Write a picture to try the other commands on."""
    from tofc.examples import example_bytes

    picture, output = example_bytes(name), output or name
    check_output(output)
    if Path(output).is_file() and read_input(output, "picture") != picture:
        raise UserError(f"{output} is another picture; choose a name with -o")
    write_output(output, picture)
    note(f"wrote {output}; now: tofc ask {output} 'What do you see?'")
