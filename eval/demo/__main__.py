"""`tofc eval demo`: bundled questions about pictures, through the bitstream, beside JPEG and WebP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import tofc
from eval.baselines import CodedFile
from eval.demo.drawing import draw
from eval.demo.measure import (
    LINK_BITS_PER_SECOND,
    PLAIN,
    DemoPicture,
    PictureResult,
    QuestionResult,
    demo_pictures,
    link_seconds,
    measure,
    steps,
)
from eval.lab.figures import require_matplotlib
from eval.lab.terminal import Evaluation, progress
from tofc.errors import UserError
from tofc.writing import write_json

LONGEST_ANSWER = 120

app = Evaluation("A few pictures with questions, through the bitstream, as a drawing.", extra="demo")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for demo.png.")] = Path("out"),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all figures to this file.")
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled model, checkpoint folder or hub id.")] = "photos-tiny",
    quality: Annotated[
        int | None, typer.Option(help="Quality of the packets; the model's default if left out.")
    ] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="Stop after this many pictures.")] = None,
) -> None:
    """Answer bundled questions about pictures through the bitstream, and draw what happened."""
    # Before minutes of work, not after.
    require_matplotlib("demo")
    for folder in (out, *([json_file.parent] if json_file else [])):
        _make_folder(folder)
    console = Console()
    if not console.is_terminal:
        console.width = 100  # a file or a pipe has no width of its own
    with progress() as bar:
        task = bar.add_task("opening the pictures", total=None)
        chosen = demo_pictures()[:pictures]
        bar.update(task, description="loading the model")
        device = tofc.Device.from_pretrained(model)
        edge = tofc.Edge.from_pretrained(model)
        quality = device.config.default_quality if quality is None else quality
        _warm_up(device, edge, chosen[0], quality)
        bar.update(task, total=sum(map(steps, chosen)))
        results: list[PictureResult] = []
        for picture in chosen:
            bar.update(task, description=f"asking about {picture.name}")
            results.append(measure(device, edge, picture, quality, lambda: bar.advance(task)))
    for result in results:
        print_picture(console, result)
    print_summary(console, results)
    figure = out / "demo.png"
    draw(results, figure, _title(results), notes(results))
    console.print(f"\npicture: {figure}")
    if json_file is not None:
        write_json(json_file, _as_json(model, results))
        console.print(f"figures: {json_file}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; name another folder") from None


def _warm_up(device: tofc.Device, edge: tofc.Edge, picture: DemoPicture, quality: int) -> None:
    """Go once through everything that is compiled or allocated on first use, so that times are of work."""
    edge.answer(device.encode(picture.image, quality=quality), next(iter(picture.questions)))


def _title(results: list[PictureResult]) -> str:
    sizes = [result.num_bytes for result in results]
    span = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    return f"Questions about pictures, answered from {span} bytes each"


def _as_json(model: str, results: list[PictureResult]) -> dict[str, object]:
    return {
        "model": model,
        "notes": notes(results),
        "pictures": [result.as_json() for result in results],
    }


def print_picture(console: Console, result: PictureResult) -> None:
    """Print the questions and answers about one picture, its bytes and the time of every stage."""
    console.print()
    console.rule(
        f"[bold]{result.name}[/bold]  {result.image.width} x {result.image.height}",
        align="left",
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("question", ratio=3)
    table.add_column("answer", style="bold", ratio=1)
    table.add_column("truth")
    for codec in result.baselines:
        table.add_column(f"{codec} bytes", justify="right", no_wrap=True)
    for question in result.questions:
        table.add_row(
            question.prompt,
            shorten(question.answer, LONGEST_ANSWER) or "(nothing)",
            _truth(question),
            *(_size(point) for point in question.baselines.values()),
        )
    table.add_section()
    table.add_row("all of them at once", "", "", *(_size(point) for point in result.baselines.values()))
    console.print(table)
    parts = " + ".join(f"{name} {size}" for name, size in result.sections.items())
    console.print(
        f"[bold]{result.num_bytes} bytes travelled[/bold], once for all the questions: "
        f"{result.num_tokens} tokens at quality {result.quality} ({parts})"
    )
    console.print(Text(f"time  device: {_stages(result.seconds)}"))
    console.print(
        f"      link: {_milliseconds(link_seconds(result.num_bytes))} ms computed for "
        f"{LINK_BITS_PER_SECOND // 1000} kbit/s; nothing was sent"
    )
    for number, question in enumerate(result.questions, start=1):
        console.print(Text(f"      edge, question {number}: {_stages(question.seconds)}"))


def print_summary(console: Console, results: Sequence[PictureResult]) -> None:
    """Print bytes and right answers of all pictures, and what the figures do and do not say."""
    console.print()
    console.rule("[bold]all pictures[/bold]", align="left")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("picture")
    table.add_column("right", justify="right")
    table.add_column("TOFC bytes", justify="right", style="bold")
    for codec in results[0].baselines:
        table.add_column(f"{codec}, same answers", justify="right", no_wrap=True)
    table.add_column(PLAIN, justify="right", style="dim")
    for result in results:
        table.add_row(
            result.name,
            f"{sum(question.right for question in result.questions)} of {len(result.questions)}",
            f"{result.num_bytes:,}",
            *(_size(point, result.num_bytes) for point in result.baselines.values()),
            f"{result.reference_sizes[PLAIN]:,}",
        )
    console.print(table)
    console.print("[dim]q: quality of that file. Times were taken after a warm-up.[/dim]")
    for note in notes(results):
        console.print(f"[dim]{note}[/dim]")


def notes(results: Sequence[PictureResult]) -> list[str]:
    """Say what the bytes mean, in sentences that hold for these results."""
    lines = [
        "JPEG and WebP, same answers: the smallest file, of the qualities tried and at the picture's own "
        "size, from which the same model gives the same answers as from the packet. A picture that is scaled "
        "down first may take less.",
        "Bytes are all that travels, headers included; one packet serves every question about its picture.",
    ]
    lines.append(
        "The model is small and has seen few photographs, and none of these: some answers are wrong."
    )
    if any(point is None for result in results for point in result.baselines.values()):
        lines.append("At no quality: no image file tried led to all of these answers at once.")
    return lines


def _truth(question: QuestionResult) -> Text:
    if question.right:
        return Text("right", style="green")
    return Text(f"wrong: {question.truth}", style="red")


def _size(point: CodedFile | None, ours: int | None = None) -> str:
    if point is None:
        return "at no quality"
    if ours is None:
        return f"{point.num_bytes:,} (q{point.quality})"
    return f"{point.num_bytes:,} ({point.num_bytes / ours:.1f}x)"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if seconds >= 0.01 else f"{1000 * seconds:.1f}"


def _stages(seconds: dict[str, float]) -> str:
    return ", ".join(f"{stage} {_milliseconds(value)} ms" for stage, value in seconds.items())


if __name__ == "__main__":
    app()
