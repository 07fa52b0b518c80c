"""The benchmark in the parquet schemas of lmms-lab's RealWorldQA and MME, for lmms-eval's own tasks.

The folder that `export_split` writes is one to run lmms-eval from, offline and with its tasks unmodified:

    OUT/lmms-lab-encoder/RealWorldQA/data/test-00000-of-00001.parquet   image, image_path, question, answer
    OUT/lmms-lab-encoder/MME/data/test-00000-of-00001.parquet   question_id, image, question, answer, category

Multiple-choice and free questions become RealWorldQA, the yes/no pairs MME, with two rows of one question id.
MME scores fixed category names only; ours map onto them as `MME_CATEGORIES` says. Descriptions are in neither
format.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from eval.asking.question import Question
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
PARQUET = Path("data") / "test-00000-of-00001.parquet"
REAL_WORLD_QA, MME = Path("lmms-lab-encoder") / "RealWorldQA", Path("lmms-lab-encoder") / "MME"
COLUMNS = {
    REAL_WORLD_QA: ("image", "image_path", "question", "answer"),
    MME: ("question_id", "image", "question", "answer", "category"),
}
DEFAULT_SCENES = 200
_SCENES_PER_GROUP = 16
# Every row carries its picture: one dictionary page for a row group's pictures stores each of them once.
_DICTIONARY_BYTES = 64 << 20

Row = dict[str, Any]


def scene_rows(split: str, index: int) -> dict[Path, list[Row]]:
    """The rows of one scene, by data set; a picture is ``{"bytes": PNG, "path": file name}``."""
    scene, pixels, _ = make_scene(split, index)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    name = f"{split}-{index:06d}.png"
    image = {"bytes": buffer.getvalue(), "path": name}
    rows: dict[Path, list[Row]] = {REAL_WORLD_QA: [], MME: []}
    for question in benchmark_questions(scene):
        if question.form == "yes_no":
            rows[MME].append(_mme_row(question, image, name))
        elif question.form in ("choice", "free"):
            shared = {"question": question.prompt, "answer": question.answer}
            rows[REAL_WORLD_QA].append({"image": image, "image_path": name, **shared})
    return rows


def _mme_row(question: Question, image: Mapping[str, Any], name: str) -> Row:
    category = MME_CATEGORIES[question.category]
    return {
        "question_id": f"{category}/{name}",
        "image": image,
        "question": question.prompt,
        "answer": question.answer,
        "category": category,
    }


def features_metadata(columns: Iterable[str]) -> dict[bytes, bytes]:
    """What the `datasets` library reads from a parquet schema to know which column is a picture."""
    string = {"dtype": "string", "_type": "Value"}
    features = {name: {"_type": "Image"} if name == "image" else string for name in columns}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def export_split(out: Path, split: str = "test", scenes: int = DEFAULT_SCENES) -> Iterator[int]:
    """Writes scenes 0 to `scenes` - 1 of a split below the folder `out`, yielding after each how many are
    done.

    Both files appear, complete, when the iterator is exhausted; a run that is cut short leaves neither.
    Raises `UserError` for an unknown split, a number below 1, or where pyarrow is missing.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    if scenes < 1:
        raise UserError(f"the number of scenes is {scenes}; give at least 1")
    arrow, parquet = _pyarrow()
    targets = {name: out / name / PARQUET for name in COLUMNS}
    with ExitStack() as cleanup:
        writers = {}
        for name, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            cleanup.callback(partial.unlink, missing_ok=True)
            writers[name] = cleanup.enter_context(
                parquet.ParquetWriter(
                    partial, _schema(arrow, COLUMNS[name]), dictionary_pagesize_limit=_DICTIONARY_BYTES
                )
            )
        group: dict[Path, list[Row]] = {name: [] for name in COLUMNS}
        for index in range(scenes):
            for name, rows in scene_rows(split, index).items():
                group[name] += rows
            if (index + 1) % _SCENES_PER_GROUP == 0 or index + 1 == scenes:
                for name, writer in writers.items():
                    writer.write_table(arrow.Table.from_pylist(group[name], writer.schema))
                    group[name] = []
            yield index + 1
        for name, writer in writers.items():
            writer.close()
            os.replace(targets[name].with_suffix(".partial"), targets[name])


def _schema(arrow: ModuleType, columns: Iterable[str]) -> Any:
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    fields = [(name, image if name == "image" else arrow.string()) for name in columns]
    return arrow.schema(fields, metadata=features_metadata(columns))


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"the export needs pyarrow ({error}): pip install 'tofc[eval]'") from error
    return pyarrow, pyarrow.parquet
