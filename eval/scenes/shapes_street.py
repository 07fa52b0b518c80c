"""Houses, street furniture, and cars, buses, trucks and bicycles seen from the side."""

from __future__ import annotations

from eval.asking.question import Draw
from eval.scenes.shapes import CHALK, GLASS, INK, METAL, RGB, RUBBER, Pen, shade
from eval.scenes.textures import BRICK, PANEL, WOOD

HEADLIGHT: RGB = (250.0, 244.0, 205.0)
TAIL_LIGHT: RGB = (170.0, 28.0, 30.0)


def wheel(pen: Pen, u: float, radius: float) -> None:
    """Add a tyre with a hub that stands on the ground."""
    pen.ellipse(u, radius, radius, radius, RUBBER, side=0.05)
    pen.ellipse(u, radius, radius * 0.55, radius * 0.55, (168.0, 171.0, 176.0))
    pen.ellipse(u, radius, radius * 0.2, radius * 0.2, (70.0, 72.0, 76.0))


def car(pen: Pen, paint: RGB, draws: Draw) -> None:
    """Draw a saloon or a hatchback, 3.6 long and 1.42 tall."""
    hatch = draws.chance(0.4)
    tail = ((-1.74, 0.9), (-1.5, 1.34)) if hatch else ((-1.72, 0.86), (-1.2, 0.92), (-0.78, 1.36))
    body = ((-1.76, 0.3), (-1.8, 0.6), *tail, (0.35, 1.4), (0.98, 0.92), (1.62, 0.8), (1.8, 0.6), (1.78, 0.3))
    pen.polygon(body, paint, lift=0.2)
    pen.box(0.0, 0.32, 1.72, 0.07, shade(paint, 0.55))
    rear = (
        ((-1.5, 0.94), (-1.36, 1.26), (-0.42, 1.3), (-0.42, 0.94))
        if hatch
        else ((-1.02, 0.94), (-0.7, 1.26), (-0.36, 1.3), (-0.36, 0.94))
    )
    split = -0.3 if not hatch else -0.36
    pen.polygon(rear, GLASS, lift=0.35)
    pen.polygon(((split + 0.06, 0.94), (split + 0.06, 1.3), (0.3, 1.3), (0.8, 0.94)), GLASS, lift=0.35)
    pen.line(split, 0.42, split, 0.9, 0.015, shade(paint, 0.6))
    pen.box(split - 0.18, 0.8, 0.09, 0.02, shade(paint, 0.6))
    pen.line(-1.7, 0.7, 1.7, 0.68, 0.02, shade(paint, 1.2), alpha=0.5)
    pen.ellipse(1.66, 0.62, 0.11, 0.09, HEADLIGHT)
    pen.box(-1.74, 0.68, 0.05, 0.1, TAIL_LIGHT)
    for u in (-1.08, 1.1):
        pen.ellipse(u, 0.34, 0.4, 0.4, shade(INK, 0.8))
        wheel(pen, u, 0.34)


def bus(pen: Pen, paint: RGB, draws: Draw, plated: bool) -> None:
    """Draw a coach with a row of windows, 5.2 long and 2.5 tall; plated leaves the middle free."""
    pen.box(0.0, 1.4, 2.6, 1.08, paint, 0.2, lift=0.14)
    pen.box(0.0, 2.4, 2.3, 0.08, shade(paint, 0.75), 0.05)
    pen.box(0.0, 0.42, 2.5, 0.1, shade(paint, 0.5))
    if not plated:
        pen.box(0.0, 1.1, 2.58, 0.06, blend_light(paint), 0.0)
    centres = (-2.02, 1.18) if plated else (-2.06, -1.26, -0.46, 0.34, 1.14)
    for u in centres:
        pen.box(u, 1.72, 0.34, 0.36, GLASS, 0.06, lift=0.35)
    pen.box(1.84, 1.26, 0.26, 0.82, (88.0, 108.0, 124.0), 0.04, lift=0.25)
    pen.line(1.84, 0.5, 1.84, 2.05, 0.02, INK)
    pen.box(2.42, 1.7, 0.17, 0.42, GLASS, 0.05, lift=0.35)
    pen.ellipse(2.5, 0.72, 0.08, 0.1, HEADLIGHT)
    pen.box(-2.55, 0.8, 0.04, 0.14, TAIL_LIGHT)
    for u in (-1.55, 1.2):
        pen.ellipse(u, 0.42, 0.5, 0.5, shade(INK, 0.8))
        wheel(pen, u, 0.42)


