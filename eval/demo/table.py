"""The demo's words: one table for every picture, and a summary at the end."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.baselines import CodedFile
from eval.demo.measure import LINK_BITS_PER_SECOND, PLAIN, PictureResult, QuestionResult, link_seconds

LONGEST_ANSWER = 120


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
