"""The command that trains a family: `tofc train-familial`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tofc.cli_report import reports_user_errors
from tofc.cli_training import ConfigArgument, JsonOption, checkpoint_folder, missing_extra, report_folder

TRAIN_FAMILIAL_EXAMPLES = (
    "Examples:\n\ntofc train-familial scenes-tiny-family --out runs/family\n\n"
    "tofc ask street.jpg 'Is there a bus?' --model runs/family --exit e2-50"
)


@reports_user_errors
def train_familial(
    config: ConfigArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where the checkpoint goes. [runs/ and CONFIG's name]"),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Train smaller members of a checkpoint's language model; after a kill it goes on where it last saved."""
    from rich.console import Console

    from tofc.config import find_config, load_yaml

    try:
        from tofc.familial.training.settings import FamilyConfig
        from tofc.familial.training.train import run
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None
    settings = load_yaml(config, FamilyConfig)
    folder = checkpoint_folder(out, find_config(config).stem)
    report_folder(run(settings, folder, Console(stderr=True)), json_)
