"""Which drawing belongs to which kind."""

from __future__ import annotations

from eval.scenes import shapes_living, shapes_street, shapes_vehicles
from eval.scenes.draws import Draws
from eval.scenes.layout import Place, plate_centre
from eval.scenes.shapes import RGB, Pen

DARK_TEXT: frozenset[str] = frozenset({"white", "yellow", "orange"})

_PAINTED = {
    "car": shapes_vehicles.car,
    "truck": shapes_vehicles.truck,
    "bicycle": shapes_vehicles.bicycle,
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


def draw_thing(pen: Pen, place: Place, paint: RGB, draws: Draws) -> None:
    """Draw the object of a place, its text included; `paint` is unused by kinds without a colour."""
    wish = place.wish
    if wish.kind == "sign":
        shapes_street.sign(pen, paint, wish.text or "", place.cell, place.tall, wish.colour in DARK_TEXT)
        return
    if wish.kind == "bus":
        shapes_vehicles.bus(pen, paint, draws, wish.text is not None)
    elif wish.kind == "house":
        shapes_street.house(pen, paint, draws, wish.text is not None)
    elif wish.kind in _PAINTED:
        _PAINTED[wish.kind](pen, paint, draws)
    else:
        _PLAIN[wish.kind](pen, draws)
    if wish.text is not None:
        u, v = plate_centre(wish.kind, place.tall, place.cell, place.scale)
        shapes_street.plate(pen, wish.text, u, v, place.cell)
