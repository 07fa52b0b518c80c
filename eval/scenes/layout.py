"""Where things stand: kinds, colours and texts are drawn first, then places where all of them can be seen."""

from __future__ import annotations

from dataclasses import dataclass

from eval.asking.question import Draw

WIDTH = HEIGHT = 448
KINDS: tuple[str, ...] = (
    *("car", "bus", "truck", "bicycle", "person", "dog", "tree"),
    *("house", "lamp", "bench", "bin", "hydrant", "cone", "sign"),
)
COLOURS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
COLOURED: frozenset[str] = frozenset(
    {"car", "bus", "truck", "bicycle", "person", "house", "bench", "bin", "sign"}
)
WORDS: tuple[str, ...] = (
    *("STOP", "TAXI", "CAFE", "SHOP", "PARK", "EXIT", "OPEN", "BANK"),
    *("GYM", "SPA", "DELI", "VET", "FISH", "MILK", "GOLF", "HUB"),
)
HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        *(("red", "bus"), ("blue", "bench"), ("yellow", "person"), ("green", "car")),
        *(("purple", "house"), ("white", "bin"), ("orange", "truck"), ("black", "bicycle")),
    }
)
SPLITS: tuple[str, ...] = ("train", "validation", "test", "heldout")

MOST_THINGS = 7
MOST_ALIKE = 5
TRIES = 24  # places drawn for a thing before the scene goes without it

# Width and height in units of length, and the smallest and largest pixels per unit, of each kind.
SIZES: dict[str, tuple[float, float, float, float]] = {
    "car": (3.6, 1.42, 24.0, 60.0),
    "bus": (5.2, 2.5, 22.0, 44.0),
    "truck": (4.6, 2.4, 22.0, 46.0),
    "bicycle": (1.9, 1.2, 44.0, 88.0),
    "person": (0.9, 1.88, 38.0, 92.0),
    "dog": (1.6, 1.02, 46.0, 90.0),
    "tree": (2.5, 3.8, 24.0, 52.0),
    "house": (4.6, 4.0, 22.0, 42.0),
    "lamp": (1.6, 4.25, 30.0, 52.0),
    "bench": (2.16, 1.06, 42.0, 84.0),
    "bin": (0.9, 1.26, 44.0, 90.0),
    "hydrant": (0.86, 1.12, 50.0, 92.0),
    "cone": (0.84, 1.0, 52.0, 92.0),
    "sign": (0.0, 0.0, 52.0, 74.0),
}
# Cars find a place less often than small things do, and streets are full of them: drawn twice as often.
OTHERS: tuple[str, ...] = ("car", *(kind for kind in KINDS if kind != "sign"))


@dataclass(frozen=True)
class Wish:
    """Something that should stand in the scene."""

    kind: str
    colour: str | None
    text: str | None = None
    small: bool = False  # drawn from the small half of its sizes: it has to share the picture with its like
    needed: bool = False  # without it the scene is not made


@dataclass(frozen=True)
class Place:
    """A wish with its place: foot (x, base) in pixels, pixels per unit, side that it faces, its boxes.

    `cell` is width, height and gap of the characters in pixels, `tall` the height in units, `box` the outline
    about as drawn, `text_box` what has to stay free for the text to be read.
    """

    wish: Wish
    x: float
    base: float
    scale: float
    flip: float
    tall: float
    cell: tuple[float, float, float]
    box: tuple[float, float, float, float]
    text_box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Camera:
    """The camera: row of the horizon and pixels of drop per pixel-per-unit of scale."""

    horizon: int
    camera: float


def draw_colour(kind: str, draws: Draw) -> str | None:
    """Draw a colour for a kind, never one of the held-out pairs; None for kinds that carry none."""
    if kind not in COLOURED:
        return None
    return draws.pick([colour for colour in COLOURS if (colour, kind) not in HELD_OUT])


def draw_number(draws: Draw) -> str:
    """Draw a number from 1 to 99 as text."""
    return str(draws.integer(1, 99))


