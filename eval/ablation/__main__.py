"""`python -m eval.ablation CONFIG`: trains every variant, measures it, and prints what each part brings."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from entropy import FeatureCodec
from eval.ablation.measure import Row, measure
from eval.ablation.summary import Curve, interval
from eval.ablation.variants import VARIANTS
from tofc.config import load_yaml
from tofc.errors import UserError
from tofc.training.settings import TrainConfig
from tofc.training.train import Run, finish

ROWS_NAME = "rows.csv"


def main() -> int:
    """Runs what is missing in the output folder, then prints the table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m eval.ablation", description=__doc__)
    parser.add_argument("config", help="a configuration of `tofc train`; its steps are each variant's")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="one folder a variant")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--pictures", type=int, default=200, help="test pictures to measure on")
    parser.add_argument("--reference", default="full", choices=list(VARIANTS))
    parser.add_argument("--table-only", action="store_true", help="train nothing: the table of what is there")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    try:
        config = load_yaml(arguments.config, TrainConfig)
        for name in arguments.variants:
            if not arguments.table_only:
                train_and_measure(name, config, arguments.out / name, arguments.pictures, console)
        print_table(arguments.out, arguments.reference)
    except UserError as error:
        console.print(f"[red]{error}[/red]")
        return 2
    return 0


def train_and_measure(name: str, config: TrainConfig, folder: Path, pictures: int, console: Console) -> None:
    """One variant, unless its rows are there already; an interrupted training goes on."""
    if (folder / ROWS_NAME).exists():
        return
    console.print(f"[bold]{name}[/bold]: {VARIANTS[name].title}")
    variant = VARIANTS[name]
    run = Run(variant.change(config), folder, console, merge=variant.merge)
    run.trainer.run(lambda step, scalars: None)
    finish(run)
    rows = measure(name, run, FeatureCodec.load(folder), pictures)
    partial = folder / (ROWS_NAME + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0].as_dict()))
        writer.writeheader()
        writer.writerows(row.as_dict() for row in rows)
    partial.rename(folder / ROWS_NAME)


def read_rows(file: Path) -> list[Row]:
    """Rows as `train_and_measure` wrote them."""
    with file.open(newline="") as lines:
        return [
            Row(
                each["variant"],
                int(each["picture"]),
                int(each["quality"]),
                int(each["bytes"]),
                float(each["cross_entropy"]),
                int(each["questions"]),
                int(each["right"]),
            )
            for each in csv.DictReader(lines)
        ]


def print_table(out: Path, reference: str) -> None:
    """The table of all variants in `out` against `reference`; raises UserError where that one is missing."""
    if not (out / reference / ROWS_NAME).exists():
        raise UserError(f"{out} has no variant {reference!r} to compare with: run it first")
    base = Curve.from_rows(read_rows(out / reference / ROWS_NAME))
    title = f"bytes at equal cross-entropy of the answers, relative to '{reference}'"
    table = Table("variant", "bytes", "95 % interval", "middle quality: bytes", "right", "use", title=title)
    found = []
    for name, variant in VARIANTS.items():
        if not (out / name / ROWS_NAME).exists():
            continue
        curve = Curve.from_rows(read_rows(out / name / ROWS_NAME))
        ratio, low, high = interval(curve, base)
        middle = (len(curve.bytes) - 1) // 2
        size = float(curve.bytes[middle].mean())
        right = float(curve.right[middle].sum() / curve.questions[middle].sum())
        use = least_use(out / name)
        found.append(
            {
                "variant": name,
                "bytes_change": ratio - 1,
                "low": low - 1,
                "high": high - 1,
                "bytes": size,
                "right": right,
                "least_used": use,
            }
        )
        table.add_row(
            variant.title, f"{ratio - 1:+.1%}", f"{low - 1:+.1%} to {high - 1:+.1%}", f"{size:.0f}",
            f"{right:.1%}", f"{use:.1%}",
        )  # fmt: skip
    Console().print(table)
    print(json.dumps({"ablation": found, "pictures": int(base.bytes.shape[1])}))


def least_use(folder: Path) -> float:
    """Share of tokens that the least used entropy model codes, over all levels, on validation pictures."""
    reports = json.loads((folder / "codec-report.json").read_text())
    return float(np.mean([report["usage"] for report in reports], axis=0).min())


if __name__ == "__main__":
    sys.exit(main())
