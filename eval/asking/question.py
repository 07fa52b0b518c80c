"""Questions of a benchmark: how they are drawn, the wordings around them, and when an answer is right.

Right or wrong is as MME and RealWorldQA have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tofc.answer import plain_answer

T = TypeVar("T")


class Draw:
    """Draws by a numpy generator's ``random()`` alone: fast, and the same in every numpy version."""

    def __init__(self, rng: np.random.Generator | _Blocks) -> None:
        self.unit: Callable[[], float] = rng.random  # a float in [0, 1)

    @classmethod
    def seeded(cls, *entropy: int) -> Draw:
        """Draws from a stream of its own: different `entropy` gives independent ones."""
        return cls(_Blocks(entropy))

    def between(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.unit() < probability

    def below(self, limit: int) -> int:
        """A whole number in ``0 .. limit - 1``."""
        return int(self.unit() * limit)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, uniformly."""
        return items[int(self.unit() * len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One of the items, in proportion to its weight."""
        left = self.unit() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0:
                return item
        return items[-1]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a random order (Fisher-Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = int(self.unit() * (last + 1))
            result[last], result[other] = result[other], result[last]
        return result


class _Blocks:
    """Floats of one explicit PCG64, made 512 at a time and given from the last to the first."""

    def __init__(self, entropy: Sequence[int]) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        self._left: list[float] = []

    def random(self) -> float:
        """The next one."""
        if not self._left:
            self._left = self._generator.random(512).tolist()
        return self._left.pop()


FORMS = ("yes_no", "choice", "free", "describe")

YES_NO_SUFFIX = " Please answer yes or no."
CHOICE_SUFFIX = "\nPlease answer directly with only the letter of the correct option and nothing else."
# What lmms-eval puts in the place of MME's suffix for models without a prompt of their own.
PHRASE_SUFFIX = "\nAnswer the question using a single word or phrase."
FREE_SUFFIX = "\nPlease answer directly with a single word or number."


@dataclass(frozen=True)
class Question:
    """One question with its answer.

    ``prompt`` is exactly what the model gets. ``answer`` is ``Yes`` or ``No``, a letter ``A`` to ``D``, a
    short word, or a description. The two opposite yes/no questions of one fact share ``pair``. ``held_out``
    marks what training never showed: a (colour, kind) of the scenes, a wording about photographs; of a pair,
    both or neither. ``subject`` is the class that it is about, ``negatives`` the way in which the absent
    class of its pair was chosen, where a benchmark tells them apart.
    """

    form: str
    category: str
    prompt: str
    answer: str
    pair: int | None = None
    held_out: bool = False
    subject: str = ""
    negatives: str = ""


def with_letters(prompt: str, right: str, wrong: Sequence[str], draw: Draw) -> tuple[str, str]:
    """The prompt with lettered options, and the letter of the right one, which is uniformly random."""
    at = draw.below(len(wrong) + 1)
    options = [*wrong[:at], right, *wrong[at:]]
    lines = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)]
    return "\n".join([prompt, *lines]), "ABCD"[at]


_MME_PREFIX = 4


def yes_or_no(given: str) -> str:
    """What lmms-eval's MME hears in the first four characters: ``"yes"``, ``"no"`` or ``"other"``."""
    heard = given.lower().strip().replace(".", "")
    if len(heard) == 1:
        return {"y": "yes", "n": "no"}.get(heard, "other")
    if heard in ("yes", "no"):
        return heard
    prefix = heard[:_MME_PREFIX]
    return "yes" if "yes" in prefix else "no" if "no" in prefix else "other"


def is_correct(question: Question, given: str) -> bool:
    """Whether an answer to a yes/no, choice or free question is right; ``ValueError`` for a description."""
    if question.form == "yes_no":
        return yes_or_no(given) == question.answer.lower()
    if question.form == "choice":
        return given.strip().removesuffix(".") == question.answer
    if question.form == "free":
        return plain_answer(given) == plain_answer(question.answer)
    raise ValueError(f"a {question.form!r} question has no single right answer: use score")
