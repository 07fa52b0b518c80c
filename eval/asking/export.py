"""Questions in the parquet schemas of lmms-lab's RealWorldQA and MME, for lmms-eval's own tasks.

The folder that `write_tables` fills is one to run lmms-eval from, offline and with its tasks unmodified:

    OUT/lmms-lab-encoder/RealWorldQA/data/test-00000-of-00001.parquet   image, image_path, question, answer
    OUT/lmms-lab-encoder/MME/data/test-00000-of-00001.parquet   question_id, image, question, answer, category

Multiple-choice and free questions become RealWorldQA, the yes/no pairs MME, with two rows of one question id.
MME scores fixed category names only, onto which a benchmark maps its own. Descriptions are in neither format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eval.asking.question import Question
from tofc.errors import needs_extra
from tofc.writing import whole_file

PARQUET = Path("data") / "test-00000-of-00001.parquet"
REAL_WORLD_QA, MME = Path("lmms-lab-encoder") / "RealWorldQA", Path("lmms-lab-encoder") / "MME"
COLUMNS = {
    REAL_WORLD_QA: ("image", "image_path", "question", "answer"),
    MME: ("question_id", "image", "question", "answer", "category"),
}
_PICTURES_PER_GROUP = 16
# Every row carries its picture: one dictionary page for a row group's pictures stores each of them once.
_DICTIONARY_BYTES = 64 << 20

Record = dict[str, Any]


def question_rows(
    name: str, file: bytes, questions: Sequence[Question], mme_categories: Mapping[str, str]
) -> dict[Path, list[Record]]:
    """The rows of one picture, by data set; `file` is its encoded picture, `name` what it is called.

    `mme_categories` maps the categories of yes/no questions to MME's.
    """
    image = {"bytes": file, "path": name}
    rows: dict[Path, list[Record]] = {REAL_WORLD_QA: [], MME: []}
    first: dict[str, int | None] = {}  # pair of each category
    for question in questions:
        shared = {"question": question.prompt, "answer": question.answer}
        if question.form == "yes_no":
            category = mme_categories[question.category]
            # MME's own ids are "category/file"; a number keeps further pairs about one picture apart.
            own = first.setdefault(category, question.pair) == question.pair
            question_id = f"{category}/{name}" if own else f"{category}/{question.pair}/{name}"
            rows[MME].append({"question_id": question_id, "image": image, **shared, "category": category})
        elif question.form in ("choice", "free"):
            rows[REAL_WORLD_QA].append({"image": image, "image_path": name, **shared})
    return rows


def features_metadata(columns: Iterable[str]) -> dict[bytes, bytes]:
    """What the `datasets` library reads from a parquet schema to know which column is a picture."""
    string = {"dtype": "string", "_type": "Value"}
    features = {name: {"_type": "Image"} if name == "image" else string for name in columns}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def write_tables(out: Path, pictures: Iterable[Mapping[Path, list[Record]]]) -> Iterator[int]:
    """Writes the rows of pictures below the folder `out`, yielding after each picture how many are done.

    Both files appear, complete, when the iterator is exhausted; a run that is cut short leaves neither.
    Raises `UserError` where pyarrow is missing.
    """
    with needs_extra("eval", "the export needs"):
        import pyarrow.parquet
    targets = {name: out / name / PARQUET for name in COLUMNS}
    with ExitStack() as files:
        writers = {}
        for name, target in targets.items():
            draft = files.enter_context(whole_file(target))
            writers[name] = files.enter_context(
                pyarrow.parquet.ParquetWriter(
                    draft, _schema(COLUMNS[name]), dictionary_pagesize_limit=_DICTIONARY_BYTES
                )
            )
        group: dict[Path, list[Record]] = {name: [] for name in COLUMNS}

        def flush() -> None:
            for name, writer in writers.items():
                if group[name]:
                    writer.write_table(pyarrow.Table.from_pylist(group[name], writer.schema))
                    group[name] = []

        for done, rows in enumerate(pictures, 1):
            for name, some in rows.items():
                group[name] += some
            if done % _PICTURES_PER_GROUP == 0:
                flush()
            yield done
        flush()


def _schema(columns: Iterable[str]) -> Any:
    import pyarrow

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = [(name, image if name == "image" else pyarrow.string()) for name in columns]
    return pyarrow.schema(fields, metadata=features_metadata(columns))
