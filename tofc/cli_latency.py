"""The command `tofc eval latency`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tofc.cli_report import print_evaluation, reports_user_errors
from tofc.errors import UserError

LATENCY_EXAMPLES = (
    "Examples:\n\ntofc eval latency latency-scenes    (a bundled configuration, by its name)\n\n"
    "tofc eval latency configs/latency-llava-onevision.yaml --out runs/latency"
)


@reports_user_errors
def latency(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a bundled configuration.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where results go, else runs/NAME.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")
    ] = False,
) -> None:
    """Time from a picture to an answer, stage by stage, over links of many rates."""
    from tofc.config import load_yaml

    try:
        from eval.latency.config import LatencyConfig
        from eval.latency.run import run
        from eval.latency.table import tables
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; evaluation needs an extra: pip install 'tofc[eval]'"
        ) from None
    settings = load_yaml(config, LatencyConfig)
    folder = out if out is not None else Path("runs") / settings.name
    print_evaluation(run(settings, folder), tables, folder, json_)
