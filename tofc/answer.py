"""What the language model said, here or on an edge far away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

UNSURE_BELOW = 0.5  # of `Answer.confidence`: what was said is no likelier than all else together


def plain_answer(text: str) -> str:
    """What answers are compared by: case, outer space and a final stop do not count."""
    return text.strip().removesuffix(".").strip().casefold()


@dataclass(frozen=True)
class Answer:
    """What the language model said.

    `exit` names the branch that said it, `tokens` are the ids it generated (without the one that ends the
    turn), `timing` holds seconds by stage: "decode", "project" and "generate"; of a batch, each answer's
    share. `fallback` says why the device itself answered in place of the edge that was asked; empty where
    nothing like that happened. `confidence` is the least probability that the model gave any of its tokens,
    the one that ends the turn included, above 0 to 1; None where it is not known, as with beams and drafts.
    `sent` and `received` are bytes of the bodies that travelled for it, 0 where nothing did.
    """

    text: str
    exit: str
    tokens: tuple[int, ...]
    timing: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    fallback: str = field(default="", compare=False)
    confidence: float | None = field(default=None, compare=False)
    sent: int = field(default=0, compare=False)
    received: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.text

    @property
    def is_unsure(self) -> bool:
        """Whether the model would rather have said something else at some token than not."""
        return self.confidence is not None and self.confidence < UNSURE_BELOW
