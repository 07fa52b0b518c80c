"""`tofc eval house`: draws the rooms of the source tree, how large they are, and which imports which."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eval.house import draw, read_rooms
from eval.lab.terminal import evaluation
from tofc.cli.report import reports_user_errors
from tofc.errors import UserError, needs_extra

ROOT = Path(__file__).resolve().parents[2]

app = evaluation("The project's rooms as one picture: their sizes, and who imports whom.")


@app.command()
@reports_user_errors
@needs_extra("demo")
def house(
    out: Annotated[Path, typer.Option(help="The picture, a PNG.")] = Path("house.png"),
    root: Annotated[Path, typer.Option(help="The source tree.")] = ROOT,
) -> None:
    """Draw the rooms of a source tree."""
    try:
        rooms = read_rooms(root)
    except (OSError, SyntaxError) as error:
        raise UserError(f"{root} cannot be read as a source tree: {error}") from error
    draw(rooms, out)
    print(out)


if __name__ == "__main__":
    app()
