"""`tofc eval demo`: bundled questions about pictures, through the bitstream, beside JPEG and WebP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import tofc
from eval.demo.drawing import draw
from eval.demo.measure import DemoPicture, PictureResult, demo_pictures, measure, steps
from eval.demo.table import notes, print_picture, print_summary
from eval.lab.figures import require_matplotlib
from eval.lab.terminal import evaluation, progress
from tofc.cli.report import reports_user_errors
from tofc.errors import UserError, needs_extra
from tofc.writing import write_json

app = evaluation("A few pictures with questions, through the bitstream, as a drawing.")


@app.command()
@reports_user_errors
@needs_extra("demo")
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


if __name__ == "__main__":
    app()