def blend_light(paint: RGB) -> RGB:
    """Give the stripe colour of a bus: paler than dark paint, darker than pale paint."""
    bright = paint[0] + paint[1] + paint[2] > 600.0
    return (
        shade(paint, 0.72)
        if bright
        else (paint[0] * 0.6 + 90.0, paint[1] * 0.6 + 90.0, paint[2] * 0.6 + 90.0)
    )


def truck(pen: Pen, paint: RGB, draws: Draw) -> None:
    """Draw a lorry: a tall ribbed box behind a lower cab, 4.6 long and 2.4 tall."""
    pen.box(-0.1, 0.5, 2.2, 0.12, (52.0, 54.0, 58.0))
    pen.box(
        -0.72, 1.5, 1.58, 0.9, paint, 0.03, lift=0.1, texture=PANEL, amplitude=0.16, texels=60.0 / pen.scale
    )
    pen.box(-0.72, 2.36, 1.58, 0.05, shade(paint, 0.7))
    pen.box(-0.72, 0.64, 1.58, 0.05, shade(paint, 0.55))
    cab = ((1.0, 0.4), (1.0, 1.72), (1.12, 1.82), (1.75, 1.82), (2.12, 1.12), (2.28, 1.02), (2.3, 0.4))
    pen.polygon(cab, paint, lift=0.16)
    pen.polygon(((1.24, 1.1), (1.24, 1.66), (1.68, 1.66), (1.98, 1.1)), GLASS, lift=0.35)
    pen.box(1.3, 0.95, 0.1, 0.025, shade(paint, 0.5))
    pen.box(1.65, 0.44, 0.66, 0.07, (60.0, 62.0, 66.0))
    pen.ellipse(2.18, 0.72, 0.09, 0.1, HEADLIGHT)
    pen.box(-2.27, 0.72, 0.04, 0.1, TAIL_LIGHT)
    for u in (-1.75, -0.85, 1.6):
        wheel(pen, u, 0.42)


def bicycle(pen: Pen, paint: RGB, draws: Draw) -> None:
    """Draw a bicycle, 1.9 long and 1.2 tall."""
    for u in (-0.56, 0.56):
        pen.ellipse(u, 0.39, 0.39, 0.39, RUBBER, ring=0.036, side=0.0)
        for du, dv in ((0.0, 0.33), (0.29, 0.16), (0.29, -0.16)):
            pen.line(u - du, 0.39 - dv, u + du, 0.39 + dv, 0.008, METAL, alpha=0.5, solid=False)
    tube = 0.058
    rear, crank, seat, head, front = (-0.56, 0.39), (-0.05, 0.36), (-0.22, 0.86), (0.38, 0.88), (0.56, 0.39)
    for a, b in ((rear, crank), (rear, seat), (crank, seat), (crank, head), (seat, head), (head, front)):
        pen.line(*a, *b, tube, paint)
    pen.line(-0.22, 0.86, -0.26, 1.0, 0.035, METAL)
    pen.line(-0.4, 1.03, -0.14, 1.03, 0.05, INK)
    pen.line(0.38, 0.88, 0.34, 1.08, 0.035, METAL)
    pen.line(0.34, 1.09, 0.52, 1.1, 0.04, INK)
    pen.ellipse(-0.05, 0.36, 0.1, 0.1, INK)
    pen.line(-0.05, 0.36, 0.06, 0.22, 0.025, METAL)
    pen.box(0.08, 0.2, 0.07, 0.025, CHALK if draws.chance(0.2) else INK)


ROOFS: tuple[RGB, ...] = ((104.0, 84.0, 74.0), (92.0, 94.0, 100.0), (120.0, 104.0, 92.0))
WOODS: tuple[RGB, ...] = ((112.0, 84.0, 62.0), (96.0, 88.0, 80.0))
IRON: RGB = (58.0, 62.0, 66.0)


