"""`tofc eval house`: draws the rooms of the source tree, how large they are, and which imports which."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eval.house import draw, read_rooms
from eval.lab.terminal import Evaluation
from tofc.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

app = Evaluation("The project's rooms as one picture: their sizes, and who imports whom.", extra="demo")


@app.command()
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
