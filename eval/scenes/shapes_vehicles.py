"""Cars, buses, trucks and bicycles, seen from the side."""

from __future__ import annotations

from eval.scenes.draws import Draws
from eval.scenes.shapes import CHALK, GLASS, INK, METAL, RGB, RUBBER, Pen, shade
from eval.scenes.textures import PANEL

HEADLIGHT: RGB = (250.0, 244.0, 205.0)
TAIL_LIGHT: RGB = (170.0, 28.0, 30.0)


def wheel(pen: Pen, u: float, radius: float) -> None:
    """Add a tyre with a hub that stands on the ground."""
    pen.ellipse(u, radius, radius, radius, RUBBER, side=0.05)
    pen.ellipse(u, radius, radius * 0.55, radius * 0.55, (168.0, 171.0, 176.0))
    pen.ellipse(u, radius, radius * 0.2, radius * 0.2, (70.0, 72.0, 76.0))


def car(pen: Pen, paint: RGB, draws: Draws) -> None:
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


def bus(pen: Pen, paint: RGB, draws: Draws, plated: bool) -> None:
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


def truck(pen: Pen, paint: RGB, draws: Draws) -> None:
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


def bicycle(pen: Pen, paint: RGB, draws: Draws) -> None:
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
