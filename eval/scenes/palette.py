"""The eight colour names and what they look like."""

from __future__ import annotations

from eval.scenes.draws import Draws
from eval.scenes.shapes import RGB

COLOUR_RGB: dict[str, RGB] = {
    "red": (198.0, 24.0, 40.0),
    "orange": (246.0, 130.0, 14.0),
    "yellow": (250.0, 216.0, 36.0),
    "green": (34.0, 150.0, 62.0),
    "blue": (36.0, 88.0, 206.0),
    "purple": (136.0, 52.0, 176.0),
    "white": (240.0, 240.0, 238.0),
    "black": (36.0, 36.0, 40.0),
}
# How far one example may lie from its name's centre, per channel; red and orange lie closest together.
SPREAD: dict[str, float] = {"red": 8.0, "orange": 6.0, "white": 5.0, "black": 8.0, "yellow": 8.0}


def paint_of(colour: str, draws: Draws) -> RGB:
    """Draw one example of a named colour, float RGB from 0 to 255."""
    red, green, blue = COLOUR_RGB[colour]
    spread = SPREAD.get(colour, 14.0)
    bright = draws.between(0.95, 1.04)
    return (
        (red + draws.between(-spread, spread)) * bright,
        (green + draws.between(-spread, spread)) * bright,
        (blue + draws.between(-spread, spread)) * bright,
    )
