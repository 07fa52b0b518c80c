"""A pen that turns shapes in an object's own units into primitive rows, and a stroke font for its signs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from eval.scenes import render
from eval.scenes.textures import GRAIN

Point = tuple[float, float]
Stroke = tuple[Point, ...]

# Cosines of multiples of 30 degrees as literals: library functions differ in the last bit between machines.
_COS = (1.0, 0.8660254, 0.5, 0.0, -0.5, -0.8660254, -1.0, -0.8660254, -0.5, 0.0, 0.5, 0.8660254)


def _arc(cx: float, cy: float, rx: float, ry: float, first: int, last: int) -> Stroke:
    """Points of an ellipse in steps of 30 degrees; 0 is right, 3 is down, 6 is left, 9 is up."""
    step = 1 if last >= first else -1
    return tuple(
        (cx + rx * _COS[i % 12], cy + ry * _COS[(i - 3) % 12]) for i in range(first, last + step, step)
    )


_OVAL = _arc(0.5, 0.5, 0.5, 0.5, 0, 12)
_BOWL_P = ((0.0, 1.0), (0.0, 0.0), *_arc(0.6, 0.27, 0.4, 0.27, 9, 15), (0.0, 0.54))

STROKES: dict[str, tuple[Stroke, ...]] = {
    "A": (((0, 1), (0.5, 0), (1, 1)), ((0.2, 0.64), (0.8, 0.64))),
    "B": (
        ((0, 0.48), (0, 0), *_arc(0.55, 0.24, 0.38, 0.24, 9, 15), (0, 0.48)),
        ((0, 0.48), *_arc(0.58, 0.74, 0.42, 0.26, 9, 15), (0, 1), (0, 0.48)),
    ),
    "C": (_arc(0.55, 0.5, 0.55, 0.5, 11, 1),),
    "D": (((0, 1), (0, 0), *_arc(0.42, 0.5, 0.58, 0.5, 9, 15), (0, 1)),),
    "E": (((1, 0), (0, 0), (0, 1), (1, 1)), ((0, 0.48), (0.8, 0.48))),
    "F": (((1, 0), (0, 0), (0, 1)), ((0, 0.48), (0.8, 0.48))),
    "G": ((*_arc(0.5, 0.5, 0.5, 0.5, 11, 2), (1, 0.82), (1, 0.54), (0.58, 0.54)),),
    "H": (((0, 0), (0, 1)), ((1, 0), (1, 1)), ((0, 0.5), (1, 0.5))),
    "I": (((0.5, 0), (0.5, 1)), ((0.1, 0), (0.9, 0)), ((0.1, 1), (0.9, 1))),
    "J": (((0.3, 0), (0.9, 0), *_arc(0.48, 0.7, 0.42, 0.3, 0, 6)),),
    "K": (((0, 0), (0, 1)), ((1, 0), (0, 0.6)), ((0.34, 0.4), (1, 1))),
    "L": (((0, 0), (0, 1), (1, 1)),),
    "M": (((0, 1), (0, 0), (0.5, 0.6), (1, 0), (1, 1)),),
    "N": (((0, 1), (0, 0), (1, 1), (1, 0)),),
    "O": (_OVAL,),
    "P": (_BOWL_P,),
    "Q": (_OVAL, ((0.6, 0.7), (1, 1))),
    "R": (_BOWL_P, ((0.45, 0.54), (1, 1))),
    "S": ((*_arc(0.5, 0.26, 0.47, 0.26, 11, 3), *_arc(0.5, 0.76, 0.5, 0.24, 10, 17)),),
    "T": (((0, 0), (1, 0)), ((0.5, 0), (0.5, 1))),
    "U": (((0, 0), *_arc(0.5, 0.62, 0.5, 0.38, 6, 0), (1, 0)),),
    "V": (((0, 0), (0.5, 1), (1, 0)),),
    "W": (((0, 0), (0.25, 1), (0.5, 0.35), (0.75, 1), (1, 0)),),
    "X": (((0, 0), (1, 1)), ((1, 0), (0, 1))),
    "Y": (((0, 0), (0.5, 0.5), (1, 0)), ((0.5, 0.5), (0.5, 1))),
    "Z": (((0, 0), (1, 0), (0, 1), (1, 1)),),
    "0": (_OVAL,),
    "1": (((0.12, 0.24), (0.52, 0), (0.52, 1)), ((0.08, 1), (0.96, 1))),
    "2": ((*_arc(0.5, 0.29, 0.48, 0.29, 6, 13), (0.02, 1), (1, 1)),),
    "3": (
        (*_arc(0.47, 0.25, 0.45, 0.25, 7, 15), *_arc(0.47, 0.75, 0.53, 0.25, 10, 17)),
        ((0.3, 0.5), (0.5, 0.5)),
    ),
    "4": (((0.74, 1), (0.74, 0), (0, 0.68), (1, 0.68)),),
    "5": (((0.94, 0), (0.12, 0), (0.06, 0.47), *_arc(0.46, 0.68, 0.54, 0.32, 8, 17)),),
    "6": (((0.8, 0), (0.32, 0.26), (0.04, 0.6), *_arc(0.5, 0.69, 0.5, 0.31, 6, 18)),),
    "7": (((0, 0), (1, 0), (0.36, 1)),),
    "8": (_arc(0.5, 0.25, 0.43, 0.25, 3, 15), _arc(0.5, 0.75, 0.5, 0.25, 9, 21)),
    "9": (((0.2, 1), (0.68, 0.74), (0.96, 0.4), *_arc(0.5, 0.31, 0.5, 0.31, 0, 12)),),
}


def segments(character: str) -> list[tuple[float, float, float, float]]:
    """Give the straight segments (x0, y0, x1, y1) of one character in the unit cell.

    Raises KeyError for a character outside A-Z and 0-9.
    """
    return [(*start, *end) for stroke in STROKES[character] for start, end in pairwise(stroke)]


RGB = tuple[float, float, float]
Box = tuple[int, int, int, int]

INK: RGB = (26.0, 26.0, 30.0)
RUBBER: RGB = (34.0, 34.0, 37.0)
METAL: RGB = (128.0, 132.0, 138.0)
CHALK: RGB = (240.0, 240.0, 236.0)
GLASS: RGB = (112.0, 140.0, 160.0)


def shade(rgb: RGB, factor: float) -> RGB:
    """Multiply a colour by a factor."""
    return (rgb[0] * factor, rgb[1] * factor, rgb[2] * factor)


class Finish(TypedDict, total=False):
    """How a primitive looks; what is left out is that of its shape.

    `lift` and `side` shade it from above and from the sun's side, `texture` is one of those of `textures`, of
    `amplitude` and so many `texels` a unit; `alpha` 0 to 1; `solid` ones hide what is behind them.
    """

    lift: float
    side: float
    texture: int
    amplitude: float
    texels: float
    alpha: float
    solid: bool


class Pen:
    """Collects the primitives of one object.

    The object's units have their origin at the foot, u to the right and v up; `scale` is pixels in a unit,
    `flip` is -1 where the object faces left, `sun` in [-1, 1] says from which side the light falls.
    """

    def __init__(self, x: float, base: float, scale: float, flip: float, sun: float, phase: float) -> None:
        self.x, self.base, self.scale, self.flip, self.sun, self.phase = x, base, scale, flip, sun, phase
        self.rows: list[tuple[float, ...]] = []
        self.vertices: list[tuple[float, float]] = []
        self.glyphs: list[tuple[str, Box]] = []

    def _add(
        self,
        kind: int,
        geometry: tuple[float, float, float, float, float],
        rgb: RGB,
        lift: float,
        side: float,
        finish: Finish,
    ) -> None:
        """A primitive, with `lift` and `side` where its finish says nothing else."""
        self.rows.append(
            (
                *(float(kind), *geometry),
                *rgb,
                *(
                    finish.get("lift", lift),
                    finish.get("side", side) * self.sun,
                    float(finish.get("texture", GRAIN)),
                    finish.get("amplitude", 0.04),
                    finish.get("texels", 1.0),
                    finish.get("alpha", 1.0),
                    1.0 if finish.get("solid", True) else 0.0,
                    self.phase,
                ),
            )
        )

    def box(
        self,
        u: float,
        v: float,
        half_u: float,
        half_v: float,
        rgb: RGB,
        r: float = 0.0,
        **finish: Unpack[Finish],
    ) -> None:
        """Add an upright box with corners rounded by r round (u, v)."""
        s = self.scale
        geometry = (self.x + self.flip * u * s, self.base - v * s, half_u * s, half_v * s, r * s)
        self._add(render.BOX, geometry, rgb, 0.08, 0.05, finish)

    def ellipse(
        self,
        u: float,
        v: float,
        radius_u: float,
        radius_v: float,
        rgb: RGB,
        *,
        ragged: float = 0.0,
        ring: float = 0.0,
        **finish: Unpack[Finish],
    ) -> None:
        """Add an ellipse; `ragged` units make its outline leafy, `ring` units (half thickness) hollow."""
        s = self.scale
        kind = render.FOLIAGE if ragged > 0 else render.RING if ring > 0 else render.ELLIPSE
        geometry = (
            self.x + self.flip * u * s,
            self.base - v * s,
            radius_u * s,
            radius_v * s,
            (ragged + ring) * s,
        )
        self._add(kind, geometry, rgb, 0.15, 0.12, finish)

    def line(
        self, u0: float, v0: float, u1: float, v1: float, r: float, rgb: RGB, **finish: Unpack[Finish]
    ) -> None:
        """Add a straight stroke with round ends and half width r."""
        s, x, base, flip = self.scale, self.x, self.base, self.flip
        geometry = (x + flip * u0 * s, base - v0 * s, x + flip * u1 * s, base - v1 * s, r * s)
        self._add(render.CAPSULE, geometry, rgb, 0.0, 0.1, finish)

    def polygon(self, points: Sequence[tuple[float, float]], rgb: RGB, **finish: Unpack[Finish]) -> None:
        """Add a filled polygon."""
        s = self.scale
        geometry = (float(len(self.vertices)), float(len(points)), 0.0, 0.0, 0.0)
        self.vertices.extend((self.x + self.flip * u * s, self.base - v * s) for u, v in points)
        self._add(render.POLYGON, geometry, rgb, 0.12, 0.05, finish)

    def text(self, text: str, u: float, v: float, width: float, height: float, gap: float, rgb: RGB) -> None:
        """Write upright characters centred on (u, v); width, height and gap are pixels of one cell."""
        left = self.x + self.flip * u * self.scale - (len(text) * width + (len(text) - 1) * gap) / 2.0
        top = self.base - v * self.scale - height / 2.0
        r = height * 0.088
        for character in text:
            x0, y0, x1, y1 = 1e9, 1e9, -1e9, -1e9
            for su, sv, eu, ev in segments(character):
                ax, ay = left + r + su * (width - 2 * r), top + r + sv * (height - 2 * r)
                bx, by = left + r + eu * (width - 2 * r), top + r + ev * (height - 2 * r)
                self._add(render.CAPSULE, (ax, ay, bx, by, r), rgb, 0.0, 0.0, {"amplitude": 0.03})
                x0, x1 = min(x0, ax - r, bx - r), max(x1, ax + r, bx + r)
                y0, y1 = min(y0, ay - r, by - r), max(y1, ay + r, by + r)
            self.glyphs.append((character, (int(x0), int(y0), int(x1) + 1, int(y1) + 1)))
            left += width + gap

    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the primitives [n, COLUMNS] and the polygon vertices [m, 2], both float64."""
        vertices = np.array(self.vertices or [(0.0, 0.0)], dtype=np.float64).reshape(-1, 2)
        return np.array(self.rows, dtype=np.float64).reshape(-1, render.COLUMNS), vertices
