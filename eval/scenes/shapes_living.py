"""People, dogs and trees."""

from __future__ import annotations

from eval.asking.question import Draw
from eval.scenes.shapes import INK, RGB, Pen, shade
from eval.scenes.textures import LEAF, WOOD

SKINS: tuple[RGB, ...] = (
    (236.0, 196.0, 168.0),
    (206.0, 156.0, 122.0),
    (150.0, 104.0, 76.0),
    (104.0, 70.0, 52.0),
)
HAIR: tuple[RGB, ...] = ((46.0, 34.0, 28.0), (92.0, 62.0, 40.0), (150.0, 120.0, 84.0), (120.0, 116.0, 112.0))
TROUSERS: tuple[RGB, ...] = ((92.0, 94.0, 102.0), (140.0, 124.0, 104.0), (112.0, 108.0, 104.0))
COATS: tuple[RGB, ...] = (
    (132.0, 92.0, 56.0),
    (96.0, 66.0, 44.0),
    (176.0, 140.0, 96.0),
    (112.0, 106.0, 100.0),
)
LEAVES: tuple[RGB, ...] = ((66.0, 112.0, 48.0), (84.0, 122.0, 52.0), (52.0, 96.0, 56.0))
BARK: RGB = (98.0, 74.0, 54.0)


def person(pen: Pen, clothes: RGB, draws: Draw) -> None:
    """Draw somebody standing or walking in a coat, 0.8 wide and 1.8 tall."""
    skin, hair, legs = draws.pick(SKINS), draws.pick(HAIR), draws.pick(TROUSERS)
    stride = draws.between(0.04, 0.24)
    for side in (-1.0, 1.0):
        pen.line(side * 0.08, 0.85, side * stride, 0.1, 0.09, shade(legs, 1.0 + 0.1 * side))
        pen.box(side * stride + 0.06, 0.05, 0.13, 0.05, INK, 0.04)
    swing = draws.between(0.0, 0.2)
    pen.line(-0.2, 1.32, -0.32 - swing, 0.9, 0.075, shade(clothes, 0.86))
    pen.ellipse(-0.33 - swing, 0.84, 0.07, 0.08, skin)
    pen.line(0.2, 1.32, 0.32 + swing, 0.9, 0.075, shade(clothes, 0.94))
    pen.ellipse(0.33 + swing, 0.84, 0.07, 0.08, skin)
    pen.polygon(
        (
            (-0.27, 1.36),
            (-0.17, 1.46),
            (0.17, 1.46),
            (0.27, 1.36),
            (0.25, 0.98),
            (0.29, 0.68),
            (-0.29, 0.68),
            (-0.25, 0.98),
        ),
        clothes,
        lift=0.12,
        side=0.1,
    )
    pen.line(0.0, 0.7, 0.0, 1.4, 0.012, shade(clothes, 0.7))
    pen.box(0.0, 1.48, 0.07, 0.07, shade(skin, 0.85))
    if draws.chance(0.4):
        pen.ellipse(-0.02, 1.6, 0.19, 0.24, hair)
    pen.ellipse(0.0, 1.65, 0.16, 0.19, skin, lift=0.1)
    pen.polygon(
        ((-0.17, 1.66), (-0.16, 1.8), (-0.06, 1.88), (0.08, 1.87), (0.16, 1.78), (0.15, 1.72), (-0.06, 1.76)),
        hair,
    )
    pen.ellipse(0.06, 1.66, 0.02, 0.025, INK)


def dog(pen: Pen, draws: Draw) -> None:
    """Draw a dog from the side, 1.3 long and 0.9 tall."""
    fur = draws.pick(COATS)
    dark = shade(fur, 0.62)
    for u, far in ((-0.3, True), (0.28, True), (-0.42, False), (0.4, False)):
        pen.line(u, 0.4, u + 0.02, 0.06, 0.062, dark if far else fur)
        pen.ellipse(u + 0.05, 0.05, 0.09, 0.05, dark if far else fur)
    pen.line(-0.46, 0.56, -0.66, 0.86, 0.05, fur)
    pen.ellipse(0.0, 0.52, 0.52, 0.2, fur, lift=0.25, texture=LEAF, amplitude=0.12)
    pen.ellipse(0.34, 0.55, 0.22, 0.22, fur, texture=LEAF, amplitude=0.12)
    pen.line(0.42, 0.6, 0.54, 0.84, 0.13, fur)
    pen.ellipse(0.58, 0.88, 0.18, 0.15, fur)
    pen.line(0.66, 0.84, 0.82, 0.81, 0.075, shade(fur, 1.1))
    pen.ellipse(0.88, 0.84, 0.04, 0.04, INK)
    pen.ellipse(0.64, 0.92, 0.025, 0.025, INK)
    pen.line(0.5, 0.96, 0.44, 0.8, 0.06, dark)
    pen.line(0.46, 0.66, 0.56, 0.6, 0.03, (178.0, 40.0, 40.0))


def tree(pen: Pen, draws: Draw) -> None:
    """Draw a leafy tree or a fir, 2.4 wide and 3.8 tall."""
    leaf = draws.pick(LEAVES)
    texels = 40.0 / pen.scale
    if draws.chance(0.35):
        pen.box(0.0, 0.3, 0.13, 0.34, BARK, texture=WOOD, amplitude=0.2)
        for bottom, half, top in ((0.5, 1.05, 1.9), (1.3, 0.85, 2.75), (2.15, 0.6, 3.8)):
            points = (
                (-half, bottom),
                (-half * 0.5, bottom + 0.08),
                (0.0, bottom - 0.06),
                (half * 0.5, bottom + 0.08),
                (half, bottom),
                (0.0, top),
            )
            pen.polygon(
                points, shade(leaf, 0.82), lift=0.3, side=0.25, texture=LEAF, amplitude=0.5, texels=texels
            )
        return
    pen.polygon(
        ((-0.2, 0.0), (-0.11, 0.5), (-0.1, 1.9), (0.1, 1.9), (0.11, 0.5), (0.2, 0.0)),
        BARK,
        side=0.25,
        texture=WOOD,
        amplitude=0.2,
    )
    pen.line(0.0, 1.1, 0.5, 1.8, 0.06, BARK)
    pen.line(0.0, 1.3, -0.45, 1.9, 0.06, shade(BARK, 0.85))
    lobes = (
        (-0.55, 2.05, 0.62, 0.55),
        (0.58, 2.1, 0.6, 0.56),
        (0.0, 2.4, 0.95, 0.8),
        (-0.35, 2.9, 0.62, 0.56),
        (0.3, 3.05, 0.62, 0.6),
    )
    for i, (u, v, ru, rv) in enumerate(lobes):
        tone = shade(leaf, 0.86 + 0.07 * i)
        ru, rv = ru * draws.between(0.9, 1.08), rv * draws.between(0.92, 1.06)
        pen.ellipse(
            u, v, ru, rv, tone, lift=0.28, side=0.2, texture=LEAF, amplitude=0.5, texels=texels, ragged=0.1
        )
