"""Templates about how things lie to one another: position and comparison.

Only what :class:`~eval.scenes.facts.SceneView` calls certain is asked; the order of two things in a
question is random, so that no answer follows from it.
"""

from __future__ import annotations

from eval.asking.language import plural
from eval.asking.question import Draw
from eval.scenes.facts import Mention, Open, Opposites, Reference, SceneView

# --- position ---

_SIDE = (
    "Is the {noun} on the {side} side of the picture?",
    "Is the {noun} on the {side}?",
    "Is the {noun} in the {side} half of the picture?",
)
_WHICH_SIDE = (
    "On which side of the picture is the {noun}?",
    "Is the {noun} on the left or on the right side of the picture?",
)
_RELATION = ("Is the {one} to the {side} of the {two}?", "Do you see the {one} to the {side} of the {two}?")
_WHICH_RELATION = (
    "Is the {one} to the left or to the right of the {two}?",
    "On which side of the {two} is the {one}?",
)
_OPPOSITE = {"left": "right", "right": "left"}


def position_pair(view: SceneView, draw: Draw) -> Opposites | None:
    """The side of the picture, or of another thing, on which a thing is."""
    if draw.chance(0.5):
        sided = _sided(view, draw)
        if sided is None:
            return None
        wording = draw.pick(_SIDE)
        name, side = sided
        asked = [wording.format(noun=name.words, side=s) for s in (side, _OPPOSITE[side])]
        return Opposites(asked[0], asked[1], name.mentions, name.mentions)
    related = _related(view, draw)
    if related is None:
        return None
    one, two, side = related
    wording, mentions = draw.pick(_RELATION), one.mentions + two.mentions
    asked = [wording.format(one=one.words, two=two.words, side=s) for s in (side, _OPPOSITE[side])]
    return Opposites(asked[0], asked[1], mentions, mentions)


def _sided(view: SceneView, draw: Draw) -> tuple[Reference, str] | None:
    wanted = "left" if draw.chance(0.5) else "right"  # balanced even where the renderer prefers a side
    name = view.reference(draw, lambda thing: view.side(thing) == wanted) or view.reference(draw, view.side)
    side = view.side(name.thing) if name else None
    return (name, side) if name and side else None


def _related(view: SceneView, draw: Draw) -> tuple[Reference, Reference, str] | None:
    for _ in range(6):
        one, two = view.reference(draw), view.reference(draw)
        if one is None or two is None or one.thing is two.thing:
            continue
        left = view.left_of(one.thing, two.thing)
        if left is not None:
            # Either thing may come first: otherwise the side would follow the order in the scene.
            if draw.chance(0.5):
                one, two, left = two, one, not left
            return one, two, "left" if left else "right"
    return None


def position_choice(view: SceneView, draw: Draw) -> Open | None:
    """Left or right, or which of several things is on a side."""
    if draw.chance(0.5):
        question = position_free(view, draw)
        return question and Open(
            question.prompt, question.right, (_OPPOSITE[question.right],), question.mentions
        )
    sided = _sided(view, draw)
    if sided is None:
        return None
    name, side = sided
    others = [draw.pick(names) for names in view.references if view.side(names[0].thing) == _OPPOSITE[side]]
    if not others:
        return None
    others = draw.shuffled(others)[:3]
    wording = draw.pick(("Which of these is on the {} side of the picture?", "What is on the {}?"))
    mentions = tuple(mention for other in (name, *others) for mention in other.mentions)
    return Open(
        wording.format(side), f"the {name.words}", tuple(f"the {other.words}" for other in others), mentions
    )


def position_free(view: SceneView, draw: Draw) -> Open | None:
    """``left`` or ``right``: of the picture or of another thing."""
    if draw.chance(0.5):
        sided = _sided(view, draw)
        if sided is None:
            return None
        return Open(draw.pick(_WHICH_SIDE).format(noun=sided[0].words), sided[1], (), sided[0].mentions)
    related = _related(view, draw)
    if related is None:
        return None
    one, two, side = related
    prompt = draw.pick(_WHICH_RELATION).format(one=one.words, two=two.words)
    return Open(prompt, side, (), one.mentions + two.mentions)


# --- comparison ---

# quality: (wordings of 'one has more of it', wordings of the opposite, words for 'the most of two')
_MORE = {
    "bigger": (("Is the {one} bigger than the {two}?", "Does the {one} look bigger than the {two}?"),
               ("Is the {one} smaller than the {two}?",), "bigger"),
    "taller": (("Is the {one} taller than the {two}?", "Does the {one} look taller than the {two}?"),
               ("Is the {one} shorter than the {two}?",), "taller"),
    "closer": (("Is the {one} closer to the camera than the {two}?", "Is the {one} closer than the {two}?"),
               ("Is the {one} further away than the {two}?",), "closer to the camera"),
}  # fmt: skip
_QUALITIES, _QUALITY_WEIGHTS = ("count", "closer", "bigger", "taller"), (0.35, 0.3, 0.2, 0.15)
_MORE_OF = ("Are there more {one} than {two}?", "Are there more {one} than {two} in the picture?")
_FEWER_OF = ("Are there fewer {one} than {two}?",)


