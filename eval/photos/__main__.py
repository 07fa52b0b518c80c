"""`tofc eval photos`: look at the benchmark on photographs, export it, or let a model answer it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eval.asking import answering
from eval.asking.export import COLUMNS, PARQUET, Record, question_rows, write_tables
from eval.asking.question import Question
from eval.lab.rows import write_rows
from eval.lab.terminal import Evaluation, track
from eval.lab.terminal import show as show_tables
from eval.photos.accuracy import PhotoAnswer, answer_photos, as_json, as_table, known_answers, summarise
from eval.photos.benchmark import Benchmark, own_questions
from eval.photos.data import picture_name
from eval.photos.facts import View
from eval.photos.records import BENCHMARK_SETS, benchmark_photos, folder_of, has_split, read_set
from tofc.errors import UserError
from tofc.writing import write_json

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


app = Evaluation("Questions about photographs: look at them, export them, or let a model answer.")

SplitOption = Annotated[Literal["train", "val", "test"], typer.Option("--split")]
SetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sets",
        metavar="FOLDER",
        help=f"Annotated photographs, once for each: a folder, or a name below TOFC_PHOTOS; else "
        f"{', '.join(BENCHMARK_SETS)}.",
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Photographs; else all.")
]


def _benchmark(split: str, sets: list[str] | None) -> tuple[Benchmark, dict[str, str]]:
    photos, taken = benchmark_photos(split, sets or list(BENCHMARK_SETS))
    return Benchmark(photos), taken


def _limit(limit: int | None, benchmark: Benchmark) -> int:
    return min(limit or len(benchmark.photos), len(benchmark.photos))


@app.command()
def show(
    number: Annotated[int, typer.Argument(min=0, metavar="NUMBER")],
    split: SplitOption = "test",
    sets: SetsOption = None,
) -> None:
    """Print what is known of a photograph, and its questions."""
    benchmark, _ = _benchmark(split, sets)
    number = number % len(benchmark.photos)
    photo = benchmark.photos[number]
    print(f"{picture_name(photo)}: {photo.file}")
    for thing in photo.things:
        box = "no box" if thing.box is None else " ".join(f"{edge:.3f}" for edge in thing.box)
        print(f"  {thing.name:16} {box}{'' if thing.sure else '  not asked about'}")
    for question in benchmark.questions(number):
        held_out = " (new wording)" if question.held_out else ""
        print(f"[{question.form}/{question.category}]{held_out} {question.prompt}\n    -> {question.answer}")


@app.command()
def accuracy(
    model: answering.ModelOption = "photos-tiny",
    tokens: answering.TokensOption = "all",
    quality: answering.QualityOption = "none",
    limit: LimitOption = None,
    split: SplitOption = "test",
    sets: SetsOption = None,
    rows_file: Annotated[
        Path | None,
        typer.Option("--rows", metavar="FILE", help="Write every answer, as .parquet or .csv."),
    ] = None,
    json_file: answering.NumbersOption = None,
) -> None:
    """Let a model answer: accuracy by kind of question, with intervals."""
    benchmark, taken = _benchmark(split, sets)
    answerer = answering.answerer(model, tokens, quality)
    limit = _limit(limit, benchmark)
    parts = answer_photos(
        answerer, replace(answerer, sizes=[]), benchmark, limit, known_answers(benchmark, _trained(sets))
    )
    rows: list[PhotoAnswer] = [row for part in track(parts, limit, "photographs") for row in part]
    lines = summarise(rows)
    sizes = answerer.sizes
    result: dict[str, Any] = {
        "model": model,
        "sets": taken,
        "photographs": limit,
        "tokens": tokens,
        "quality": quality,
        "bytes_per_picture": sum(sizes) / len(sizes) if sizes else None,
        "rows": as_json(lines),
    }
    if rows_file is not None:
        write_rows(rows_file, rows, PhotoAnswer)
    if json_file is not None:
        write_json(json_file, result)
    where = ", ".join(f"{name} {split}" for name, split in taken.items())
    how = f"quality {quality}, {sum(sizes) / len(sizes):.0f} bytes a picture" if sizes else "uncoded"
    title = f"{model} on {limit} photographs ({where}), {tokens} tokens, {how}"
    show_tables(as_table(title, lines))


def _trained(sets: list[str] | None) -> list[Question]:
    """People's questions of the sets' training parts, from which their commonest answers are known."""
    folders = [folder_of(name, None) for name in sets or BENCHMARK_SETS]
    photos = [
        photo for folder in folders if has_split(folder, "train") for photo in read_set(folder, "train")
    ]
    return [question for photo in photos if photo.pairs for question in own_questions(View(photo))]


@app.command()
def export(
    out: Annotated[Path, typer.Option(metavar="DIR")],
    limit: LimitOption = None,
    split: SplitOption = "test",
    sets: SetsOption = None,
) -> None:
    """Write RealWorldQA and MME parquet files."""
    benchmark, _ = _benchmark(split, sets)
    limit = _limit(limit, benchmark)
    for _ in track(export_photos(out, benchmark, limit), limit, "photographs"):
        pass
    for name in COLUMNS:
        print(out / name / PARQUET)


if __name__ == "__main__":
    app(prog_name="python -m eval.photos")
