"""What may be asked about a scene: lookups, unambiguous references, and margins that make answers certain.

A question is only fair when two people looking at the picture would agree. The margins below decide that: a
thing is *on the left* only when its centre is outside the middle band, *bigger* only by a quarter, *closer*
only by 8 % of the picture's height. A template is a function of a `SceneView` and a `Draw` that returns one
of the forms here (two opposite yes/no questions, or one open question with wrong options), or None where the
scene allows no such question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.asking.language import noun
from eval.asking.question import Draw
from eval.scenes.layout import COLOURED, COLOURS, HELD_OUT, KINDS
from eval.scenes.world import Scene, SceneObject

Mention = tuple[str, str]  # (colour, kind)

MIDDLE_BAND = (0.4, 0.6)  # of the width: neither left nor right
APART = 0.15  # of the width: least distance of centres for left of / right of
MARGIN = 1.25  # least ratio of areas or heights for bigger / taller
CLOSER = 0.08  # of the height: least distance of the feet for closer
MOST_COUNTED = 5  # a larger number is not asked about


@dataclass(frozen=True)
class Reference:
    """Words that mean exactly one thing of the scene (``"dog"``, ``"red car"``), to stand behind ``the``."""

    words: str
    thing: SceneObject
    mentions: tuple[Mention, ...]


class SceneView:
    """A scene as the questions see it.

    Raises ``ValueError`` for a scene without things, and for a split that shows a held-out pair which it must
    not show.
    """

    def __init__(self, scene: Scene) -> None:
        if not scene.things:
            raise ValueError(f"scene {scene.split}/{scene.index} shows no thing to ask about")
        self.scene = scene
        self.held_out_allowed = scene.split == "heldout"
        self.by_kind: dict[str, list[SceneObject]] = {}
        self.by_pair: dict[Mention, list[SceneObject]] = {}
        for thing in scene.things:
            self.by_kind.setdefault(thing.kind, []).append(thing)
            if thing.colour is not None and thing.kind in COLOURED:
                self.by_pair.setdefault((thing.colour, thing.kind), []).append(thing)
        self.focus = [pair for pair in self.by_pair if pair in HELD_OUT]
        if self.focus and not self.held_out_allowed:
            raise ValueError(f"scene {scene.split}/{scene.index} shows held-out pairs {self.focus}")
        self.present = list(self.by_kind)
        self.absent = [kind for kind in KINDS if kind not in self.by_kind]
        # A scene has one sign at most: counting signs can be answered without looking, so it is rarely asked.
        self.countable = [kind for kind in self.present if kind != "sign"] or self.present
        self.pairs = list(self.by_pair)
        self.references = [names for names in map(self._names, scene.things) if names]
        self._focus_references = [
            name
            for names in self.references
            for name in names
            if any(pair in HELD_OUT for pair in name.mentions)
        ]

    def _names(self, thing: SceneObject) -> tuple[Reference, ...]:
        names = []
        if len(self.by_kind[thing.kind]) == 1:
            names.append(Reference(thing.kind, thing, ()))
        pair = (thing.colour or "", thing.kind)
        if len(self.by_pair.get(pair, ())) == 1:
            names.append(Reference(noun(thing.kind, thing.colour), thing, (pair,)))
        return tuple(names)

    def may_mention(self, colour: str, kind: str) -> bool:
        """Whether a question may speak of this pair (only the held-out split names held-out pairs)."""
        return self.held_out_allowed or (colour, kind) not in HELD_OUT

    def reference(self, draw: Draw, fits: Callable[[SceneObject], object] = bool) -> Reference | None:
        """A reference to a random thing that ``fits``, mostly to a held-out one if there is any."""
        if self._focus_references and draw.chance(0.85):
            name = draw.pick(self._focus_references)
            if fits(name.thing):
                return name
        fitting = [names for names in self.references if fits(names[0].thing)]
        return draw.pick(draw.pick(fitting)) if fitting else None

    def pair(self, draw: Draw) -> Mention | None:
        """A random (colour, kind) that the scene shows; held-out ones first where there are any."""
        if self.focus and draw.chance(0.85):
            return draw.pick(self.focus)
        return draw.pick(self.pairs) if self.pairs else None

    def other_colours(self, kind: str, shown: Sequence[str]) -> list[str]:
        """The colours that a thing of this kind might have had, without those in ``shown``."""
        return [colour for colour in COLOURS if colour not in shown and self.may_mention(colour, kind)]

    def colours_of(self, kind: str) -> list[str]:
        """The colours in which the scene shows this kind."""
        return [colour for colour, of in self.by_pair if of == kind]

    def side(self, thing: SceneObject) -> str | None:
        """``"left"``, ``"right"``, or None for a thing too near the middle to say."""
        low, high = MIDDLE_BAND[0] * self.scene.width, MIDDLE_BAND[1] * self.scene.width
        x0, x1 = thing.box[0], thing.box[2]
        middle = (x0 + x1) / 2
        # A wide thing whose centre is left may still reach far into the right half: nobody calls that left.
        if middle < low and x1 < high + 0.05 * self.scene.width:
            return "left"
        if middle > high and x0 > low - 0.05 * self.scene.width:
            return "right"
        return None

    def left_of(self, one: SceneObject, other: SceneObject) -> bool | None:
        """Whether ``one`` is left of ``other``; None where a person might hesitate."""
        distance = (other.box[0] + other.box[2] - one.box[0] - one.box[2]) / 2
        whole = (other.extent[0] + other.extent[2] - one.extent[0] - one.extent[2]) / 2
        overlap = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
        narrow = min(one.box[2] - one.box[0], other.box[2] - other.box[0])
        if abs(distance) < APART * self.scene.width or distance * whole <= 0 or overlap > 0.5 * narrow:
            return None
        return distance > 0

    def beats(self, quality: str, one: SceneObject, other: SceneObject) -> bool:
        """Whether ``one`` is clearly ``"bigger"``, ``"taller"`` or ``"closer"`` than ``other``."""
        if quality == "closer":
            return one.base - other.base >= CLOSER * self.scene.height
        if quality == "taller":
            return all(_height(one, part) >= MARGIN * _height(other, part) for part in ("box", "extent"))
        # The whole outlines must agree with what is seen: else the answer depends on what 'bigger' is taken
        # to mean.
        return one.area >= MARGIN * other.area and _outline(one) >= MARGIN * _outline(other)


def _height(thing: SceneObject, part: str) -> int:
    box = thing.box if part == "box" else thing.extent
    return box[3] - box[1]


def _outline(thing: SceneObject) -> int:
    x0, y0, x1, y1 = thing.extent
    return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True)
class Opposites:
    """Two questions about one fact: the answer to ``yes`` is Yes, the answer to ``no`` is No."""

    yes: str
    no: str
    yes_mentions: tuple[Mention, ...] = ()
    no_mentions: tuple[Mention, ...] = ()


@dataclass(frozen=True)
class Open:
    """A question with its one right answer, and the wrong ones that multiple choice may offer."""

    prompt: str
    right: str
    wrong: tuple[str, ...] = ()
    mentions: tuple[Mention, ...] = ()