def _compared(view: SceneView, draw: Draw, quality: str) -> tuple[Reference, Reference] | None:
    """Two things of which the first clearly has more of the quality."""
    for _ in range(6):
        one, two = view.reference(draw), view.reference(draw)
        if one is None or two is None or one.thing is two.thing:
            continue
        if view.beats(quality, one.thing, two.thing):
            return one, two
        if view.beats(quality, two.thing, one.thing):
            return two, one
    return None


def _unequal(view: SceneView, draw: Draw) -> tuple[str, str] | None:
    """Two kinds of which the scene shows more of the first; now and then none of the second."""
    kinds = view.present if draw.chance(0.1) else view.countable
    one = draw.pick(kinds)
    two = draw.pick(view.absent) if view.absent and draw.chance(0.25) else draw.pick(kinds)
    ones, twos = len(view.by_kind[one]), len(view.by_kind.get(two, ()))
    if ones == twos:
        return None
    return (one, two) if ones > twos else (two, one)


def comparison_pair(view: SceneView, draw: Draw) -> Opposites | None:
    """More or fewer of two kinds; the bigger, taller or closer of two things."""
    quality = draw.weighted(_QUALITIES, _QUALITY_WEIGHTS)
    if quality == "count":
        kinds = _unequal(view, draw)
        if kinds is None:
            return None
        one, two = (plural(kind) for kind in kinds)
        more, less = _MORE_OF, _FEWER_OF
        mentions: tuple[Mention, ...] = ()
    else:
        things = _compared(view, draw, quality)
        if things is None:
            return None
        one, two = (name.words for name in things)
        more, less, _ = _MORE[quality]
        mentions = things[0].mentions + things[1].mentions
    if draw.chance(0.7):
        wording = draw.pick(more)
    else:
        wording, one, two = draw.pick(less), two, one
    return Opposites(wording.format(one=one, two=two), wording.format(one=two, two=one), mentions, mentions)


def comparison_free(view: SceneView, draw: Draw) -> Open | None:
    """The one of two that is more, bigger, taller or closer, in the words of the question."""
    quality = draw.weighted(_QUALITIES, _QUALITY_WEIGHTS)
    if quality == "count":
        kinds = _unequal(view, draw)
        if kinds is None:
            return None
        right, wrong = (plural(kind) for kind in kinds)
        one, two = draw.shuffled((right, wrong))
        wording = draw.pick(
            ("Are there more {one} or more {two}?", "Which are there more of, {one} or {two}?")
        )
        return Open(wording.format(one=one, two=two), right, (wrong,))
    things = _compared(view, draw, quality)
    if things is None:
        return None
    right, wrong = (name.words for name in things)
    one, two = draw.shuffled((right, wrong))
    prompt = f"Which is {_MORE[quality][2]}, the {one} or the {two}?"
    return Open(prompt, right, (wrong,), things[0].mentions + things[1].mentions)


def comparison_choice(view: SceneView, draw: Draw) -> Open | None:
    """Which of two or three is the bigger, taller, closer, or the more numerous."""
    quality = draw.weighted(_QUALITIES, _QUALITY_WEIGHTS)
    if quality == "count":
        kinds = _unequal(view, draw)
        if kinds is None:
            return None
        fewer = [plural(kind) for kind in view.present
                 if len(view.by_kind[kind]) < len(view.by_kind[kinds[0]]) and kind != kinds[1]]  # fmt: skip
        wrong = (plural(kinds[1]), *draw.shuffled(fewer)[:2])
        wording = "What are there the most of?" if len(wrong) > 1 else "Which of these are there more of?"
        return Open(wording, plural(kinds[0]), wrong)
    things = _compared(view, draw, quality)
    if things is None:
        return None
    best, other = things
    losers = [
        draw.pick(names)
        for names in view.references
        if names[0].thing is not other.thing and view.beats(quality, best.thing, names[0].thing)
    ]
    wrong_names = (other, *draw.shuffled(losers)[: draw.below(3)])
    superlative = {"bigger": "the biggest", "taller": "the tallest", "closer": "the closest to the camera"}[
        quality
    ]
    how = _MORE[quality][2] if len(wrong_names) == 1 else superlative
    mentions = tuple(mention for name in (best, *wrong_names) for mention in name.mentions)
    return Open(
        f"Which of these is {how}?",
        f"the {best.words}",
        tuple(f"the {n.words}" for n in wrong_names),
        mentions,
    )
