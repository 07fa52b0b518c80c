"""Command line of the embedded benchmark: ``python -m eval.scenes {show,sheet,export,accuracy}``.

Exit codes: 0 done, 2 something the user can put right, 1 a fault of ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from eval.asking import command
from eval.asking.answering import PipelineAnswerer
from eval.asking.export import COLUMNS, PARQUET
from eval.lab.rows import write_json, write_whole
from eval.lab.tables import track
from eval.scenes.accuracy import answer_scenes, summary
from eval.scenes.export import DEFAULT_SCENES, export_split
from eval.scenes.print_accuracy import print_accuracy
from eval.scenes.questions import benchmark_questions
from eval.scenes.scoring import Scored
from eval.scenes.sheet import contact_sheet
from eval.scenes.world import SPLITS, make_scene

ACCURACY_SCENES = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    return command.run(_parser(), arguments, "scenes")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.scenes", description="The embedded benchmark.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    show = commands.add_parser("show", help="print a scene, its questions and its description")
    show.add_argument("index", type=command.natural)
    show.add_argument("--save", type=Path, metavar="FILE.png", help="write the picture too")
    show.set_defaults(run=_show)

    sheet = commands.add_parser("sheet", help="a contact sheet of pictures with a question each")
    sheet.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    sheet.add_argument("--count", type=command.positive, default=12)
    sheet.set_defaults(run=_sheet)

    export = commands.add_parser("export", help="write RealWorldQA and MME parquet files")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument("--limit", type=command.positive, default=DEFAULT_SCENES, help="scenes (%(default)s)")
    export.set_defaults(run=_export)

    accuracy = commands.add_parser("accuracy", help="let a model answer the benchmark")
    command.add_pipeline(accuracy, "scenes-tiny")
    accuracy.add_argument(
        "--limit", type=command.positive, default=ACCURACY_SCENES, help="scenes (%(default)s)"
    )
    accuracy.set_defaults(run=_accuracy)

    for each in (show, sheet, export, accuracy):
        each.add_argument("--split", choices=SPLITS, default="test")
    return parser


def _show(options: argparse.Namespace) -> None:
    scene, pixels, _ = make_scene(options.split, options.index)
    print(f"{scene.split} {scene.index}: {scene.width}x{scene.height}, {scene.light}, {scene.ground}")
    for thing in scene.things:
        words = " ".join(part for part in (thing.colour, thing.kind, thing.text) if part)
        print(f"  {words:24} box {thing.box}  area {thing.area}  foot {thing.base}")
    for question in benchmark_questions(scene):
        held_out = " (held out)" if question.held_out else ""
        print(f"[{question.form}/{question.category}]{held_out} {question.prompt}\n    -> {question.answer}")
    if options.save is not None:
        write_whole(options.save, lambda path: Image.fromarray(pixels).save(path, "PNG"))


def _sheet(options: argparse.Namespace) -> None:
    indices = track(range(options.count), options.count, "scenes")
    image = contact_sheet(options.split, indices, options.count)
    write_whole(options.out, lambda path: image.save(path, "PNG"))
    print(options.out)


def _export(options: argparse.Namespace) -> None:
    for _ in track(export_split(options.out, options.split, options.limit), options.limit, "scenes"):
        pass
    for name in COLUMNS:
        print(options.out / name / PARQUET)


def _accuracy(options: argparse.Namespace) -> None:
    answerer = command.answerer(options)
    scored = _answered(answerer, options.split, options.limit)
    sizes = list(answerer.sizes)
    heldout = _answered(answerer, "heldout", options.limit) if options.split == "test" else []
    result: dict[str, Any] = {
        "checkpoint": options.model,
        "split": options.split,
        "scenes": options.limit,
        "tokens": options.tokens,
        "quality": None if options.quality == "none" else int(options.quality),
        "bytes_per_picture": sum(sizes) / len(sizes) if sizes else None,
        **summary(scored, heldout),
    }
    print_accuracy(result)
    if options.json is not None:
        write_json(options.json, result)


def _answered(answerer: PipelineAnswerer, split: str, scenes: int) -> list[Scored]:
    parts = track(answer_scenes(answerer, split, scenes), scenes, f"{split} scenes")
    return [one for part in parts for one in part]


if __name__ == "__main__":
    sys.exit(main())
