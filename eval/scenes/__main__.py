"""Command line of the embedded benchmark: ``python -m eval.scenes {show,sheet,export,accuracy}``.

Exit codes: 0 done, 2 something the user can put right, 1 a fault of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from eval.scenes.accuracy import PipelineAnswerer, answer_scenes, summary
from eval.scenes.export import COLUMNS, DEFAULT_SCENES, PARQUET, export_split
from eval.scenes.print_accuracy import print_accuracy
from eval.scenes.questions import benchmark_questions
from eval.scenes.scoring import Scored
from eval.scenes.sheet import contact_sheet
from eval.scenes.world import SPLITS, make_scene
from tofc.config import QUALITIES
from tofc.errors import UserError

T = TypeVar("T")
ACCURACY_SCENES = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"scenes: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.scenes", description="The embedded benchmark.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    show = commands.add_parser("show", help="print a scene, its questions and its description")
    show.add_argument("index", type=_natural)
    show.add_argument("--save", type=Path, metavar="FILE.png", help="write the picture too")
    show.set_defaults(run=_show)

    sheet = commands.add_parser("sheet", help="a contact sheet of pictures with a question each")
    sheet.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    sheet.add_argument("--count", type=_positive, default=12)
    sheet.set_defaults(run=_sheet)

    export = commands.add_parser("export", help="write RealWorldQA and MME parquet files")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument("--limit", type=_positive, default=DEFAULT_SCENES, help="scenes (%(default)s)")
    export.set_defaults(run=_export)

    accuracy = commands.add_parser("accuracy", help="let a model answer the benchmark")
    accuracy.add_argument("--checkpoint", default="scenes-tiny", help="bundled name, folder or hub id")
    accuracy.add_argument("--tokens", default="all", help="'all' or a number to merge to (%(default)s)")
    accuracy.add_argument("--quality", default="none", help="'none' (uncoded, default) or 1 to 8")
    accuracy.add_argument("--limit", type=_positive, default=ACCURACY_SCENES, help="scenes (%(default)s)")
    accuracy.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    accuracy.set_defaults(run=_accuracy)

    for command in (show, sheet, export, accuracy):
        command.add_argument("--split", choices=SPLITS, default="test")
    return parser


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


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
        _write(options.save, lambda path: Image.fromarray(pixels).save(path, "PNG"))


def _sheet(options: argparse.Namespace) -> None:
    indices = _progress(range(options.count), options.count, "scenes")
    image = contact_sheet(options.split, indices, options.count)
    _write(options.out, lambda path: image.save(path, "PNG"))
    print(options.out)


def _export(options: argparse.Namespace) -> None:
    for _ in _progress(export_split(options.out, options.split, options.limit), options.limit, "scenes"):
        pass
    for name in COLUMNS:
        print(options.out / name / PARQUET)


def _accuracy(options: argparse.Namespace) -> None:
    tokens, quality = _tokens(options.tokens), _quality(options.quality)
    answerer = PipelineAnswerer.from_pretrained(options.checkpoint, tokens, quality)
    scored = _answered(answerer, options.split, options.limit)
    sizes = list(answerer.sizes)
    heldout = _answered(answerer, "heldout", options.limit) if options.split == "test" else []
    result: dict[str, Any] = {
        "checkpoint": options.checkpoint,
        "split": options.split,
        "scenes": options.limit,
        "tokens": options.tokens,
        "quality": quality,
        "bytes_per_picture": sum(sizes) / len(sizes) if sizes else None,
        **summary(scored, heldout),
    }
    print_accuracy(result)
    if options.json is not None:
        text = json.dumps(result, indent=1, allow_nan=False)
        _write(options.json, lambda path: path.write_text(text + "\n", encoding="utf-8"))


def _answered(answerer: PipelineAnswerer, split: str, scenes: int) -> list[Scored]:
    parts = _progress(answer_scenes(answerer, split, scenes), scenes, f"{split} scenes")
    return [one for part in parts for one in part]


def _tokens(text: str) -> int | str:
    if text != "all" and not (text.isdigit() and int(text) > 0):
        raise UserError(f"--tokens is {text!r}; give a number of at least 1, or all")
    return text if text == "all" else int(text)


def _quality(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdigit() or int(text) not in QUALITIES:
        raise UserError(f"--quality is {text!r}; give {QUALITIES[0]} to {QUALITIES[-1]}, or none (uncoded)")
    return int(text)


def _progress(steps: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The steps one by one, with a bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        yield from progress.track(steps, total=total, description=what)


def _write(target: Path, write: Callable[[Path], object]) -> None:
    """Writes a file whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; choose another place") from error
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
