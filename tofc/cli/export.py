"""The commands about devices: `tofc export-device` and `tofc bench-device`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tofc.cli.options import JsonOption, RateOptions, SourceArgument
from tofc.cli.report import milliseconds, note, print_json, print_table, reports_user_errors, working
from tofc.cli.steps import load_device, load_edge, open_picture
from tofc.errors import UserError

EXAMPLES = (
    "Examples:\n\ntofc export-device scenes-tiny --out camera\n\n"
    "On the device, after pip install 'tofc\\[device]':\n\n"
    "tofc encode cat.png -o cat.tofc --model camera"
)

BENCH_EXAMPLES = (
    "Examples:\n\ntofc bench-device scenes-tiny\n\n"
    "tofc bench-device camera --picture cat.png --quality 4 --json"
)


@reports_user_errors
def bench_device(
    model: SourceArgument,
    rate: RateOptions,
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="IMAGE", help="What to encode; made up if left out.")
    ] = None,
    rounds: Annotated[
        int,
        typer.Option("--rounds", metavar="N", min=1, help="Packets after the first; medians count."),
    ] = 3,
    json_: JsonOption = False,
) -> None:
    """Measure what a model, or an export of it, costs on this machine and what a link makes of its packets.

    Peak memory is that of this whole process, Python and libraries included.
    """
    from tofc.ondevice.bench import bench_device as measure

    opened = None if picture is None else open_picture(picture, None)
    device = load_device(model)
    with working("encoding"):
        done = measure(device, opened, rounds, **rate.arguments)
    links = done.link_seconds()
    if json_:
        told = {"pictures_a_second": done.pictures_a_second, "link_seconds": links}
        print_json({"model": model, **dataclasses.asdict(done), **told})
        return
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    table.columns[1].justify = "right"
    for stage, seconds in done.seconds.items():
        table.add_row(stage, milliseconds(seconds))
    table.add_row("first packet", milliseconds(done.first))
    table.add_row("pictures a second", f"{done.pictures_a_second:.2g}")
    table.add_row("packet", f"{done.packet_bytes:,} bytes")
    table.add_row("as JPEG 90", f"{done.jpeg_bytes:,} bytes")
    for rate_, (packet, jpeg) in links.items():
        table.add_row(f"link of {rate_:g} Mbit/s", f"{milliseconds(packet)} (JPEG {milliseconds(jpeg)})")
    if done.peak_bytes is not None:
        table.add_row("peak memory", f"{done.peak_bytes / 2**20:,.0f} MiB")
    print_table(table)


@reports_user_errors
def export_device(
    model: SourceArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write; new or empty.")],
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="TYPE", help="Of the tower's weights: float32, float16 or int8."),
    ] = "float32",
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="DIR", help="Pictures on which int8 is tried, layer by layer."),
    ] = None,
    least_snr: Annotated[
        float | None,
        typer.Option(
            "--least-snr", metavar="DB", help="Layers below this stay float32 in int8 (default 30)."
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            "--ask", metavar="QUESTION", help="Count whose answers change on the --calibrate pictures."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an older export in that folder.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Write a device that needs no PyTorch: the tower as ONNX, the codec, how to prepare pixels.

    The folder goes to the device, where `tofc encode` takes it as its --model.

    Its packets are read by any edge that has the checkpoint it was made from.
    """
    from tofc.ondevice.export import export_device as export

    pictures = [] if calibrate is None else _pictures(calibrate)
    if question is not None and not pictures:
        raise UserError("--ask asks about the pictures of --calibrate DIR: give that as well")
    with working(f"exporting the device side of {model}"):
        done = export(
            model, out, precision=precision, pictures=pictures, least_snr=least_snr, replace_old=replace
        )
    changed = None if question is None else _changed_answers(model, out, pictures, question)
    files = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    if json_:
        layers = [dataclasses.asdict(loss) for loss in done.losses]
        told = {"largest_difference": done.largest_difference, "snr": done.snr, "layers": layers}
        print_json({"folder": str(out), "files": files, **told, "changed_answers": changed})
        return
    for name, size in files.items():
        note(f"{size:>12,} bytes  {name}")
    for loss in done.losses:
        note(f"{loss.snr:>9.1f} dB  {loss.name}{'  stays float32' if loss.stays_float else ''}")
    note(
        f"features differ by at most {done.largest_difference:.1e} ({done.snr:.1f} dB) from those in float32"
    )
    if changed is not None:
        note(f"{changed} of {len(pictures)} answers changed")
    typer.echo(out)


def _pictures(folder: Path) -> list[Path]:
    """The files of a folder; UserError where there are none."""
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    if not files:
        raise UserError(f"--calibrate {folder} holds no pictures: give a folder of a few JPEG or PNG files")
    return files


def _changed_answers(model: str, out: Path, pictures: list[Path], question: str) -> int:
    """How many pictures get another answer from the packets of the export than from float32 ones."""
    from tofc.device import Device

    edge = load_edge(model, "full")
    with working("asking about both"):
        devices = (load_device(model), Device.from_pretrained(out))
        pairs = [[edge.answer(d.encode(picture), question).text for d in devices] for picture in pictures]
    return sum(before != after for before, after in pairs)
