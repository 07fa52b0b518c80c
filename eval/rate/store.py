"""The folder of a sweep: finished parts, what they were made with, and all rows in one file.

OUT/sweep.json        checkpoint, data and software that every part was made with
OUT/parts/            one Parquet file for each point and block of pictures, whole or absent
OUT/rows.parquet      all rows of the sweep, in the order of its points and pictures
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from eval.rate.points import Point
from tofc.errors import UserError

ROWS = "rows.parquet"
ROW_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("system", pyarrow.string()),
        pyarrow.field("point", pyarrow.string()),
        pyarrow.field("picture", pyarrow.string()),
        pyarrow.field("bytes", pyarrow.int64()),  # that travelled for the picture
        pyarrow.field("tokens", pyarrow.int32()),  # visual tokens of the picture
        pyarrow.field("question", pyarrow.int32()),  # number of the question about this picture
        pyarrow.field("form", pyarrow.string()),
        pyarrow.field("category", pyarrow.string()),
        pyarrow.field("truth", pyarrow.string()),
        pyarrow.field("answer", pyarrow.string()),
        pyarrow.field("right", pyarrow.int32()),  # out of `of`, which is 1 but for descriptions
        pyarrow.field("of", pyarrow.int32()),
    ]
)


class Store:
    """The parts of one sweep, under the folder `out`."""

    def __init__(self, out: Path, made_with: dict[str, Any]) -> None:
        """Opens the folder, or makes it; UserError where its parts were made with something else."""
        self.out = out
        self.parts = out / "parts"
        note = out / "sweep.json"
        if note.is_file():
            found = json.loads(note.read_text(encoding="utf-8"))
            other = sorted(key for key in {*found, *made_with} if found.get(key) != made_with.get(key))
            if other:
                was, is_ = ({key: values.get(key) for key in other} for values in (found, made_with))
                raise UserError(
                    f"{out} holds a sweep with another {', '.join(other)} ({was}, now {is_}): its answers "
                    "cannot be mixed with new ones. Give another --out, or remove that folder"
                )
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} holds something else than a sweep; give another --out")
        else:
            self.parts.mkdir(parents=True)
            _write_text(note, json.dumps(made_with, indent=1) + "\n")

    def path(self, point: Point, block: range) -> Path:
        """Where the rows of a point about a block of pictures belong."""
        key = hashlib.sha256(f"{point.system}: {point.name}".encode()).hexdigest()[:12]
        return self.parts / f"{point.system}-{key}-{block.start:06d}-{block.stop:06d}.parquet"

    def has(self, points: Iterable[Point], block: range) -> bool:
        """Whether the rows of all these points about the block are there."""
        return all(self.path(point, block).is_file() for point in points)

    def write(self, point: Point, block: range, rows: Sequence[dict[str, Any]]) -> None:
        """Keeps the rows of a point about a block; the file appears whole."""
        target = self.path(point, block)
        partial = target.with_suffix(f".{os.getpid()}.partial")
        table = pyarrow.Table.from_pylist(list(rows), schema=ROW_SCHEMA)
        pyarrow.parquet.write_table(table, partial, compression="zstd")
        os.replace(partial, target)

    def merge(self, points: Sequence[Point], blocks: Sequence[range]) -> Path:
        """Writes the rows of these points and blocks as one file; UserError if a part is missing."""
        target = self.out / ROWS
        partial = target.with_suffix(".partial")
        with pyarrow.parquet.ParquetWriter(partial, ROW_SCHEMA, compression="zstd") as writer:
            for point in points:
                for block in blocks:
                    part = self.path(point, block)
                    if not part.is_file():
                        raise UserError(
                            f"{part} is missing: run the sweep again, which makes what is missing"
                        )
                    writer.write_table(pyarrow.parquet.read_table(part))
        os.replace(partial, target)
        return target


def _write_text(target: Path, text: str) -> None:
    partial = target.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, target)
