"""The scenes as RealWorldQA and MME; see `eval.asking.export` for the files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from eval.asking.export import Record, question_rows, write_tables
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import SPLITS, make_scene
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