def house(pen: Pen, walls: RGB, draws: Draw, plated: bool) -> None:
    """Draw a gabled brick house, 4.4 wide and 4.1 tall; plated leaves the right half of the wall free."""
    roof, wood = draws.pick(ROOFS), draws.pick(WOODS)
    brick = 42.0 / pen.scale
    pen.box(-1.2, 3.4, 0.24, 0.55, shade(roof, 0.85), texture=BRICK, amplitude=0.2, texels=brick)
    pen.box(0.0, 1.25, 1.95, 1.27, walls, lift=0.06, side=0.1, texture=BRICK, amplitude=0.17, texels=brick)
    pen.polygon(
        ((-2.3, 2.42), (-1.5, 3.9), (1.5, 3.9), (2.3, 2.42)),
        roof,
        lift=0.1,
        texture=BRICK,
        amplitude=0.25,
        texels=brick,
    )
    pen.box(0.0, 2.4, 2.25, 0.06, shade(roof, 0.6))
    pen.box(-1.15 if plated else 0.0, 0.75, 0.42, 0.76, CHALK)
    pen.box(-1.15 if plated else 0.0, 0.73, 0.34, 0.7, wood, texture=WOOD, amplitude=0.15)
    pen.ellipse(-0.95 if plated else 0.22, 0.7, 0.05, 0.05, (214.0, 190.0, 110.0))
    panes = ((-1.15, 1.95, 0.36, 0.3),) if plated else ((-1.2, 1.35, 0.44, 0.52), (1.2, 1.35, 0.44, 0.52))
    for u, v, half_u, half_v in panes:
        pen.box(u, v, half_u, half_v, CHALK)
        pen.box(u, v, half_u - 0.07, half_v - 0.07, shade(GLASS, 0.75), lift=0.35)
        pen.line(u, v - half_v, u, v + half_v, 0.03, CHALK)
        pen.line(u - half_u, v, u + half_u, v, 0.03, CHALK)
        pen.box(u, v - half_v - 0.04, half_u + 0.06, 0.05, shade(CHALK, 0.8))
    pen.box(0.0, 0.04, 1.97, 0.06, (110.0, 108.0, 104.0))


def lamp(pen: Pen, draws: Draw) -> None:
    """Draw a street lamp with one arm, 1.2 wide and 4.2 tall."""
    pen.box(0.0, 0.2, 0.17, 0.22, IRON, 0.04)
    pen.line(0.0, 0.2, 0.0, 3.95, 0.075, IRON, side=0.4)
    pen.line(0.0, 3.6, 0.36, 4.06, 0.05, IRON)
    pen.line(0.36, 4.06, 0.9, 4.1, 0.055, IRON)
    pen.polygon(((0.62, 4.06), (0.72, 4.22), (1.2, 4.18), (1.3, 4.0)), IRON)
    pen.ellipse(0.96, 4.0, 0.28, 0.11, (255.0, 242.0, 190.0))
    pen.box(0.0, 2.1, 0.1, 0.06, shade(IRON, 1.4))


def bench(pen: Pen, paint: RGB, draws: Draw) -> None:
    """Draw a slatted bench from the front, 2.1 wide and 1.05 tall."""
    for u in (-0.86, 0.86):
        pen.line(u, 0.05, u, 0.95, 0.05, IRON)
        pen.line(u - 0.1, 0.03, u + 0.1, 0.03, 0.045, IRON)
        pen.line(u - 0.03, 0.68, u + 0.12, 0.66, 0.045, IRON)
    for i, v in enumerate((0.66, 0.82, 0.98)):
        pen.box(
            0.0, v, 1.05, 0.068, shade(paint, 0.92 + 0.04 * i), 0.03, lift=0.15, texture=WOOD, amplitude=0.1
        )
    pen.box(0.0, 0.46, 1.08, 0.085, paint, 0.04, lift=0.2, texture=WOOD, amplitude=0.1)
    pen.box(0.0, 0.36, 1.08, 0.04, shade(paint, 0.6), 0.02)


def bin_(pen: Pen, paint: RGB, draws: Draw) -> None:
    """Draw a litter bin with a domed lid, 0.85 wide and 1.25 tall."""
    pen.polygon(((-0.31, 0.04), (-0.4, 0.94), (0.4, 0.94), (0.31, 0.04)), paint, lift=0.1, side=0.22)
    for u in (-0.2, 0.0, 0.2):
        pen.line(u * 0.85, 0.14, u, 0.84, 0.018, shade(paint, 0.72))
    pen.box(0.0, 0.05, 0.33, 0.05, IRON, 0.02)
    pen.ellipse(0.0, 0.98, 0.42, 0.28, shade(paint, 0.9), lift=0.25)
    pen.box(0.0, 0.94, 0.45, 0.055, shade(paint, 0.7), 0.03)
    pen.box(0.0, 1.08, 0.2, 0.06, INK, 0.05)


