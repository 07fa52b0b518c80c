"""The scenes as files: a sheet to look at, and RealWorldQA's and MME's tables; see `eval.asking.export`."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from eval.asking.export import Record, question_rows, write_tables
from eval.asking.question import CHOICE_SUFFIX, FREE_SUFFIX, YES_NO_SUFFIX
from eval.scenes.layout import HEIGHT, SPLITS, WIDTH
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene
from tofc.errors import UserError

# Comparison has no name of its own in MME: it goes to the reasoning about what is seen, in MME's cognition
# score.
MME_CATEGORIES = {
    "existence": "existence",
    "count": "count",
    "position": "position",
    "colour": "color",
    "text": "OCR",
    "comparison": "commonsense_reasoning",
}
DEFAULT_SCENES = 200


def scene_rows(split: str, index: int) -> dict[Path, list[Record]]:
    """The rows of one scene, by data set; a picture is ``{"bytes": PNG, "path": file name}``."""
    scene, pixels, _ = make_scene(split, index)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    name = f"{split}-{index:06d}.png"
    return question_rows(name, buffer.getvalue(), benchmark_questions(scene), MME_CATEGORIES)


def export_split(out: Path, split: str = "test", scenes: int = DEFAULT_SCENES) -> Iterator[int]:
    """Writes scenes 0 to `scenes` - 1 of a split below `out`, yielding after each how many are done.

    Raises `UserError` for an unknown split, a number below 1, or where pyarrow is missing.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    if scenes < 1:
        raise UserError(f"the number of scenes is {scenes}; give at least 1")
    yield from write_tables(out, (scene_rows(split, index) for index in range(scenes)))


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
