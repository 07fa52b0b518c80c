"""Right or wrong, in the ways of MME and RealWorldQA."""

from __future__ import annotations

from eval.asking.question import Question

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
        return given.strip().removesuffix(".").strip().lower() == question.answer.lower()
    raise ValueError(f"a {question.form!r} question has no single right answer: use score")
