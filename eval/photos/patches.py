"""What each patch of a photograph shows, from its boxes, and which classes are in it."""

from __future__ import annotations

import numpy as np

from eval.photos.facts import MIDDLE_BAND, View, area
from eval.photos.names import COCO
from eval.photos.records import WHOLE

UNKNOWN = -100
NUMBER = {name: number for number, name in enumerate(COCO)}


def presence(view: View) -> np.ndarray:
    """Which of COCO's classes are in a view: float32 [80] of 1, 0, and NaN where nobody knows."""
    present = np.full(len(COCO), np.nan, np.float32)
    for names, value in ((view.absent, 0.0), (view.present, 1.0)):
        present[[NUMBER[name] for name in names if name in NUMBER]] = value
    return present


def which_half(centres: np.ndarray) -> np.ndarray:
    """The half in which each of objects' centres lies: int64 0 or 1; -100 near the middle and for NaN."""
    low, high = MIDDLE_BAND
    return np.where(centres < low, 0, np.where(centres > high, 1, UNKNOWN)).astype(np.int64)


def patches(view: View, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of side x side patches the class of its object + 1 (0: none), int64, and the object's region.

    Without boxes nothing is known: -100 and NaN. Regions are float32 [N, 4]. Where objects overlap, the
    smaller stands in front.
    """
    kind = np.full(side**2, UNKNOWN, np.int64)
    regions = np.full((side**2, 4), np.nan, np.float32)
    things = [thing for thing in view.photo.things if thing.box]
    if not things:
        return kind, regions
    kind[:] = 0
    centres = (np.arange(side) + 0.5) / side
    seen = [thing for same in view.by_name.values() for thing in same if thing.box and thing.name in NUMBER]
    for thing in sorted(seen, key=lambda thing: -area(thing)):
        x0, y0, x1, y1 = thing.box or WHOLE
        columns = np.flatnonzero((centres >= x0) & (centres < x1))
        rows = np.flatnonzero((centres >= y0) & (centres < y1))
        here = (rows[:, None] * side + columns).ravel()
        kind[here] = NUMBER[thing.name] + 1
        regions[here] = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
    return kind, regions
