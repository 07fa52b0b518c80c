"""`tofc eval familial`: what a family's members are worth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eval.lab.terminal import CheckpointOption, Evaluation, LimitOption, SplitOption
from tofc.cli.files import check_new
from tofc.cli.options import DataOptions, data_options
from tofc.cli.report import print_json

if TYPE_CHECKING:
    import torch

    from eval.asking.answering import Data
    from tofc import Device, Edge

app = Evaluation("Accuracy, speed and memory of a family's members, and of exits chosen by question.")

SCENES = "eval.rate.scenes:ScenesData"


@dataclass(frozen=True)
class AskedOptions:
    """A checkpoint, what it is asked, and how the features travel."""

    checkpoint: CheckpointOption = "scenes-tiny"
    limit: LimitOption = 100
    split: SplitOption = "test"
    quality: Annotated[
        int | None,
        typer.Option("--quality", min=1, max=8, help="Of the packets; the checkpoint's if left out."),
    ] = None
    uncoded: Annotated[bool, typer.Option("--uncoded", help="Features travel uncoded.")] = False
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="MODULE:CLASS",
            help="Pictures and questions, such as eval.rate.published:RealWorldQaData.",
        ),
    ] = SCENES
    option: DataOptions = None

    def opened(self) -> tuple[Device, Edge, Data, int, int | None]:
        """Both sides, the pictures, how many of them, and the quality, None for features as they are."""
        from eval.asking.answering import SweepData, load_data
        from tofc import Device, Edge

        device, edge = Device.from_pretrained(self.checkpoint), Edge.from_pretrained(self.checkpoint)
        split = {"split": self.split} if self.data.startswith(("eval.rate.scenes", "eval.photos")) else {}
        asked = load_data(SweepData(self.data, {**split, **data_options(self.option)}))
        level = None if self.uncoded else self.quality or edge.config.default_quality
        return device, edge, asked, min(self.limit, len(asked)), level


SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint, or a plain family.")]
Dtype = Literal["float32", "bfloat16", "float16"]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Of weights and states.")]


@app.command()
def accuracy(
    options: AskedOptions,
    direct: Annotated[bool, typer.Option(help="Direct early exits too.")] = True,
    out: Annotated[Path, typer.Option(help="Rows, table and figure; a run there goes on.")] = Path(
        "runs/familial"
    ),
) -> None:
    """Every member and direct exit on a benchmark, as rows, table and figure 9 of the paper.

    A run that was killed goes on where it was.
    """
    from eval.asking.answering import PICTURES_AT_ONCE
    from eval.familial.accuracy import accuracy_table, analyse, draw
    from eval.familial.members import DIRECT, ExitRow, answer, exits_of, part_name
    from eval.lab.figures import require_matplotlib
    from eval.lab.rows import Store, blocks, checkpoint_fingerprint, read_table, software
    from eval.lab.terminal import show, track

    require_matplotlib()  # before minutes of work
    device, edge, asked, limit, level = options.opened()
    chosen = [one for one in exits_of(edge) if direct or one.kind != DIRECT]
    made_with = {"checkpoint": checkpoint_fingerprint(options.checkpoint), "data": asked.name}
    store = Store(out, ExitRow, {**made_with, "quality": level, "software": software()})
    some = blocks(limit, PICTURES_AT_ONCE)
    for _ in track(answer(store, device, edge, chosen, asked, limit, level), len(some), "blocks of pictures"):
        pass
    rows = store.merge(part_name(one, block) for block in some for one in chosen)
    results = analyse(read_table(rows, ExitRow))
    sent = "uncoded" if level is None else f"quality {level}"
    title = f"{options.checkpoint}: {limit} pictures ({asked.name}), {sent}"
    show(accuracy_table(results, chosen, title), pictures=limit)
    print(draw(results, chosen, title, out / "figure9.png"))
    print_json({"title": title, "results": [asdict(result) for result in results]})


@app.command()
def policy(options: AskedOptions) -> None:
    """What exits chosen by question keep of the full accuracy, and what they cost."""
    from eval.familial.members import choose, summarise
    from eval.lab.terminal import interval, percent, track

    device, edge, asked, limit, level = options.opened()
    steps = choose(device, edge, asked, limit, level)
    found = summarise(list(track(steps, limit, "pictures")))
    who = ", ".join(f"{name} {share:.0%}" for name, share in found.exits.items())
    print(f"{found.questions} questions, answered by {who}")
    for name, one in (("accuracy kept", found.kept), ("compute", found.compute)):
        print(f"{name}: {percent(one.value)} % ({interval(one)}) of the full member's")
    print_json(asdict(found))


@app.command()
def speed(
    source: SourceArgument = "scenes-tiny",
    dtype: DtypeOption = "float32",
    rounds: Annotated[int, typer.Option(min=1, help="Of one token each.")] = 15,
) -> None:
    """Tokens a second of every member, as ratios in one run."""
    from eval.familial.speed import open_family, speeds
    from eval.lab.terminal import percent, show, table

    found = speeds(open_family(source, dtype=_dtype(dtype)), rounds)
    rows = [
        (
            one.name,
            f"{one.num_parameters:,}",
            f"{percent(one.share)} %",
            f"{one.step_ms:.2f}",
            f"{one.speedup:.2f}x",
        )
        for one in found
    ]
    figures = ("parameters", "of full", "ms a token", "tokens/s over full")
    show(table(f"{source}, {dtype}, batch 1", ["member"], figures, rows))
    print_json([asdict(one) for one in found])


@app.command()
def memory(source: SourceArgument = "scenes-tiny", dtype: DtypeOption = "bfloat16") -> None:
    """Bytes read and memory of every member, loaded alone."""
    from eval.familial.speed import loading
    from eval.lab.terminal import show, table
    from tofc import familial

    found = [loading(source, member.name, dtype) for member in familial.family(source)]
    rows = [
        (
            one.name,
            *(f"{size / 1e6:.1f}" for size in (one.disk_bytes, one.tensor_bytes, one.peak_bytes)),
            f"{one.peak_bytes / found[-1].peak_bytes:.0%}",
            f"{one.seconds:.1f}",
        )
        for one in found
    ]
    figures = ("MB from disk", "MB of weights", "MB at most", "of full", "s")
    show(table(f"{source}, {dtype}, each loaded alone", ["member"], figures, rows))
    print_json([asdict(one) for one in found])


@app.command(hidden=True)
def load(
    source: SourceArgument, exit: Annotated[str, typer.Option()], dtype: DtypeOption = "bfloat16"
) -> None:
    """What loading one member takes, in this process."""
    from eval.familial.speed import load_here

    print_json(asdict(load_here(source, exit, _dtype(dtype))))


@app.command("random")
def random_weights(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER")],
    exits: Annotated[list[int] | None, typer.Option(help="Blocks before each branch; 5 and 11.")] = None,
) -> None:
    """Write a family of random weights of the published 0.5B shape, to measure on."""
    from eval.familial.speed import HALF_BILLION, random_family

    check_new(folder)
    print(random_family(folder, HALF_BILLION, exits or [5, 11], _dtype("bfloat16")))


def _dtype(name: Dtype) -> torch.dtype:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


if __name__ == "__main__":
    app(prog_name="python -m eval.familial")
