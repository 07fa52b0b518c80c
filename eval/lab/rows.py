"""Rows of results: dataclasses in Parquet or CSV files, and the folder of a run that goes on after a kill.

OUT/sweep.json        what every part was made with: weights, data, software
OUT/parts/            one Parquet file for each part of the work, whole or absent
OUT/rows.parquet      the rows of all parts in one file
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

import pyarrow
import pyarrow.csv
import pyarrow.parquet

from tofc.config import CONFIG_NAME, resolve
from tofc.errors import UserError
from tofc.hub import fetch
from tofc.writing import whole_file, write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROWS, NOTE, PARTS = "rows.parquet", "sweep.json", "parts"
_TYPES = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}


R = TypeVar("R", bound="DataclassInstance")


def schema(kind: type[DataclassInstance]) -> pyarrow.Schema:
    """The columns of a kind of row, a frozen dataclass whose fields are str, int, float or bool."""
    hints = get_type_hints(kind)
    return pyarrow.schema([(field.name, _TYPES[hints[field.name]]) for field in fields(kind)])


def write_rows(target: Path, rows: Iterable[DataclassInstance], kind: type[DataclassInstance]) -> None:
    """Writes rows as Parquet, or as CSV where the name ends in .csv; the file appears whole."""
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=schema(kind))
    with whole_file(target) as draft:
        if target.suffix == ".csv":
            pyarrow.csv.write_csv(table, draft)
        else:
            pyarrow.parquet.write_table(table, draft, compression="zstd")


def read_table(source: Path, kind: type[DataclassInstance]) -> pyarrow.Table:
    """The columns of a file of rows; errors of `read_rows`."""
    columns = schema(kind)
    try:
        if source.suffix == ".csv":
            types = pyarrow.csv.ConvertOptions(column_types=columns, strings_can_be_null=False)
            table = pyarrow.csv.read_csv(source, convert_options=types)
        else:
            table = pyarrow.parquet.read_table(source)
        return table.select(columns.names).cast(columns)
    except FileNotFoundError:
        raise UserError(f"there is no {source}: run what makes it first") from None
    except (KeyError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{source} does not hold the rows {', '.join(columns.names)} ({error}): make it again"
        ) from error


def read_rows(source: Path, kind: type[R]) -> list[R]:
    """What `write_rows` wrote; UserError for a file that is missing or holds something else."""
    return [kind(**row) for row in read_table(source, kind).to_pylist()]


class Store(Generic[R]):
    """The parts of one run, under the folder `out`; whoever runs it again does only what is missing.

    `made_with` is all that must be equal for rows to belong together; it is kept as JSON, paths as words.
    """

    def __init__(self, out: Path, kind: type[R], made_with: Mapping[str, Any]) -> None:
        """Opens the folder, or makes it; UserError where its parts were made with something else."""
        self.out, self.kind = out, kind
        made_with = json.loads(json.dumps(made_with, default=str))
        note = out / NOTE
        if note.is_file():
            _refuse_others(out, json.loads(note.read_text(encoding="utf-8")), made_with)
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} holds something else than a sweep; give another --out")
        else:
            (out / PARTS).mkdir(parents=True)
            write_json(note, made_with)

    def part(self, name: str) -> Path:
        """Where the rows of a part of this name belong."""
        return self.out / PARTS / f"{name}.parquet"

    def has(self, *names: str) -> bool:
        """Whether all these parts are there."""
        return all(self.part(name).is_file() for name in names)

    def write(self, name: str, rows: Sequence[R]) -> None:
        """Keeps the rows of a part; the file appears whole."""
        write_rows(self.part(name), rows, self.kind)

    def merge(self, names: Iterable[str]) -> Path:
        """Writes the rows of these parts as one file, in this order; UserError if a part is missing."""
        columns = schema(self.kind)
        with (
            whole_file(self.out / ROWS) as draft,
            pyarrow.parquet.ParquetWriter(draft, columns, compression="zstd") as writer,
        ):
            for part in map(self.part, names):
                if not part.is_file():
                    raise UserError(f"{part} is missing: run this again, which makes what is missing")
                writer.write_table(read_table(part, self.kind))
        return self.out / ROWS


def blocks(total: int, at_once: int) -> list[range]:
    """The numbers from 0 up to `total` in blocks; with another total the same but for the last."""
    edges = [*range(0, total, at_once), total]
    return [range(first, last) for first, last in itertools.pairwise(edges)]


def _refuse_others(out: Path, found: Mapping[str, Any], made_with: Mapping[str, Any]) -> None:
    other = sorted(key for key in {*found, *made_with} if found.get(key) != made_with.get(key))
    if other:
        was, is_ = ({key: values.get(key) for key in other} for values in (found, made_with))
        raise UserError(
            f"{out} holds a sweep with another {', '.join(other)} ({was}, now {is_}): its answers "
            "cannot be mixed with new ones. Give another --out, or remove that folder"
        )


_SOFTWARE = ("tofc", "torch", "transformers", "pillow", "pillow-jxl-plugin", "zstandard")


def software() -> dict[str, str | None]:
    """Versions of what answers and bytes depend on, None for what is not installed."""
    return {package: _version(package) for package in _SOFTWARE}


def checkpoint_fingerprint(source: str) -> str:
    """SHA-256 over every file of a checkpoint; of a base on the hub its commit stands for its files."""
    checkpoint = resolve(source)
    digest = hashlib.sha256()
    folders = [checkpoint.folder]
    if Path(checkpoint.base).is_dir():
        folders += [Path(checkpoint.base)]
    else:
        digest.update(f"{checkpoint.base}@{fetch(checkpoint.base, CONFIG_NAME).parent.name}".encode())
    files = {file.resolve(): file.relative_to(folder) for folder in folders for file in folder.rglob("*")}
    for file, name in sorted(files.items(), key=lambda item: str(item[1])):
        if file.is_file():
            digest.update(str(name).encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
