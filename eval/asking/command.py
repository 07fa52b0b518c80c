"""What the command lines of the benchmarks share: their options and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.asking.answering import PipelineAnswerer
from tofc.config import QUALITIES
from tofc.errors import UserError


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, name: str) -> int:
    """Runs the command that the arguments name; 0 done, 2 something the user can put right."""
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _tokens(text: str) -> int | str:
    """A number of tokens to merge to, or all."""
    if text != "all" and not (text.isdigit() and int(text) > 0):
        raise UserError(f"--tokens is {text!r}; give a number of at least 1, or all")
    return text if text == "all" else int(text)


def _quality(text: str) -> int | None:
    """A quality of the codec, or none for uncoded features."""
    if text == "none":
        return None
    if not text.isdigit() or int(text) not in QUALITIES:
        raise UserError(f"--quality is {text!r}; give {QUALITIES[0]} to {QUALITIES[-1]}, or none (uncoded)")
    return int(text)


def add_pipeline(parser: argparse.ArgumentParser, model: str) -> None:
    """The options that say which model answers, and what of the picture reaches it."""
    parser.add_argument("--model", "--checkpoint", default=model, help="bundled name, folder or hub id")
    parser.add_argument("--tokens", default="all", help="'all' or a number to merge to (%(default)s)")
    parser.add_argument("--quality", default="none", help="'none' (uncoded, default) or 1 to 8")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")


def answerer(options: argparse.Namespace) -> PipelineAnswerer:
    """The model that `add_pipeline`'s options name; UserError for a number out of range or no such model."""
    tokens, quality = _tokens(options.tokens), _quality(options.quality)
    return PipelineAnswerer.from_pretrained(options.model, tokens, quality)
