"""Photographs as RealWorldQA and MME; see `eval.asking.export` for the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.asking.export import Record, question_rows, write_tables
from eval.photos.benchmark import Benchmark
from tofc.errors import UserError

MME_CATEGORIES = {"existence": "existence", "count": "count", "position": "position"}


def photo_rows(benchmark: Benchmark, number: int) -> dict[Path, list[Record]]:
    """The rows of one photograph, by data set; the picture keeps its own bytes.

    Raises `UserError` for a file that cannot be read.
    """
    photo = benchmark.photos[number]
    try:
        content = photo.file.read_bytes()
    except OSError as error:
        raise UserError(f"{photo.file} cannot be read: {error.strerror or error}") from error
    name = f"{photo.source}-{photo.file.name}"
    return question_rows(name, content, benchmark.published(number), MME_CATEGORIES)


def export_photos(out: Path, benchmark: Benchmark, limit: int) -> Iterator[int]:
    """Writes the first `limit` photographs below `out`, yielding after each how many are done.

    Raises `UserError` where pyarrow is missing.
    """
    yield from write_tables(out, (photo_rows(benchmark, number) for number in range(limit)))
