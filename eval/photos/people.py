"""People's own questions about a picture (DAQUAR's), as training asks them."""

from __future__ import annotations

import re

from eval.asking.draw import Draw
from eval.asking.question import Question
from eval.photos.facts import View

LEAST_SHARE = 0.8  # of the picture that a crop must keep: people ask about any corner of it
_OTHER_SIDE = {"left": "right", "right": "left"}
_AS_TYPED = 0.6  # of the questions in lower case and without a mark, as their authors left them


def people_questions(view: View, draw: Draw, number: int) -> list[Question]:
    """Up to `number` different ones of the picture's own questions; none where the crop is too small."""
    if view.share < LEAST_SHARE:
        return []
    questions = []
    for prompt, answer in draw.shuffled(sorted(set(view.photo.pairs)))[:number]:
        if view.flip:
            prompt, answer = _mirrored(prompt), _mirrored(answer)
        if not draw.chance(_AS_TYPED):
            prompt = prompt[:1].upper() + prompt[1:] + "?"
        questions.append(Question("free", "people", prompt, answer))
    return questions


def _mirrored(text: str) -> str:
    """A text about the mirrored picture: left and right change places."""
    return re.sub(r"\b(left|right)\b", lambda found: _OTHER_SIDE[found.group()], text)
