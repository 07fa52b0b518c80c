"""A question of a benchmark, and the wordings that published benchmarks put around theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.asking.draw import Draw

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
