"""The command `tofc export-device`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tofc.cli.options import JsonOption, SourceArgument
from tofc.cli.report import note, print_json, reports_user_errors, working

EXAMPLES = (
    "Examples:\n\ntofc export-device scenes-tiny --out camera\n\n"
    "On the device, after pip install 'tofc\\[device]':\n\n"
    "tofc encode street.jpg -o street.tofc --model camera"
)


@reports_user_errors
def export_device(
    model: SourceArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write; new or empty.")],
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

    with working(f"exporting the device side of {model}"):
        difference = export(model, out, replace=replace)
    files = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    if json_:
        print_json({"folder": str(out), "files": files, "largest_difference": difference})
        return
    for name, size in files.items():
        note(f"{size:>12,} bytes  {name}")
    note(f"features differ from torch's by at most {difference:.1e}")
    typer.echo(out)
