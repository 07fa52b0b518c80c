"""Command line of the benchmark on photographs: ``python -m eval.photos {show,accuracy,export}``.

Exit codes: 0 done, 2 something the user can put right, 1 a fault of ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.asking import command
from eval.asking.export import COLUMNS, PARQUET
from eval.asking.question import Question
from eval.lab.rows import write_json, write_rows
from eval.lab.tables import show as show_tables
from eval.lab.tables import track
from eval.photos.accuracy import Row, answer_photos, known_answers
from eval.photos.benchmark import Benchmark, own_questions
from eval.photos.data import picture_name
from eval.photos.export import export_photos
from eval.photos.facts import View
from eval.photos.records import read_set
from eval.photos.sets import BENCHMARK_SETS, SPLITS, benchmark_photos, folder_of, has_split
from eval.photos.summary import as_json, as_table, summarise


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return command.run(_parser(), arguments, "photos")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.photos", description="Questions about photographs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    show = commands.add_parser("show", help="print what is known of a photograph, and its questions")
    show.add_argument("number", type=command.natural)
    show.set_defaults(run=_show)

    accuracy = commands.add_parser("accuracy", help="let a model answer")
    command.add_pipeline(accuracy, "scenes-tiny")
    accuracy.add_argument("--rows", type=Path, metavar="FILE", help="write every answer, as .parquet or .csv")
    accuracy.set_defaults(run=_accuracy)

    export = commands.add_parser("export", help="write RealWorldQA and MME parquet files")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.set_defaults(run=_export)

    for each in (show, accuracy, export):
        each.add_argument("--split", choices=SPLITS, default="test")
        each.add_argument(
            "--sets", nargs="+", default=list(BENCHMARK_SETS), metavar="FOLDER",
            help="annotated photographs: folders, or names below TOFC_PHOTOS (%(default)s)",
        )  # fmt: skip
    for each in (accuracy, export):
        each.add_argument("--limit", type=command.positive, help="photographs (all)")
    return parser


def _benchmark(options: argparse.Namespace) -> tuple[Benchmark, dict[str, str]]:
    photos, taken = benchmark_photos(options.split, options.sets)
    return Benchmark(photos), taken


def _limit(options: argparse.Namespace, benchmark: Benchmark) -> int:
    return min(options.limit or len(benchmark.photos), len(benchmark.photos))


def _show(options: argparse.Namespace) -> None:
    benchmark, _ = _benchmark(options)
    number = options.number % len(benchmark.photos)
    photo = benchmark.photos[number]
    print(f"{picture_name(photo)}: {photo.file}")
    for thing in photo.things:
        box = "no box" if thing.box is None else " ".join(f"{edge:.3f}" for edge in thing.box)
        print(f"  {thing.name:16} {box}{'' if thing.sure else '  not asked about'}")
    for question in benchmark.questions(number):
        held_out = " (new wording)" if question.held_out else ""
        print(f"[{question.form}/{question.category}]{held_out} {question.prompt}\n    -> {question.answer}")


def _accuracy(options: argparse.Namespace) -> None:
    benchmark, taken = _benchmark(options)
    answerer = command.answerer(options)
    limit = _limit(options, benchmark)
    parts = answer_photos(
        answerer, replace(answerer, sizes=[]), benchmark, limit, known_answers(benchmark, _trained(options))
    )
    rows: list[Row] = [row for part in track(parts, limit, "photographs") for row in part]
    lines = summarise(rows)
    sizes = answerer.sizes
    result: dict[str, Any] = {
        "model": options.model,
        "sets": taken,
        "photographs": limit,
        "tokens": options.tokens,
        "quality": options.quality,
        "bytes_per_picture": sum(sizes) / len(sizes) if sizes else None,
        "rows": as_json(lines),
    }
    if options.rows is not None:
        write_rows(options.rows, rows, Row)
    if options.json is not None:
        write_json(options.json, result)
    where = ", ".join(f"{name} {split}" for name, split in taken.items())
    how = f"quality {options.quality}, {sum(sizes) / len(sizes):.0f} bytes a picture" if sizes else "uncoded"
    title = f"{options.model} on {limit} photographs ({where}), {options.tokens} tokens, {how}"
    show_tables(as_table(title, lines))


def _trained(options: argparse.Namespace) -> list[Question]:
    """People's questions of the sets' training parts, from which their commonest answers are known."""
    folders = [folder_of(name, None) for name in options.sets]
    photos = [
        photo for folder in folders if has_split(folder, "train") for photo in read_set(folder, "train")
    ]
    return [question for photo in photos if photo.pairs for question in own_questions(View(photo))]


def _export(options: argparse.Namespace) -> None:
    benchmark, _ = _benchmark(options)
    limit = _limit(options, benchmark)
    for _ in track(export_photos(options.out, benchmark, limit), limit, "photographs"):
        pass
    for name in COLUMNS:
        print(options.out / name / PARQUET)


if __name__ == "__main__":
    sys.exit(main())
