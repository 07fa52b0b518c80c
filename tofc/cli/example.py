"""The command `tofc example`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tofc.cli.files import check_output, read_input, write_output
from tofc.cli.report import note, reports_user_errors
from tofc.errors import UserError

EXAMPLES = "Examples:\n\ntofc example\n\ntofc ask street.jpg 'How many cars are there?'"
_NAME = "street.jpg"


@reports_user_errors
def example(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where the picture goes.")
    ] = _NAME,
) -> None:
    """Write street.jpg, a picture to try the other commands on."""
    from tofc.config import EXAMPLE

    picture = EXAMPLE.read_bytes()
    check_output(output)
    if Path(output).is_file() and read_input(output, "picture") != picture:
        raise UserError(f"{output} is another picture; choose a name with -o")
    write_output(output, picture)
    note(f"wrote {output}; now: tofc ask {output} 'How many cars are there?'")
