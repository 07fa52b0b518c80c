"""`tofc eval bench [NAME ...]`: runs benchmarks by name, all of them by default."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from eval.lab.terminal import Evaluation
from tofc.errors import UserError

# By name the module of `eval.bench` that has a function of this name.
BENCHMARKS = {
    "codec": "codec",
    "merging": "merging",
    "encoding": "merging",
    "device": "device",
    "precision": "precision",
}

app = Evaluation("Speed of the coder, of merging and of a whole device.")


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help=f"Of {', '.join(BENCHMARKS)}; else all.")
    ] = None,
) -> None:
    """Time each part beside what it is compared with: a table, and last one line of JSON."""
    unknown = [name for name in names or () if name not in BENCHMARKS]
    if unknown:
        raise UserError(f"unknown benchmark {unknown[0]!r}; choose from: {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        getattr(importlib.import_module(f"eval.bench.{BENCHMARKS[name]}"), name)()


if __name__ == "__main__":
    app(prog_name="python -m eval.bench")
