"""Templates about what is there: existence, count, colour and text.

Both questions of a yes/no pair are about the same fact, so yes and no are balanced within every category by
construction.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.asking.language import NUMBER_WORDS, listed, noun, plural, with_article
from eval.asking.question import Draw
from eval.scenes.facts import MOST_COUNTED, Mention, Open, Opposites, Reference, SceneView
from eval.scenes.layout import COLOURED, KINDS, WORDS

# --- existence ---

_IS_THERE = (
    "Is there {a} in the picture?",
    "Is there {a}?",
    "Do you see {a}?",
    "Can you see {a} in the picture?",
)
_ARE_THERE = ("Are there any {many} in the picture?", "Do you see any {many}?")


def existence_pair(view: SceneView, draw: Draw) -> Opposites | None:
    """A kind, or a kind in a colour, that is there against one that is not."""
    pair = view.pair(draw) if draw.chance(0.5 if not view.focus else 0.9) else None
    if pair is not None:
        wrong = _absent_pair(view, draw, pair)
        if wrong is None:
            return None
        one, two = (with_article(noun(kind, colour)) for colour, kind in (pair, wrong))
        wording = draw.pick(_IS_THERE)
        return Opposites(wording.format(a=one), wording.format(a=two), (pair,), (wrong,))
    if not view.absent:
        return None
    # Most scenes have a sign: it is asked about as often where there is one as where there is none.
    present = draw.pick(view.countable if draw.chance(0.6) else view.present)
    absent = "sign" if "sign" in view.absent and draw.chance(0.3) else draw.pick(view.absent)
    if draw.chance(0.25):
        wording = draw.pick(_ARE_THERE)
        return Opposites(wording.format(many=plural(present)), wording.format(many=plural(absent)))
    wording = draw.pick(_IS_THERE)
    return Opposites(wording.format(a=with_article(present)), wording.format(a=with_article(absent)))


def _absent_pair(view: SceneView, draw: Draw, pair: Mention) -> Mention | None:
    """A pair that the scene does not show: mostly a wrong colour, else the colour on another kind."""
    colour, kind = pair
    if draw.chance(0.7):
        colours = view.other_colours(kind, view.colours_of(kind))
        return (draw.pick(colours), kind) if colours else None
    others = [
        other for other in KINDS
        if other in COLOURED and (colour, other) not in view.by_pair and view.may_mention(colour, other)
    ]  # fmt: skip
    return (colour, draw.pick(others)) if others else None


def existence_choice(view: SceneView, draw: Draw) -> Open | None:
    """Which of these is in the picture, or which is not."""
    if not view.absent:
        return None
    if draw.chance(0.3) and len(view.present) > 1:
        wording = draw.pick(("Which of these is not in the picture?", "Which of these can you not see?"))
        return Open(wording, draw.pick(view.absent), tuple(draw.shuffled(view.present)[:3]))
    wording = draw.pick(("Which of these is in the picture?", "Which of these can you see?"))
    return Open(wording, draw.pick(view.present), tuple(draw.shuffled(view.absent)[:3]))


def existence_free(view: SceneView, draw: Draw) -> Open | None:
    """The one kind of two or three that the picture shows."""
    if not view.absent:
        return None
    right = draw.pick(view.present)
    kinds = draw.shuffled([right, *draw.shuffled(view.absent)[: 1 + draw.below(2)]])
    wording = draw.pick(("Which of these is in the picture: {}?", "Which of these can you see: {}?"))
    return Open(wording.format(listed([with_article(kind) for kind in kinds], "or")), right)


# --- count ---

_ONE = ("Is there exactly {number} {noun} in the picture?", "Is there only {number} {noun} in the picture?")
_SEVERAL = (
    "Are there {number} {noun} in the picture?",
    "Are there exactly {number} {noun} in the picture?",
    "Do you see {number} {noun}?",
)
_HOW_MANY = (
    "How many {many} are there?",
    "How many {many} are in the picture?",
    "How many {many} do you see?",
)
# Wrong numbers are drawn like true ones, else "exactly one" would nearly always be right.
_NUMBERS, _NUMBER_WEIGHTS = (1, 2, 3, 4, 5), (0.34, 0.26, 0.2, 0.1, 0.1)


def count_pair(view: SceneView, draw: Draw) -> Opposites | None:
    """The true number of a kind against another number, half the time off by one or two."""
    counted = _counted_thing(view, draw, zero=False)
    if counted is None:
        return None
    kind, colour, count = counted
    near = [n for n in (count - 2, count - 1, count + 1, count + 2) if 1 <= n <= MOST_COUNTED]
    if draw.chance(0.5):
        wrong = draw.pick(near)
    else:
        weights = [0.0 if n == count else w for n, w in zip(_NUMBERS, _NUMBER_WEIGHTS, strict=True)]
        wrong = draw.weighted(_NUMBERS, weights)
    digits, wording = draw.chance(0.3), draw.below(6)
    mentions = ((colour, kind),) if colour else ()
    yes, no = (_are_there(number, kind, colour, digits, wording) for number in (count, wrong))
    return Opposites(yes, no, mentions, mentions)


def _are_there(number: int, kind: str, colour: str | None, digits: bool, wording: int) -> str:
    template = (_ONE if number == 1 else _SEVERAL)[wording % len(_ONE if number == 1 else _SEVERAL)]
    written = str(number) if digits else NUMBER_WORDS[number]
    return template.format(number=written, noun=noun(kind, colour, many=number != 1))


def _counted_thing(view: SceneView, draw: Draw, *, zero: bool) -> tuple[str, str | None, int] | None:
    """Something to count: first the number (or ones would dominate), then a kind that is there so often."""
    if view.pairs and draw.chance(0.3 if not view.focus else 0.5):
        if zero and draw.chance(0.15):
            kind = draw.pick(view.pairs)[1]
            colours = view.other_colours(kind, view.colours_of(kind))
            return (kind, draw.pick(colours), 0) if colours else None
        pairs = view.focus or [pair for pair in view.pairs if pair[1] in view.countable]
        counts = {pair: len(view.by_pair[pair]) for pair in pairs}
        number = _number(list(counts.values()), draw)
        if number is None:
            return None
        colour, kind = draw.pick([pair for pair, count in counts.items() if count == number])
        return kind, colour, number
    if zero and view.absent and draw.chance(0.12):
        return draw.pick(view.absent), None, 0
    kinds = view.present if draw.chance(0.1) else view.countable
    number = _number([len(view.by_kind[kind]) for kind in kinds], draw)
    if number is None:
        return None
    return draw.pick([kind for kind in kinds if len(view.by_kind[kind]) == number]), None, number


def _number(counts: Sequence[int], draw: Draw) -> int | None:
    numbers = sorted({count for count in counts if count <= MOST_COUNTED})
    return draw.weighted(numbers, [0.5 if number == 1 else 1.0 for number in numbers]) if numbers else None


def count_choice(view: SceneView, draw: Draw) -> Open | None:
    """How many there are; the wrong options are the numbers nearby."""
    question = count_free(view, draw)
    if question is None:
        return None
    count = int(question.right)
    # The nearest numbers, but not always the same ones: the right one must not be the middle of the options.
    wrong = sorted((n for n in range(6) if n != count), key=lambda n: abs(n - count) + 2.5 * draw.below(2))[
        :3
    ]
    return Open(question.prompt, question.right, tuple(str(n) for n in wrong), question.mentions)


def count_free(view: SceneView, draw: Draw) -> Open | None:
    """How many of a kind, or of a kind in a colour, there are: 0 to 5, in digits."""
    counted = _counted_thing(view, draw, zero=True)
    if counted is None:
        return None
    kind, colour, count = counted
    prompt = draw.pick(_HOW_MANY).format(many=noun(kind, colour, many=True))
    return Open(prompt, str(count), (), ((colour, kind),) if colour else ())


# --- colour ---

_IS_COLOUR = ("{Is} the {noun} {colour}?", "{Is} the colour of the {noun} {colour}?")
_WHAT_COLOUR = (
    "What colour {is_} the {noun}?",
    "What color {is_} the {noun}?",  # both spellings are typed
    "What is the colour of the {noun}?",
)


def _coloured(view: SceneView, draw: Draw) -> tuple[Mention, bool] | None:
    """A kind of which the scene shows one colour alone, and whether there are several of it."""
    single = [pair for pair in view.pairs if len(view.by_kind[pair[1]]) == len(view.by_pair[pair])]
    focus = [pair for pair in single if pair in view.focus]
    if not single:
        return None
    pair = draw.pick(focus if focus and draw.chance(0.85) else single)
    return pair, len(view.by_pair[pair]) > 1


def colour_pair(view: SceneView, draw: Draw) -> Opposites | None:
    """The colour of a thing against one that it has not."""
    found = _coloured(view, draw)
    if found is None:
        return None
    (colour, kind), many = found
    wrong = draw.pick(view.other_colours(kind, (colour,)))
    if kind == "person":
        wording = ("Are the people in {colour}?" if many else
                   draw.pick(("Is the person in {colour}?", "Is the person wearing {colour}?")))  # fmt: skip
    else:
        wording = _IS_COLOUR[0] if many else draw.pick(_IS_COLOUR)
    fill = {"Is": "Are" if many else "Is", "noun": noun(kind, many=many)}
    yes, no = (wording.format(colour=value, **fill) for value in (colour, wrong))
    return Opposites(yes, no, ((colour, kind),), ((wrong, kind),))


def colour_free(view: SceneView, draw: Draw) -> Open | None:
    """The colour of a thing, in one word."""
    found = _coloured(view, draw)
    if found is None:
        return None
    (colour, kind), many = found
    if kind == "person":
        wording = "What colour are the people wearing?" if many else "What colour is the person wearing?"
    else:
        wording = draw.pick(_WHAT_COLOUR)
    prompt = wording.format(is_="are" if many else "is", noun=noun(kind, many=many))
    return Open(prompt, colour, (), ((colour, kind),))


def colour_choice(view: SceneView, draw: Draw) -> Open | None:
    """The colour of a thing among others."""
    question = colour_free(view, draw)
    if question is None:
        return None
    ((colour, kind),) = question.mentions
    wrong = tuple(draw.shuffled(view.other_colours(kind, (colour,)))[:3])
    mentions = tuple((value, kind) for value in (colour, *wrong))
    return Open(question.prompt, colour, wrong, mentions)


# --- text ---

_SAYS_SIGN = (
    "Does the {noun} say {text}?",
    "Does it say {text} on the {noun}?",
    "Is {text} written on the {noun}?",
)
_SAYS_NUMBER = ("Is the number on the {noun} {text}?", "Is {text} written on the {noun}?")
_WHAT_SIGN = ("What does the {noun} say?", "What is written on the {noun}?")
_WHAT_NUMBER = ("What number is on the {noun}?", "What is written on the {noun}?")


def _text(view: SceneView, draw: Draw) -> tuple[Reference, str] | None:
    name = view.reference(draw, lambda thing: thing.text)
    return (name, name.thing.text) if name is not None and name.thing.text else None


def other_text(text: str, draw: Draw) -> str:
    """Another text: for a number mostly one digit changed or two swapped, for a word another word."""
    if not text.isdigit():
        return draw.pick([word for word in WORDS if word != text])
    for _ in range(8):
        digits = list(text)
        how = draw.weighted(("digit", "swap", "all"), (0.55, 0.2, 0.25))
        if how == "swap" and len(digits) > 1:
            at = draw.below(len(digits) - 1)
            digits[at], digits[at + 1] = digits[at + 1], digits[at]
        elif how == "all":
            digits = [str(draw.below(10)) for _ in digits]
        else:
            digits[draw.below(len(digits))] = str(draw.below(10))
        if len(digits) > 1 and digits[0] == "0":
            continue  # numbers on signs do not start with a nought
        if "".join(digits) != text:
            return "".join(digits)
    return str(int(text) + 1)


def text_pair(view: SceneView, draw: Draw) -> Opposites | None:
    """The number or word on a sign (bus, house) against a similar one."""
    found = _text(view, draw)
    if found is None:
        return None
    name, text = found
    wording = draw.pick(_SAYS_SIGN if name.thing.kind == "sign" else _SAYS_NUMBER)
    yes, no = (wording.format(noun=name.words, text=value) for value in (text, other_text(text, draw)))
    return Opposites(yes, no, name.mentions, name.mentions)


def text_free(view: SceneView, draw: Draw) -> Open | None:
    """What is written on a thing."""
    found = _text(view, draw)
    if found is None:
        return None
    name, text = found
    wordings = _WHAT_NUMBER if name.thing.kind != "sign" and text.isdigit() else _WHAT_SIGN
    return Open(draw.pick(wordings).format(noun=name.words), text, (), name.mentions)


def text_choice(view: SceneView, draw: Draw) -> Open | None:
    """What is written on a thing, among similar texts."""
    question = text_free(view, draw)
    if question is None:
        return None
    wrong: list[str] = []
    for _ in range(12):
        other = other_text(question.right, draw)
        if other not in wrong:
            wrong.append(other)
        if len(wrong) == 3:
            break
    return Open(question.prompt, question.right, tuple(wrong), question.mentions)
