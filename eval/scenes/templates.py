"""The six categories: for each a pair of opposite yes/no questions, a multiple choice and a free question."""

from __future__ import annotations

from collections.abc import Callable

from eval.asking.draw import Draw
from eval.scenes import templates_space as space
from eval.scenes import templates_things as things
from eval.scenes.facts import SceneView
from eval.scenes.forms import Open, Opposites

PAIRS: dict[str, Callable[[SceneView, Draw], Opposites | None]] = {
    "existence": things.existence_pair, "count": things.count_pair, "position": space.position_pair,
    "colour": things.colour_pair, "text": things.text_pair, "comparison": space.comparison_pair,
}  # fmt: skip
CHOICES: dict[str, Callable[[SceneView, Draw], Open | None]] = {
    "existence": things.existence_choice, "count": things.count_choice, "position": space.position_choice,
    "colour": things.colour_choice, "text": things.text_choice, "comparison": space.comparison_choice,
}  # fmt: skip
FREE: dict[str, Callable[[SceneView, Draw], Open | None]] = {
    "existence": things.existence_free, "count": things.count_free, "position": space.position_free,
    "colour": things.colour_free, "text": things.text_free, "comparison": space.comparison_free,
}  # fmt: skip
