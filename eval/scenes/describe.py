"""Descriptions of a scene in a regular English, and the parser that turns a description back into facts.

    A street with two red cars ... : sentence by sentence
    A street with two cars, one dog and one sign.        how many of each kind
    On the left there is a red car.                      what is where, in which colour
    In the middle there is a dog. On the right there are two trees and a blue car.
    The sign says STOP.                                  what is written
    There are no cones and no bins.                      (only where the rest is too short)

The parser is total: a sentence, or a part of one, that does not fit this grammar is one fact of the sort
``unparsed``, which is true of no scene.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eval.asking.language import NUMBER_WORDS, counted, listed, noun, plural, with_article
from eval.scenes.facts import MIDDLE_BAND, Mention, SceneView
from eval.scenes.layout import COLOURED, COLOURS, KINDS
from eval.scenes.world import Scene, SceneObject

LEAST_WORDS, MOST_WORDS = 20, 60
PLACES = {"left": "On the left", "middle": "In the middle", "right": "On the right"}
_TOLERANCE = (
    0.05  # of the width: how far beyond the edge of a third a thing may stand and still be said to be there
)


@dataclass(frozen=True)
class Fact:
    """One thing that a description states.

    ``sort`` is ``count`` (of a kind: ``number``), ``thing`` (at least ``number`` of this kind and colour are
    there), ``side`` (they are in the ``place``), ``text`` (``text`` is written on the kind), or ``unparsed``.
    """

    sort: str
    kind: str = ""
    colour: str | None = None
    number: int = 0
    place: str = ""
    text: str = ""


# --- writing ---


def describe(scene: Scene) -> str:
    """The canonical description of a scene, 20 to 60 words, everything in order from left to right.

    Every kind is counted; then the things are placed, the largest first as long as there are words left.
    """
    view = SceneView(scene)
    things = sorted(scene.things, key=_centre)
    kinds = list(dict.fromkeys(thing.kind for thing in things))
    counts = [counted(len(view.by_kind[kind]), kind) for kind in kinds]
    opening = f"A street with {listed(counts)}."
    texts = _text_sentences(view, things)
    shown: list[SceneObject] = []
    sentences = [opening, *texts]
    for thing in sorted(scene.things, key=lambda thing: -thing.area):
        trial = [opening, *_placed(scene, sorted([*shown, thing], key=_centre)), *texts]
        if _num_words(trial) > MOST_WORDS:
            break
        shown.append(thing)
        sentences = trial
    absent: list[str] = []
    for kind in view.absent:
        if " ".join(sentences).count(" ") + 1 + (2 + 2 * len(absent) if absent else 0) >= LEAST_WORDS:
            break
        absent.append(f"no {plural(kind)}")
    if absent:
        sentences.append(f"There are {listed(absent)}.")
    return " ".join(sentences)


def described_pairs(text: str) -> tuple[Mention, ...]:
    """The (colour, kind) pairs that a description mentions."""
    return tuple({(fact.colour, fact.kind) for fact in facts(text) if fact.colour is not None})


def _centre(thing: SceneObject) -> float:
    return (thing.box[0] + thing.box[2]) / 2


def _num_words(sentences: list[str]) -> int:
    """Words and punctuation marks, each counted as one."""
    return sum(sentence.count(" ") + 1 + sentence.count(",") + 1 for sentence in sentences)


def _place(scene: Scene, thing: SceneObject) -> str:
    centre = _centre(thing)
    low, high = MIDDLE_BAND[0] * scene.width, MIDDLE_BAND[1] * scene.width
    return "left" if centre < low else "right" if centre > high else "middle"


def _placed(scene: Scene, things: list[SceneObject]) -> list[str]:
    """One sentence for each third of the picture; equal things are counted at the leftmost of them."""
    sentences = []
    for place, words in PLACES.items():
        groups: dict[tuple[str, str | None], int] = {}
        for thing in things:
            if _place(scene, thing) == place:
                look = (thing.kind, thing.colour if thing.kind in COLOURED else None)
                groups[look] = groups.get(look, 0) + 1
        if groups:
            items = [
                with_article(noun(kind, colour)) if count == 1 else counted(count, kind, colour)
                for (kind, colour), count in groups.items()
            ]
            verb = "is" if next(iter(groups.values())) == 1 else "are"
            sentences.append(f"{words} there {verb} {listed(items)}.")
    return sentences


def _text_sentences(view: SceneView, things: list[SceneObject]) -> list[str]:
    """What is written on a thing that its kind alone identifies."""
    return [
        f"The {thing.kind} says {thing.text}."
        for thing in things
        if thing.text and len(view.by_kind[thing.kind]) == 1
    ]


# --- reading ---

_NOUNS: dict[str, tuple[str, str | None, bool]] = {
    noun(kind, colour, many=many): (kind, colour, many)
    for kind in KINDS
    for colour in ((None, *COLOURS) if kind in COLOURED else (None,))
    for many in (False, True)
}
_NUMBERS = {word: number for number, word in enumerate(NUMBER_WORDS)}
_COUNTS = re.compile(r"A street with (.+)")
_PLACED = re.compile(r"(On the left|In the middle|On the right) there (?:is|are) (.+)")
_TEXT = re.compile(r"The (\w+) says (.+)")
_NONE = re.compile(r"There are (no .+)")
_PLACE_NAMES = {words: place for place, words in PLACES.items()}


def facts(text: str) -> frozenset[Fact]:
    """The facts that a description states; what does not parse is one ``unparsed`` fact with the words."""
    stated: set[Fact] = set()
    for sentence in re.split(r"\.(?:\s+|$)", text.strip()):
        if sentence.strip():
            stated |= _sentence_facts(sentence.strip())
    return frozenset(stated)


def _sentence_facts(sentence: str) -> set[Fact]:
    if match := _COUNTS.fullmatch(sentence) or _NONE.fullmatch(sentence):
        return {_count_fact(item) for item in _items(match[1])}
    if match := _PLACED.fullmatch(sentence):
        return {fact for item in _items(match[2]) for fact in _placed_facts(item, _PLACE_NAMES[match[1]])}
    if (match := _TEXT.fullmatch(sentence)) and match[1] in KINDS:
        return {Fact("text", match[1], text=match[2])}
    return {Fact("unparsed", text=sentence)}


def _items(words: str) -> list[str]:
    return re.split(r", | and ", words)


def _count_fact(item: str) -> Fact:
    number, _, words = item.partition(" ")
    kind, colour, many = _NOUNS.get(words, ("", None, False))
    if number not in _NUMBERS or not kind or colour is not None or many != (_NUMBERS[number] != 1):
        return Fact("unparsed", text=item)
    return Fact("count", kind, number=_NUMBERS[number])


def _placed_facts(item: str, place: str) -> list[Fact]:
    first, _, words = item.partition(" ")
    kind, colour, many = _NOUNS.get(words, ("", None, False))
    number = 1 if first in ("a", "an") else _NUMBERS.get(first, 0)
    if not kind or number < 1 or many != (number > 1):
        return [Fact("unparsed", text=item)]
    return [Fact("thing", kind, colour, number), Fact("side", kind, colour, number, place)]


# --- judging ---


def is_true(fact: Fact, scene: Scene) -> bool:
    """Whether a stated fact holds in the scene; a place is given 5 % of the width of leeway at its edges."""
    if fact.sort == "unparsed":
        return False
    things = [thing for thing in scene.things if thing.kind == fact.kind]
    if fact.sort == "count":
        return len(things) == fact.number
    if fact.sort == "text":
        return any(thing.text == fact.text for thing in things)
    if fact.colour is not None:
        things = [thing for thing in things if thing.colour == fact.colour]
    if fact.sort == "side":
        low, high = MIDDLE_BAND[0] * scene.width, MIDDLE_BAND[1] * scene.width
        leeway = _TOLERANCE * scene.width
        start, stop = {
            "left": (float("-inf"), low + leeway),
            "middle": (low - leeway, high + leeway),
            "right": (high - leeway, float("inf")),
        }[fact.place]
        things = [thing for thing in things if start <= _centre(thing) <= stop]
    return len(things) >= fact.number
