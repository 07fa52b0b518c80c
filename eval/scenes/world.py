"""Street scenes whose every object is known: what is in one, its colours and drawings, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.asking.question import Draw
from eval.scenes import shapes_living, shapes_street
from eval.scenes.layout import (
    HEIGHT,
    HELD_OUT,
    SPLITS,
    WIDTH,
    Camera,
    Place,
    arrange,
    draw_wishes,
    plate_centre,
)
from eval.scenes.render import silhouette
from eval.scenes.shapes import RGB, Box, Pen
from eval.scenes.stage import GROUNDS, LIGHTS, Silhouette, paint_scene
from eval.scenes.textures import tables

DARK_TEXT: frozenset[str] = frozenset({"white", "yellow", "orange"})

_PAINTED = {
    "car": shapes_street.car,
    "truck": shapes_street.truck,
    "bicycle": shapes_street.bicycle,
    "person": shapes_living.person,
    "bench": shapes_street.bench,
    "bin": shapes_street.bin_,
}
_PLAIN = {
    "dog": shapes_living.dog,
    "tree": shapes_living.tree,
    "lamp": shapes_street.lamp,
    "hydrant": shapes_street.hydrant,
    "cone": shapes_street.cone,
}


def draw_thing(pen: Pen, place: Place, paint: RGB, draws: Draw) -> None:
    """Draw the object of a place, its text included; `paint` is unused by kinds without a colour."""
    wish = place.wish
    if wish.kind == "sign":
        shapes_street.sign(pen, paint, wish.text or "", place.cell, place.tall, wish.colour in DARK_TEXT)
        return
    if wish.kind == "bus":
        shapes_street.bus(pen, paint, draws, wish.text is not None)
    elif wish.kind == "house":
        shapes_street.house(pen, paint, draws, wish.text is not None)
    elif wish.kind in _PAINTED:
        _PAINTED[wish.kind](pen, paint, draws)
    else:
        _PLAIN[wish.kind](pen, draws)
    if wish.text is not None:
        u, v = plate_centre(wish.kind, place.tall, place.cell, place.scale)
        shapes_street.plate(pen, wish.text, u, v, place.cell)


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


def paint_of(colour: str, draws: Draw) -> RGB:
    """Draw one example of a named colour, float RGB from 0 to 255."""
    red, green, blue = COLOUR_RGB[colour]
    spread = SPREAD.get(colour, 14.0)
    bright = draws.between(0.95, 1.04)
    return (
        (red + draws.between(-spread, spread)) * bright,
        (green + draws.between(-spread, spread)) * bright,
        (blue + draws.between(-spread, spread)) * bright,
    )


LEAST_VISIBLE = 0.58
LEAST_AREA = 500
LEAST_HELD_OUT_AREA = 1500
_STREAM = 0x544F4643  # sets these scenes apart from any other use of the same small integers as a seed


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene; boxes are x0, y0, x1, y1 in pixels, ends exclusive.

    `text` is what its board or plate says; `box` holds its visible pixels, `extent` its whole outline clipped
    to the picture, `area` counts its visible pixels, `base` is the row of its foot (larger is nearer; may lie
    below the picture), `glyphs` are the characters of its text with their boxes from left to right.
    """

    kind: str
    colour: str | None
    text: str | None
    box: Box
    extent: Box
    area: int
    base: int
    glyphs: tuple[tuple[str, Box], ...]


@dataclass(frozen=True)
class Scene:
    """A picture's content; `things` run from far to near and leave out nothing that is drawn."""

    split: str
    index: int
    width: int
    height: int
    light: str
    ground: str
    things: tuple[SceneObject, ...]


