"""What the commands of the benchmarks share: which model answers, and what of the picture reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eval.asking.answering import PipelineAnswerer
from tofc.config import QUALITIES
from tofc.errors import UserError

ModelOption = Annotated[
    str, typer.Option("--model", "--checkpoint", metavar="NAME", help="Bundled name, folder or hub id.")
]
TokensOption = Annotated[str, typer.Option("--tokens", help="A number to merge to, or all.")]
QualityOption = Annotated[str, typer.Option("--quality", help="1 to 8, or none: uncoded.")]
NumbersOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers too.")]


def answerer(model: str, tokens: str, quality: str) -> PipelineAnswerer:
    """The model that the options name; UserError for a number out of range or no such model."""
    if tokens != "all" and not (tokens.isdigit() and int(tokens) > 0):
        raise UserError(f"--tokens is {tokens!r}; give a number of at least 1, or all")
    if quality != "none" and not (quality.isdigit() and int(quality) in QUALITIES):
        raise UserError(
            f"--quality is {quality!r}; give {QUALITIES[0]} to {QUALITIES[-1]}, or none (uncoded)"
        )
    return PipelineAnswerer.from_pretrained(
        model, tokens if tokens == "all" else int(tokens), None if quality == "none" else int(quality)
    )