def hydrant(pen: Pen, draws: Draw) -> None:
    """Draw a fire hydrant with silver caps, 0.75 wide and 1.1 tall."""
    iron: RGB = (188.0, 44.0, 38.0)
    cap: RGB = (196.0, 196.0, 190.0)
    pen.box(0.0, 0.06, 0.3, 0.07, shade(iron, 0.75), 0.02)
    pen.box(0.0, 0.46, 0.2, 0.42, iron, 0.03, side=0.28)
    pen.box(0.0, 0.3, 0.24, 0.035, shade(iron, 0.8), 0.02)
    pen.ellipse(0.0, 0.86, 0.22, 0.17, iron, lift=0.2, side=0.25)
    pen.box(0.0, 0.84, 0.27, 0.045, shade(iron, 0.85), 0.02)
    pen.box(0.0, 1.05, 0.06, 0.06, cap, 0.02)
    for u in (-0.28, 0.28):
        pen.box(u, 0.6, 0.1, 0.1, shade(iron, 0.9), 0.02)
        pen.box(u * 1.3, 0.6, 0.045, 0.12, cap, 0.03)
    pen.ellipse(0.0, 0.58, 0.14, 0.14, cap, side=0.2)
    pen.ellipse(0.0, 0.58, 0.06, 0.06, shade(cap, 0.6))


def cone(pen: Pen, draws: Draw) -> None:
    """Draw an orange traffic cone with white bands, 0.85 wide and 1 tall."""
    rubber: RGB = (244.0, 104.0, 22.0)
    pen.box(0.0, 0.05, 0.42, 0.06, shade(rubber, 0.8), 0.02)
    pen.polygon(((-0.3, 0.08), (-0.05, 1.0), (0.05, 1.0), (0.3, 0.08)), rubber, lift=0.05, side=0.25)
    for low, high in ((0.28, 0.46), (0.62, 0.78)):
        a, b = 0.3217 - 0.2717 * low, 0.3217 - 0.2717 * high
        pen.polygon(((-a, low), (-b, high), (b, high), (a, low)), CHALK, side=0.2)


def plate(pen: Pen, text: str, u: float, v: float, cell: tuple[float, float, float]) -> None:
    """Fix a white plate with black characters of (width, height, gap) pixels at (u, v)."""
    width, height, gap = cell
    half_u = (len(text) * width + (len(text) - 1) * gap + 14.0) / 2.0 / pen.scale
    half_v = (height + 12.0) / 2.0 / pen.scale
    pen.box(u, v, half_u, half_v, INK, 0.06, amplitude=0.02)
    edge = 2.0 / pen.scale
    pen.box(u, v, half_u - edge, half_v - edge, (244.0, 244.0, 240.0), 0.05, lift=0.03, amplitude=0.02)
    pen.text(text, u, v, width, height, gap, INK)


def sign(
    pen: Pen, board: RGB, text: str, cell: tuple[float, float, float], tall: float, dark_text: bool
) -> None:
    """Draw a board on posts that carries `text`; `tall` is the height of the whole in units."""
    width, height, gap = cell
    half_u = (len(text) * width + (len(text) - 1) * gap + 26.0) / 2.0 / pen.scale
    half_v = (height + 24.0) / 2.0 / pen.scale
    posts = (0.0,) if half_u < 0.8 else (-half_u * 0.6, half_u * 0.6)
    for u in posts:
        pen.line(u, 0.04, u, tall - half_v, 0.05, METAL, side=0.4)
        pen.box(u, 0.04, 0.11, 0.05, IRON, 0.02)
    ink = INK if dark_text else (248.0, 248.0, 244.0)
    v = tall - half_v
    edge = 3.0 / pen.scale
    pen.box(0.0, v, half_u, half_v, ink, 0.12, amplitude=0.02)
    pen.box(0.0, v, half_u - edge, half_v - edge, board, 0.1, lift=0.07, side=0.06)
    pen.text(text, 0.0, v, width, height, gap, ink)