def make_scene(split: str, index: int) -> tuple[Scene, NDArray[np.uint8], NDArray[np.uint8]]:
    """Make one scene; the same (split, index) gives the same bytes on every machine.

    Returns the scene, its picture uint8 [HEIGHT, WIDTH, 3], and the owner of each pixel uint8 [HEIGHT,
    WIDTH]: 0 for background, i + 1 for scene.things[i]. Raises ValueError for an unknown split or a negative
    index.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"scene index {index} is negative; indices count from 0")
    draws = Draw.seeded(_STREAM, SPLITS.index(split), index)
    while True:
        light, ground = draws.pick(LIGHTS), draws.pick(GROUNDS)
        view = Camera(draws.integer(140, 180), draws.between(3.05, 3.25))
        places = arrange(draw_wishes(split, draws), view, draws)
        sun = light.strength * draws.pick((-1.0, 1.0))
        pens = [_pen(place, sun, draws) for place in places]
        outlines = [_outline(pen) for pen in pens]
        places, pens, outlines, owner = _keep_visible(places, pens, outlines)
        things = tuple(_thing(i, places[i], pens[i], outlines[i], owner) for i in range(len(places)))
        if len(things) >= 2 and (split != "heldout" or any(_shows_held_out(thing) for thing in things)):
            break
    image = paint_scene(light, ground, sun, view, pens, outlines, draws)
    return Scene(split, index, WIDTH, HEIGHT, light.name, ground, things), image, owner


def _pen(place: Place, sun: float, draws: Draw) -> Pen:
    pen = Pen(place.x, place.base, place.scale, place.flip, sun, float(draws.integer(0, 511)))
    colour = place.wish.colour
    draw_thing(pen, place, paint_of(colour, draws) if colour else (0.0, 0.0, 0.0), draws)
    return pen


def _outline(pen: Pen) -> Silhouette:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    primitives, vertices = pen.arrays()
    area, x0, y0, x1, y1 = silhouette(mask, primitives, vertices, tables())
    return Silhouette(mask, int(area), (int(x0), int(y0), int(x1), int(y1)), primitives, vertices)


def _shows_held_out(thing: SceneObject) -> bool:
    return (thing.colour, thing.kind) in HELD_OUT and thing.area >= LEAST_HELD_OUT_AREA


def _inside(plane: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The part of [H, W] inside a box, which changes with it."""
    return plane[box[1] : box[3], box[0] : box[2]]


def _keep_visible(
    places: list[Place], pens: list[Pen], outlines: list[Silhouette]
) -> tuple[list[Place], list[Pen], list[Silhouette], NDArray[np.uint8]]:
    """Take away, one by one, what cannot honestly be seen, until all that stands can."""
    while True:
        owner = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for i, outline in enumerate(outlines):
            _inside(owner, outline.box)[_inside(outline.mask, outline.box) != 0] = i + 1
        for i, (pen, outline) in enumerate(zip(pens, outlines, strict=True)):
            seen = np.count_nonzero(_inside(owner, outline.box) == i + 1)
            open_text = all((_inside(owner, box) == i + 1).all() for _, box in pen.glyphs)
            if seen < max(LEAST_AREA, LEAST_VISIBLE * outline.area) or not open_text:
                keep = [k for k in range(len(places)) if k != i]
                places = [places[k] for k in keep]
                pens = [pens[k] for k in keep]
                outlines = [outlines[k] for k in keep]
                break
        else:
            return places, pens, outlines, owner


def _thing(i: int, place: Place, pen: Pen, outline: Silhouette, owner: NDArray[np.uint8]) -> SceneObject:
    x0, y0 = outline.box[:2]
    mine = _inside(owner, outline.box) == i + 1
    columns, rows = np.flatnonzero(mine.any(axis=0)), np.flatnonzero(mine.any(axis=1))
    box = (x0 + int(columns[0]), y0 + int(rows[0]), x0 + int(columns[-1]) + 1, y0 + int(rows[-1]) + 1)
    wish = place.wish
    return SceneObject(
        wish.kind,
        wish.colour,
        wish.text,
        box,
        outline.box,
        int(mine.sum()),
        int(place.base),
        tuple(pen.glyphs),
    )