def draw_wishes(split: str, draws: Draw) -> list[Wish]:
    """Draw what the scene should show, the most important first; 2 to 7 wishes."""
    wishes: list[Wish] = []
    if split == "heldout":
        colour, kind = draws.pick(sorted(HELD_OUT))
        wishes.append(Wish(kind, colour, small=draws.chance(0.3), needed=True))
    if draws.chance(0.55):
        text = draw_number(draws) if draws.chance(0.6) else draws.pick(WORDS)
        wishes.append(Wish("sign", draw_colour("sign", draws), text))
    if draws.chance(0.3):
        kind, text = draws.pick(("bus", "house")), draw_number(draws)
        if all(wish.text != text for wish in wishes):
            wishes.append(Wish(kind, draw_colour(kind, draws), text))
    target = max(draws.pick((2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)), len(wishes))
    while len(wishes) < target:
        kind = draws.pick(OTHERS)
        room = min(MOST_THINGS - len(wishes), MOST_ALIKE - sum(wish.kind == kind for wish in wishes))
        if room < 1:
            continue
        count = min(draws.pick((2, 2, 3, 3, 4, 5)), room) if draws.chance(0.45) else 1
        shared = draw_colour(kind, draws) if draws.chance(0.25) else None
        for _ in range(count):
            wishes.append(Wish(kind, shared or draw_colour(kind, draws), small=count >= 3))
    return wishes


def propose(wish: Wish, view: Camera, draws: Draw) -> Place:
    """Draw one place for a wish; it may turn out to be in the way."""
    width, height, low, high = SIZES[wish.kind]
    flip = 1.0 if draws.chance(0.5) else -1.0
    cell = (0.0, 0.0, 0.0)
    tall = height
    if wish.small:
        high = low + (high - low) * 0.5
    if wish.text is not None and wish.kind != "sign":
        low, high = (47.0, 56.0) if wish.kind == "bus" else (40.0, 48.0)
    scale = draws.between(low, high)
    if wish.text is not None:
        if wish.kind == "sign":
            cell = (draws.between(32.0, 44.0 if len(wish.text) < 4 else 39.0), draws.between(50.0, 64.0), 8.0)
            tall = draws.between(2.1, 2.7)
            width = (len(wish.text) * cell[0] + (len(wish.text) - 1) * cell[2] + 26.0) / scale
        else:
            cell = (draws.between(30.0, 34.0), draws.between(45.0, 50.0), 6.0)
            flip = 1.0
    base = view.horizon + scale * view.camera * draws.between(0.95, 1.05)
    half = width * scale / 2.0
    inset = half * 0.8 if wish.text is None and half > 30.0 else half + 3.0
    x = draws.between(inset, WIDTH - inset) if inset < WIDTH / 2.0 else WIDTH / 2.0
    box = (x - half, base - tall * scale, x + half, base)
    text_box = None
    if wish.text is not None:
        u, v = plate_centre(wish.kind, tall, cell, scale)
        cx, cy = x + u * scale, base - v * scale
        text_half = (len(wish.text) * cell[0] + (len(wish.text) - 1) * cell[2]) / 2.0 + 12.0
        text_box = (cx - text_half, cy - cell[1] / 2.0 - 8.0, cx + text_half, cy + cell[1] / 2.0 + 8.0)
    return Place(wish, x, base, scale, flip, tall, cell, box, text_box)


def plate_centre(
    kind: str, tall: float, cell: tuple[float, float, float], scale: float
) -> tuple[float, float]:
    """Where the text of a sign, bus or house stands, in units from its foot."""
    if kind == "sign":
        return 0.0, tall - (cell[1] + 24.0) / 2.0 / scale
    return (-0.42, 1.32) if kind == "bus" else (0.72, 1.3)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    tall = min(a[3], b[3]) - max(a[1], b[1])
    return wide * tall if wide > 0.0 and tall > 0.0 else 0.0


def _size(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def fits(place: Place, others: list[Place]) -> bool:
    """Tell whether a place leaves everything, itself included, open enough to view (judged by boxes)."""
    if (
        place.base > HEIGHT + 8
        or place.box[1] < 2.0
        or (place.wish.text is not None and place.box[3] > HEIGHT + 4)
    ):
        return False
    hidden = 0.0
    for other in others:
        overlap = _overlap(place.box, other.box)
        if overlap == 0.0:
            continue
        if abs(place.base - other.base) < 7.0:
            return False
        if (
            place.wish.colour is not None
            and place.wish.colour == other.wish.colour
            and overlap > 0.08 * _size(place.box)
        ):
            return False  # the same paint would run together
        far, near = (place, other) if place.base < other.base else (other, place)
        if far.text_box is not None and _overlap(far.text_box, near.box) > 0.0:
            return False
        share = overlap / _size(far.box)
        if share > 0.3:
            return False
        if far is place:
            hidden += share
    return hidden <= 0.4


def arrange(wishes: list[Wish], view: Camera, draws: Draw) -> list[Place]:
    """Find a place for each wish, leaving out those for which none is found; sorted far to near."""
    places: list[Place] = []
    for wish in wishes:
        for _ in range(TRIES):
            place = propose(wish, view, draws)
            if fits(place, places):
                places.append(place)
                break
    return sorted(places, key=lambda place: place.base)
