"""A contact sheet: scenes with a question and its answer below each, to look at."""

from __future__ import annotations

import math
from collections.abc import Iterable

from PIL import Image, ImageDraw, ImageFont

from eval.asking.question import CHOICE_SUFFIX, FREE_SUFFIX, YES_NO_SUFFIX
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import HEIGHT, WIDTH, make_scene

_CAPTION_LINES, _LINE = 6, 18  # a question with four options and its answer; pixels a line
_COLUMNS = 4
_LONGEST = 64  # characters of a caption line


def contact_sheet(split: str, indices: Iterable[int], count: int) -> Image.Image:
    """The scenes `indices` (`count` of them) of a split, four in a row, RGB.

    The questions run through the benchmark's forms and categories from scene to scene; descriptions are left
    out.
    """
    columns = min(count, _COLUMNS)
    cell = HEIGHT + _CAPTION_LINES * _LINE
    sheet = Image.new("RGB", (columns * WIDTH, math.ceil(count / columns) * cell), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for place, index in enumerate(indices):
        scene, pixels, _ = make_scene(split, index)
        x, y = place % columns * WIDTH, place // columns * cell
        sheet.paste(Image.fromarray(pixels), (x, y))
        asked = [question for question in benchmark_questions(scene) if question.form != "describe"]
        question = asked[place * 5 % len(asked)]
        prompt = question.prompt
        for suffix in (CHOICE_SUFFIX, FREE_SUFFIX, YES_NO_SUFFIX):
            prompt = prompt.removesuffix(suffix)
        lines = [*prompt.split("\n"), f"-> {question.answer}"]
        for number, line in enumerate(lines):
            draw.text((x + 4, y + HEIGHT + number * _LINE), line[:_LONGEST], fill="black", font=font)
    return sheet
