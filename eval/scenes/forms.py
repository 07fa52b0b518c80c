"""The forms in which a category asks: two opposite yes/no questions, or one open question with wrong options.

A template is a function of a :class:`~eval.scenes.facts.SceneView` and a :class:`~eval.asking.draw.Draw` that
returns one of these, or None where the scene allows no such question.
"""

from __future__ import annotations

from dataclasses import dataclass

from eval.scenes.facts import Mention


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
