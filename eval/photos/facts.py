"""What may be asked about a photograph, after a crop and a flip: what is surely there or not, and where.

A question is only fair when two people looking at the picture would agree. What is hidden, tiny, cut to a
sliver or a crowd is neither asked about nor said to be absent. What each patch shows is for training towers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from eval.photos.names import COCO, GROUP_MEMBERS, GROUP_NEEDED, INDOORS, OUTDOORS
from eval.photos.records import WHOLE, Photo, PhotoObject, Region

LEAST_AREA = 0.0025  # of the picture: 11 pixels square of 224
LEAST_TRUNCATED = 0.01  # of the picture, where the set says that the box is cut off
LEAST_VISIBLE = 0.35  # of a box that a crop cuts
LEAST_CROP = 0.45  # of a picture whose objects have no boxes: what is named may be cut off below
MIDDLE_BAND = (0.42, 0.58)  # of a side: neither left nor right
OVERREACH = 0.15  # past the middle that a thing on one side may reach
CENTRE = 0.07  # of the width: how far from the middle a thing in the middle may be
WIDEST = 0.7  # of the width: a wider thing is everywhere
APART = 0.15  # of the width: least distance of centres for left of
MARGIN = 1.6  # least ratio of areas for bigger: boxes say less than outlines
MAIN_AREA, MAIN_MARGIN = 0.12, 2.0  # of what the picture is of
MOST_COUNTED = 6


class View:
    """A photograph as questions see it, within `crop` (shares of the picture) and mirrored if `flip`.

    `present` are classes of which something is surely there, largest first; `unsure` ones may not be asked;
    `absent` ones are labelled and not there. `groups` maps a group ("animal") to whether it is there, as far
    as that is known.
    """

    def __init__(self, photo: Photo, crop: Region | None = None, flip: bool = False) -> None:
        crop = crop or WHOLE
        share = (crop[2] - crop[0]) * (crop[3] - crop[1])
        self.photo, self.share, self.flip = photo, share, flip
        seen = [view for view in (_seen(thing, crop, flip) for thing in photo.things) if view is not None]
        self.by_name: dict[str, list[PhotoObject]] = {}
        for thing in seen:
            self.by_name.setdefault(thing.name, []).append(thing)
        certain = {name: [t for t in things if t.sure] for name, things in self.by_name.items()}
        areas = {name: sum(area(t) for t in things) for name, things in certain.items() if things}
        self.present = sorted(areas, key=lambda name: (-areas[name], name))
        self.unsure = set(self.by_name) - set(self.present)
        self.absent = sorted(photo.labelled - set(self.by_name))
        self.groups = {name: there for name in GROUP_MEMBERS if (there := self._group(name)) is not None}

    def _group(self, name: str) -> bool | None:
        members = GROUP_MEMBERS[name]
        if any(member in self.present for member in members):
            return True
        known = all(member in self.absent for member in GROUP_NEEDED[name])
        return False if known and not any(member in self.unsure for member in members) else None

    @property
    def asked_present(self) -> list[str]:
        """Classes and groups that are there, of those that elsewhere may be said to be absent."""
        there = [name for name in self.present if name in self.photo.labelled]
        return there + [name for name, there_is in self.groups.items() if there_is and self.photo.labelled]

    @property
    def asked_absent(self) -> list[str]:
        """Classes and groups that are not there."""
        return self.absent + [name for name, there_is in self.groups.items() if not there_is]

    def counts(self) -> dict[str, int]:
        """How many there are of each class whose every instance is sure and boxed, up to MOST_COUNTED."""
        return {
            name: len(self.by_name[name])
            for name in self.present
            if len(self.by_name[name]) <= MOST_COUNTED and all(t.sure and t.box for t in self.by_name[name])
        }

    def single(self) -> list[PhotoObject]:
        """The things that ``the CLASS`` means: boxed, sure, and the only ones of their class."""
        return [self.by_name[name][0] for name, count in self.counts().items() if count == 1]

    def main(self) -> str | None:
        """What the picture is of: the one class that is there, or by far the largest; None where unclear."""
        if not self.present:
            return None
        if len(self.present) == 1 and self.by_name[self.present[0]][0].box is None:
            return self.present[0]
        areas = [sum(area(t) for t in self.by_name[name]) for name in self.present]
        others = [*areas[1:], *(area(t) for name in self.unsure for t in self.by_name[name])]
        clear = areas[0] >= MAIN_AREA and areas[0] >= MAIN_MARGIN * max(others, default=0)
        return self.present[0] if clear else None

    def member(self, group: str) -> str | None:
        """The one member of a group that is there, None where there is not exactly one."""
        there = [name for name in GROUP_MEMBERS[group] if name in self.by_name]
        return there[0] if len(there) == 1 and there[0] in self.present else None

    def outdoors(self) -> bool | None:
        """Whether the picture was taken outdoors, as far as what stands in it tells."""
        boxed = [name for name, things in self.by_name.items() if any(thing.box for thing in things)]
        inside, outside = INDOORS.intersection(boxed), OUTDOORS.intersection(boxed)
        return None if bool(inside) == bool(outside) else bool(outside)

    def contents(self) -> Counter[str]:
        """Every class that is there with its number, largest first: what a list of the picture should say."""
        return Counter({name: len(self.by_name[name]) for name in self.present})


def _seen(thing: PhotoObject, crop: Region, flip: bool) -> PhotoObject | None:
    """A thing after crop and flip: None where nothing is left of it, unsure where too little is."""
    if thing.box is None:
        share = (crop[2] - crop[0]) * (crop[3] - crop[1])
        return thing if share >= LEAST_CROP else replace(thing, sure=False)
    width, height = crop[2] - crop[0], crop[3] - crop[1]
    x0, x1 = ((min(max(x, crop[0]), crop[2]) - crop[0]) / width for x in (thing.box[0], thing.box[2]))
    y0, y1 = ((min(max(y, crop[1]), crop[3]) - crop[1]) / height for y in (thing.box[1], thing.box[3]))
    if x1 <= x0 or y1 <= y0:
        return None
    here = (x1 - x0) * (y1 - y0)
    visible = here * width * height / area(thing)
    cut = visible < 0.999
    sure = (
        thing.sure
        and here >= (LEAST_TRUNCATED if cut or thing.truncated else LEAST_AREA)
        and visible >= LEAST_VISIBLE
    )
    box = (1 - x1, y0, 1 - x0, y1) if flip else (x0, y0, x1, y1)
    return PhotoObject(thing.name, box, sure, thing.truncated or cut)


def area(thing: PhotoObject) -> float:
    """The share of the picture that a thing's box covers, 0 without a box."""
    if thing.box is None:
        return 0.0
    x0, y0, x1, y1 = thing.box
    return (x1 - x0) * (y1 - y0)


