"""Light, backdrop and camera: paint the objects of a scene into a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.asking.question import Draw
from eval.scenes.layout import HEIGHT, WIDTH, Camera
from eval.scenes.render import cast_shadow, contact_shadow, paint
from eval.scenes.render_ground import SURFACES, expose, ground, sky, soften
from eval.scenes.shapes import RGB, Box, Pen
from eval.scenes.textures import bells, tables

GROUNDS: tuple[str, ...] = ("road", "grass", "paving", "sand")


@dataclass(frozen=True)
class Light:
    """Weather and hour: colours of the sky, strength of cast shadows, tint of the light (per channel)."""

    name: str
    sky_top: RGB
    sky_bottom: RGB
    cloud: RGB
    hills: RGB
    cover: tuple[float, float]
    strength: float  # of light from the side, 0 to 1
    dark: float  # of cast shadows, 0 to 1
    tint: RGB


LIGHTS: tuple[Light, ...] = (
    Light(
        name="sunny",
        sky_top=(72, 128, 200),
        sky_bottom=(186, 212, 232),
        cloud=(246, 247, 250),
        hills=(118, 136, 156),
        cover=(0.15, 0.5),
        strength=1.0,
        dark=0.48,
        tint=(1.0, 1.0, 1.0),
    ),
    Light(
        name="overcast",
        sky_top=(150, 158, 168),
        sky_bottom=(206, 210, 214),
        cloud=(228, 230, 232),
        hills=(140, 148, 156),
        cover=(0.3, 0.8),
        strength=0.35,
        dark=0.16,
        tint=(0.98, 0.99, 1.01),
    ),
    Light(
        name="evening",
        sky_top=(104, 118, 168),
        sky_bottom=(240, 196, 160),
        cloud=(236, 188, 172),
        hills=(122, 108, 128),
        cover=(0.15, 0.5),
        strength=0.9,
        dark=0.4,
        tint=(1.03, 0.99, 0.94),
    ),
)
_COLOUR_OF: dict[str, RGB] = {
    "asphalt": (106.0, 107.0, 111.0),
    "grass": (112.0, 134.0, 68.0),
    "paving": (172.0, 164.0, 153.0),
    "sand": (198.0, 178.0, 140.0),
}


@dataclass(frozen=True)
class Silhouette:
    """An object's outline before anything hides it: mask uint8 [H, W], area, box, primitives."""

    mask: NDArray[np.uint8]
    area: int
    box: Box
    primitives: NDArray[np.float64]
    vertices: NDArray[np.float64]


def _array(rgb: RGB) -> NDArray[np.float64]:
    return np.array(rgb, dtype=np.float64)


def _bands(name: str, horizon: int, draws: Draw) -> tuple[list[int], list[str], int]:
    """Draw the bands of ground from the horizon down: edges, surfaces, and the row of a lane line or -1."""
    if name == "road":
        first = horizon + draws.integer(30, 60)
        last = draws.integer(340, 400)
        lane = (first * 3 + last * 2) // 5
        beyond = draws.pick(("grass", "sand", "paving"))
        return [horizon, first, last, HEIGHT], [beyond, "asphalt", draws.pick(("paving", "grass"))], lane
    if draws.chance(0.5):
        edge = horizon + draws.integer(30, 110)
        other = draws.pick([surface for surface in ("grass", "paving", "sand") if surface != name])
        return [horizon, edge, HEIGHT], [other, name], -1
    return [horizon, HEIGHT], [name], -1


def _shadows(
    light: Light, sun: float, view: Camera, pens: list[Pen], outlines: list[Silhouette], draws: Draw
) -> NDArray[np.float32]:
    shadow = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    shear, squash = draws.between(0.25, 0.9), draws.pick((-1.0, 1.0)) * draws.between(0.12, 0.3)
    shear = -shear if sun > 0.0 else shear
    for outline, pen in zip(outlines, pens, strict=True):
        if light.name != "overcast":
            cast_shadow(shadow, outline.mask, outline.box, pen.base, shear, squash)
        half = (outline.box[2] - outline.box[0]) * 0.55
        contact_shadow(shadow, (outline.box[0] + outline.box[2]) / 2.0, pen.base, half, 4.0 + 0.1 * pen.scale)
    soften(shadow[view.horizon :], 2 if light.name == "overcast" else 1)
    return shadow


def paint_scene(
    light: Light,
    name: str,
    sun: float,
    view: Camera,
    pens: list[Pen],
    outlines: list[Silhouette],
    draws: Draw,
) -> NDArray[np.uint8]:
    """Paint backdrop, shadows and objects (far to near) and photograph them.

    `name` is one of GROUNDS; `sun` in [-1, 1] is the strength of light from the right. Returns uint8 [HEIGHT,
    WIDTH, 3].
    """
    textures = tables()
    image = np.empty((HEIGHT, WIDTH, 3), dtype=np.float32)
    shadow = _shadows(light, sun, view, pens, outlines, draws)
    sky(
        image,
        textures,
        view.horizon,
        _array(light.sky_top),
        _array(light.sky_bottom),
        _array(light.cloud),
        draws.between(*light.cover),
        draws.integer(0, 511),
        _array(light.hills),
        draws.between(0.0, 34.0),
    )
    edges, surfaces, lane = _bands(name, view.horizon, draws)
    bright = draws.between(0.9, 1.08)
    colours = np.array([[c * bright for c in _COLOUR_OF[surface]] for surface in surfaces], dtype=np.float64)
    kinds = np.array([SURFACES.index(surface) for surface in surfaces], dtype=np.int64)
    ground(
        image,
        shadow,
        textures,
        view.horizon,
        np.array(edges, dtype=np.int64),
        kinds,
        colours,
        view.camera,
        draws.integer(0, 511),
        light.dark,
        lane,
        _array(light.sky_bottom),
    )
    for outline in outlines:
        paint(image, outline.primitives, outline.vertices, textures)
    exposure = draws.between(0.86, 1.12)
    gains = np.array([exposure * t * draws.between(0.965, 1.035) for t in light.tint], dtype=np.float32)
    out = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    motion = draws.pick((1, 1, 3, 3, 3, 5))
    expose(
        image,
        gains,
        draws.between(0.05, 0.28),
        draws.between(0.3, 1.0),
        draws.between(0.0, 0.7),
        motion,
        bells(),
        draws.between(1.0, 5.0),
        draws.integer(0, 2**31 - 1),
        out,
    )
    return out
