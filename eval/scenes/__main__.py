"""`tofc eval scenes`: look at the embedded benchmark, export it, or let a checkpoint answer it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eval.asking import answering
from eval.lab.terminal import Evaluation, LimitOption

if TYPE_CHECKING:
    from eval.asking.answering import PipelineAnswerer
    from eval.scenes.scoring import Scored

app = Evaluation("The scenes benchmark: look at it, export it, or let a checkpoint answer it.")

SplitOption = Annotated[Literal["train", "validation", "test", "heldout"], typer.Option("--split")]


@app.command()
def show(
    index: Annotated[int, typer.Argument(min=0, metavar="INDEX")],
    save: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Write the picture too.")] = None,
    split: SplitOption = "test",
) -> None:
    """Print a scene, its questions and its description."""
    from PIL import Image

    from eval.scenes.questions import benchmark_questions
    from eval.scenes.world import make_scene
    from tofc.writing import whole_file

    scene, pixels, _ = make_scene(split, index)
    print(f"{scene.split} {scene.index}: {scene.width}x{scene.height}, {scene.light}, {scene.ground}")
    for thing in scene.things:
        words = " ".join(part for part in (thing.colour, thing.kind, thing.text) if part)
        print(f"  {words:24} box {thing.box}  area {thing.area}  foot {thing.base}")
    for question in benchmark_questions(scene):
        held_out = " (held out)" if question.held_out else ""
        print(f"[{question.form}/{question.category}]{held_out} {question.prompt}\n    -> {question.answer}")
    if save is not None:
        with whole_file(save) as draft:
            Image.fromarray(pixels).save(draft, "PNG")


@app.command()
def sheet(
    out: Annotated[Path, typer.Option(metavar="FILE.png")],
    count: Annotated[int, typer.Option(min=1)] = 12,
    split: SplitOption = "test",
) -> None:
    """A contact sheet of pictures with a question each."""
    from eval.lab.terminal import track
    from eval.scenes.export import contact_sheet
    from tofc.writing import whole_file

    image = contact_sheet(split, track(range(count), count, "scenes"), count)
    with whole_file(out) as draft:
        image.save(draft, "PNG")
    print(out)


@app.command()
def export(
    out: Annotated[Path, typer.Option(metavar="DIR")], limit: LimitOption = 200, split: SplitOption = "test"
) -> None:
    """Write RealWorldQA and MME parquet files, from which lmms-eval runs offline."""
    from eval.asking.export import COLUMNS, PARQUET
    from eval.lab.terminal import track
    from eval.scenes.export import export_split

    for _ in track(export_split(out, split, limit), limit, "scenes"):
        pass
    for name in COLUMNS:
        print(out / name / PARQUET)


@app.command()
def accuracy(
    model: answering.ModelOption = "scenes-tiny",
    tokens: answering.TokensOption = "all",
    quality: answering.QualityOption = "none",
    limit: LimitOption = 500,
    json_file: answering.NumbersOption = None,
    split: SplitOption = "test",
) -> None:
    """Let a checkpoint answer the benchmark: accuracy by form and category, with intervals."""
    from eval.lab.terminal import show as show_tables
    from eval.scenes.scoring import accuracy_table, held_out_table, summary
    from tofc.writing import write_json

    answerer = answering.answerer(model, tokens, quality)
    scored = _answered(answerer, split, limit)
    sizes = list(answerer.sizes)
    heldout = _answered(answerer, "heldout", limit) if split == "test" else []
    result: dict[str, Any] = {
        "checkpoint": model,
        "split": split,
        "scenes": limit,
        "tokens": tokens,
        "quality": None if quality == "none" else int(quality),
        "bytes_per_picture": sum(sizes) / len(sizes) if sizes else None,
        **summary(scored, heldout),
    }
    show_tables(accuracy_table(result), pictures=limit)
    scores = ", ".join(f"{name} {value:.1f}" for name, value in result["mme"].items())
    print(f"MME score (0 to 200): {scores}")
    if result["held_out"]:
        show_tables(held_out_table(result["held_out"]))
    if json_file is not None:
        write_json(json_file, result)


def _answered(answerer: PipelineAnswerer, split: str, scenes: int) -> list[Scored]:
    from eval.lab.terminal import track
    from eval.scenes.scoring import answer_scenes

    parts = track(answer_scenes(answerer, split, scenes), scenes, f"{split} scenes")
    return [one for part in parts for one in part]


if __name__ == "__main__":
    app(prog_name="python -m eval.scenes")