def half(thing: PhotoObject, axis: int) -> int | None:
    """Which half of the picture a thing is in along an axis (0: left/right, 1: top/bottom): 0, 1 or None."""
    if thing.box is None:
        return None
    low, high = thing.box[axis], thing.box[axis + 2]
    middle = (low + high) / 2
    if middle < MIDDLE_BAND[0] and high < 0.5 + OVERREACH:
        return 0
    if middle > MIDDLE_BAND[1] and low > 0.5 - OVERREACH:
        return 1
    return None


def third(thing: PhotoObject) -> int | None:
    """Whether a thing is on the left (0), in the middle (1) or on the right (2) of the picture, or None."""
    if thing.box is None or thing.box[2] - thing.box[0] > WIDEST:
        return None
    middle = (thing.box[0] + thing.box[2]) / 2
    side = half(thing, 0)
    if abs(middle - 0.5) < CENTRE:
        return 1
    return None if side is None or abs(middle - 0.5) < 2 * CENTRE else 2 * side


def left_of(one: PhotoObject, other: PhotoObject) -> bool | None:
    """Whether the centre of one is left of the other's; None where a person might hesitate."""
    if one.box is None or other.box is None:
        return None
    distance = (other.box[0] + other.box[2] - one.box[0] - one.box[2]) / 2
    overlap = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
    narrow = min(one.box[2] - one.box[0], other.box[2] - other.box[0])
    if abs(distance) < APART or overlap > 0.5 * narrow:
        return None
    return distance > 0


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
