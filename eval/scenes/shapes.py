"""A pen that turns shapes in an object's own units into primitive rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from eval.scenes import render
from eval.scenes.glyphs import segments
from eval.scenes.textures import GRAIN

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
        return render.stack_rows(self.rows), vertices
