"""`tofc eval ablation`: trains every variant, measures it, and prints what each part brings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from eval.lab.terminal import Evaluation, SplitOption
from tofc.cli.report import print_json
from tofc.config import load_yaml
from tofc.errors import UserError

if TYPE_CHECKING:
    from eval.ablation.variants import Variant
    from tofc.training.codec import CodecRun
    from tofc.training.settings import TrainConfig

SCENES = "eval.scenes.corpus:SceneCorpus"

app = Evaluation(
    "What each part of the codec and of merging brings: one part left out, at the same seed.",
    extra="train,eval",
)

Part = Literal["codec", "answers", "terms"]
TrainConfigArgument = Annotated[
    str,
    typer.Argument(metavar="CONFIG", help="A configuration of `tofc train`; its steps are each variant's."),
]


@dataclass(frozen=True)
class VariantOptions:
    """Which variants are trained and measured, and where."""

    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="One folder a variant, else runs/ablation-PART."),
    ] = None
    variants: Annotated[
        list[str] | None,
        typer.Option("--variants", metavar="NAME", help="Some of the variants, once for each; else all."),
    ] = None
    pictures: Annotated[int, typer.Option("--pictures", min=1, help="Test pictures to measure on.")] = 200
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Train nothing: the table of what is there.")
    ] = False


@app.command()
def codec(config: TrainConfigArgument, options: VariantOptions) -> None:
    """Parts of the entropy coding, trained together on the same features and compared at equal error."""
    ablate("codec", config, options)


@app.command()
def answers(config: TrainConfigArgument, options: VariantOptions) -> None:
    """Merging and fine-tuning, each variant with a model of its own, compared at equal answers."""
    ablate("answers", config, options)


@app.command()
def terms(config: TrainConfigArgument, options: VariantOptions) -> None:
    """Terms of the training that the paper does not have, each left out, compared at equal answers."""
    ablate("terms", config, options)


@app.command()
def mergings(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A name or a folder.")] = (
        "scenes-tiny"
    ),
    tokens: Annotated[
        list[int] | None, typer.Option(help="A number of tokens, once for each; else 9, 16, 25, 36 and 64.")
    ] = None,
    quality: Annotated[
        list[int] | None,
        typer.Option(min=0, max=8, help="Of the codec, once for each; 0: not coded; else 5."),
    ] = None,
    split: SplitOption = "validation",
    pictures: Annotated[int, typer.Option(min=1)] = 192,
    data: Annotated[
        str, typer.Option("--data", metavar="MODULE:CLASS", help="The corpus, such as that of a training.")
    ] = SCENES,
) -> None:
    """Ways of merging before one checkpoint as it is: bytes, cross-entropy and right answers."""
    from eval.ablation.mergings import Bench, report
    from eval.lab.terminal import show

    few_lists = {"describe_share": 0.2} if data == SCENES else {}
    bench = Bench(checkpoint, data, {"size": 224, "questions": 6, **few_lists})
    with Console(stderr=True).status("merging, coding and answering"):
        results = list(bench.results(split, pictures, tokens or [9, 16, 25, 36, 64], quality or [5]))
    tables, told = report(results, f"{checkpoint}, {pictures} pictures")
    show(*tables, pictures=pictures)
    print_json(told)


def ablate(part: Part, config: str, options: VariantOptions) -> None:
    """Runs what is missing in the output folder, then prints tables, each with a line of JSON."""
    from eval.ablation.compare import ROWS_NAME, comparison
    from eval.lab.terminal import show
    from tofc.training.settings import TrainConfig

    out = options.out or Path("runs") / f"ablation-{part}"
    variants = chosen_variants(part, options.variants)
    if not options.table_only:
        settings = load_yaml(config, TrainConfig)
        missing = {name: each for name, each in variants.items() if not (out / name / ROWS_NAME).exists()}
        if missing:
            train_and_measure(part, settings, missing, out, options.pictures, Console(stderr=True))
    for loss in ("error", "cross_entropy") if part == "codec" else ("cross_entropy",):
        table, told = comparison(out, variants, loss)
        show(table)
        print_json(told)


def chosen_variants(part: str, names: list[str] | None) -> dict[str, Variant]:
    """The part's variants of these names, the reference first; raises UserError on a name that it has not."""
    from eval.ablation.compare import REFERENCE
    from eval.ablation.variants import PARTS

    known = PARTS[part]
    for name in names or ():
        if name not in known:
            raise UserError(f"{part} has no variant {name!r}; choose from {', '.join(known)}")
    return {name: each for name, each in known.items() if not names or name in {REFERENCE, *names}}


def train_and_measure(
    part: str, config: TrainConfig, variants: dict[str, Variant], out: Path, pictures: int, console: Console
) -> None:
    """Rows of each variant; a reference that has its rows already is read again for its coordinates."""
    from eval.ablation.compare import REFERENCE, ROWS_NAME, CodecRow, measure
    from eval.ablation.variants import train_alone, train_together
    from eval.lab.rows import write_rows
    from tofc.training.codec import CodecRun, finish

    made: Iterable[tuple[str, CodecRun]]
    if part == "codec":
        made = train_together(config, variants, out, console).items()
    else:
        made = ((name, train_alone(each, config, out / name, console)) for name, each in variants.items())
    reference = None if REFERENCE in variants else CodecRun(config, out / REFERENCE, console).task.codec.cpu()
    for name, run in made:  # the reference is the first of all
        exported = finish(run)[1]
        reference = run.task.codec if reference is None else reference
        write_rows(run.folder / ROWS_NAME, measure(name, run, exported, pictures, reference), CodecRow)


if __name__ == "__main__":
    app(prog_name="python -m eval.ablation")
