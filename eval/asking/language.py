"""The small English of the benchmarks: plurals, articles, number words and lists.

Everything that questions, descriptions and the parsers of descriptions must spell alike stands here once.
"""

from __future__ import annotations

from collections.abc import Sequence

NUMBER_WORDS = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)

_IRREGULAR_PLURALS = {
    "person": "people",
    "knife": "knives",
    "mouse": "mice",
    "sheep": "sheep",
    "skis": "skis",
    "scissors": "scissors",
    "broccoli": "broccoli",
    "aircraft": "aircraft",
    "octopus": "octopuses",
    "platypus": "platypuses",
    "fish": "fish",
    "goldfish": "goldfish",
    "crayfish": "crayfish",
    "starfish": "starfish",
    "bonsai": "bonsai",
    "headphones": "headphones",
}
_HISSING = ("s", "x", "ch", "sh")
_NO_ARTICLE = frozenset({"skis", "scissors", "broccoli", "headphones"})


def plural(kind: str) -> str:
    """The plural of a kind: ``"bus"`` gives ``"buses"``, ``"wine glass"`` ``"wine glasses"``."""
    if kind in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[kind]
    if kind.endswith("y") and kind[-2:-1] not in "aeiou":
        return kind[:-1] + "ies"
    return kind + ("es" if kind.endswith(_HISSING) else "s")


def noun(kind: str, colour: str | None = None, *, many: bool = False) -> str:
    """A kind with its colour, without an article: ``"red car"``, ``"people in red"``."""
    word = plural(kind) if many else kind
    if colour is None:
        return word
    # A red person would be an odd thing to ask about: the colour of a person is that of the clothes.
    return f"{word} in {colour}" if kind == "person" else f"{colour} {word}"


def with_article(words: str) -> str:
    """The words behind ``a`` or ``an`` (``"an orange car"``), or alone where there is no single one."""
    if words in _NO_ARTICLE:
        return words
    return ("an " if words[0] in "aeio" or words.startswith("umb") else "a ") + words


def counted(count: int, kind: str, colour: str | None = None) -> str:
    """A number word and the right form of the noun: ``"one dog"``, ``"two red cars"``."""
    return f"{NUMBER_WORDS[count]} {noun(kind, colour, many=count != 1)}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """A comma-separated list whose last item stands behind ``and`` (or ``or``)."""
    if len(items) == 1:
        return items[0]
    return f"{', '.join(items[:-1])} {last} {items[-1]}"
