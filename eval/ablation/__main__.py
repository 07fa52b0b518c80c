"""`python -m eval.ablation CONFIG`: trains every variant, measures it, and prints what each part brings."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.ablation.measure import Row, measure
from eval.ablation.summary import Curve, interval
from eval.ablation.together import train_together
from eval.ablation.variants import PARTS, Variant
from tofc.config import load_yaml
from tofc.errors import UserError
from tofc.training.settings import TrainConfig
from tofc.training.train import Run, finish

ROWS_NAME = "rows.csv"
REFERENCE = "full"


def main() -> int:
    """Runs what is missing in the output folder, then prints the table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m eval.ablation", description=__doc__)
    parser.add_argument("part", choices=list(PARTS), help="codec: entropy coding; answers: merging, LoRA")
    parser.add_argument("config", help="a configuration of `tofc train`; its steps are each variant's")
    parser.add_argument("--out", type=Path, help="one folder a variant [runs/ablation-PART]")
    parser.add_argument("--variants", nargs="*", help="some of the part's variants; all without it")
    parser.add_argument("--pictures", type=int, default=200, help="test pictures to measure on")
    parser.add_argument("--table-only", action="store_true", help="train nothing: the table of what is there")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    out = arguments.out or Path("runs") / f"ablation-{arguments.part}"
    try:
        variants = chosen_variants(arguments.part, arguments.variants)
        if not arguments.table_only:
            config = load_yaml(arguments.config, TrainConfig)
            missing = {name: each for name, each in variants.items() if not (out / name / ROWS_NAME).exists()}
            if missing:
                train_and_measure(arguments.part, config, missing, out, arguments.pictures, console)
        for loss in ("error", "cross_entropy") if arguments.part == "codec" else ("cross_entropy",):
            print_table(out, variants, loss)
    except UserError as error:
        console.print(f"[red]{error}[/red]")
        return 2
    return 0


def chosen_variants(part: str, names: list[str] | None) -> dict[str, Variant]:
    """The part's variants of these names, the reference first; raises UserError on a name that it has not."""
    known = PARTS[part]
    for name in names or ():
        if name not in known:
            raise UserError(f"{part} has no variant {name!r}; choose from {', '.join(known)}")
    return {name: each for name, each in known.items() if not names or name in {REFERENCE, *names}}


def train_and_measure(
    part: str, config: TrainConfig, variants: dict[str, Variant], out: Path, pictures: int, console: Console
) -> None:
    """Rows of each variant; a reference that has its rows already is read again for its coordinates."""
    made: Iterable[tuple[str, Run]]
    if part == "codec":
        made = train_together(config, variants, out, console).items()
    else:
        made = ((name, train(each, config, out / name, console)) for name, each in variants.items())
    reference = None if REFERENCE in variants else Run(config, out / REFERENCE, console).task.codec.cpu()
    for name, run in made:  # the reference is the first of all
        exported = finish(run)[1]
        reference = run.task.codec if reference is None else reference
        write_rows(run.work / ROWS_NAME, measure(name, run, exported, pictures, reference))


def train(variant: Variant, config: TrainConfig, folder: Path, console: Console) -> Run:
    """One variant with its own model; an interrupted training goes on."""
    console.print(f"[bold]{folder.name}[/bold]: {variant.title}")
    run = Run(variant.change(config), folder, console, merge=variant.merge)
    run.trainer.run(lambda step, scalars: None)
    return run


def write_rows(file: Path, rows: list[Row]) -> None:
    """Writes rows as CSV, all of them or none."""
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0].as_dict()))
        writer.writeheader()
        writer.writerows(row.as_dict() for row in rows)
    partial.rename(file)


def read_rows(file: Path) -> list[Row]:
    """Rows as `write_rows` wrote them."""
    with file.open(newline="") as lines:
        return [
            Row(
                each["variant"],
                int(each["picture"]),
                int(each["quality"]),
                int(each["bytes"]),
                float(each["error"]),
                float(each["cross_entropy"]),
                int(each["questions"]),
                int(each["right"]),
            )
            for each in csv.DictReader(lines)
        ]


def print_table(out: Path, variants: dict[str, Variant], loss: str) -> None:
    """The table of the variants in `out` against the reference; raises UserError where it is missing."""
    if not (out / REFERENCE / ROWS_NAME).exists():
        raise UserError(f"{out} has no variant {REFERENCE!r} to compare with: run it first")
    base = Curve.from_rows(read_rows(out / REFERENCE / ROWS_NAME), loss)
    equal = {"error": "error of the features", "cross_entropy": "cross-entropy of the answers"}[loss]
    title = f"bytes at equal {equal}, relative to '{REFERENCE}'"
    table = Table("variant", "bytes", "95 % interval", "middle quality: bytes", "right", "use", title=title)
    found: list[dict[str, object]] = []
    for name, variant in variants.items():
        if not (out / name / ROWS_NAME).exists():
            continue
        try:
            row = compare(Curve.from_rows(read_rows(out / name / ROWS_NAME), loss), base)
        except ValueError as error:  # a single point may lie beyond the reference's curve
            table.add_row(variant.title, str(error))
            found.append({"variant": name, "not_computed": str(error)})
            continue
        row["least_used"] = least_use(out / name)
        found.append({"variant": name, **row})
        table.add_row(
            variant.title,
            f"{row['bytes_change']:+.1%}",
            f"{row['low']:+.1%} to {row['high']:+.1%}",
            f"{row['bytes']:.0f}",
            f"{row['right']:.1%}",
            f"{row['least_used']:.1%}",
        )
    Console().print(table)
    print(json.dumps({"ablation": found, "loss": loss, "pictures": int(base.bytes.shape[1])}))


def compare(curve: Curve, base: Curve) -> dict[str, float]:
    """Change in bytes at equal loss with its interval; bytes and share of right answers at middle quality."""
    ratio, low, high = interval(curve, base)
    middle = (len(curve.bytes) - 1) // 2
    return {
        "bytes_change": ratio - 1,
        "low": low - 1,
        "high": high - 1,
        "bytes": float(curve.bytes[middle].mean()),
        "right": float(curve.right[middle].sum() / curve.questions[middle].sum()),
    }


def least_use(folder: Path) -> float:
    """Share of tokens that the least used entropy model codes, over all levels, on validation pictures."""
    reports = json.loads((folder / "codec-report.json").read_text())
    return float(np.mean([report["usage"] for report in reports], axis=0).min())


if __name__ == "__main__":
    sys.exit(main())
