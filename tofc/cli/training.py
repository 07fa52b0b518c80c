"""The commands that make checkpoints: `tofc pretrain`, `train` and `train-familial`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from tofc.cli.files import check_new, run_folder
from tofc.cli.options import ConfigArgument, JsonOption
from tofc.cli.report import print_json, print_table, reports_user_errors, working
from tofc.cli.steps import quieten_libraries
from tofc.config import CONFIG_NAME, find_config, load_yaml
from tofc.errors import UserError, needs_extra

if TYPE_CHECKING:
    from tofc.training.settings import CodedRunConfig

C = TypeVar("C", bound="CodedRunConfig")

PRETRAIN_EXAMPLES = (
    "Examples:\n\ntofc pretrain configs/scenes-tiny.yaml\n\n"
    "tofc pretrain scenes-tiny --out runs/again    (a bundled configuration, by its name)"
)
TRAIN_EXAMPLES = (
    "Examples:\n\ntofc train first-codec --out runs/mine    (small: few steps)\n\n"
    "tofc ask cat.png 'Is there a bus?' --model runs/mine"
)


FAMILIAL_EXAMPLES = (
    "Examples:\n\ntofc train-familial first-family --out runs/family    (small: few steps)\n\n"
    "tofc ask cat.png 'Is there a bus?' --model runs/family --exit e2-50"
)

IMPORT_EXAMPLES = (
    "Examples:\n\ntofc import-tower openai/clip-vit-large-patch14-336 runs/clip --layer -2\n\n"
    "tofc import-tower ViT-L-14.safetensors runs/clip --architecture ViT-L-14-336 --quick-gelu"
)
MERGE_EXAMPLES = "Example:\n\ntofc merge runs/llava-onevision-0.5b runs/llava-onevision-0.5b-merged"

CheckpointOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where the checkpoint goes, else runs/NAME."),
]


EstimateOption = Annotated[
    bool, typer.Option("--estimate", help="Train nothing: show what memory and GPU hours it would take.")
]


@reports_user_errors
def pretrain(
    config: ConfigArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="The run's folder, else runs/NAME; a run that stands there goes on."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Train a small vision-language model from nothing; after a kill it goes on where it last saved."""
    find_config(config)
    with needs_extra("train", "training needs"):
        from tofc.training.pretrain import run
        from tofc.training.pretrain_settings import PretrainConfig
    settings = load_yaml(config, PretrainConfig)
    report_folder(run(settings, run_folder(out, settings.name), _console()), json_)


@reports_user_errors
def train(
    config: ConfigArgument,
    out: CheckpointOption = None,
    estimate_: EstimateOption = False,
    json_: JsonOption = False,
) -> None:
    """Train a codec for a base model, and write both as a checkpoint for `--model`."""
    find_config(config)
    with needs_extra("train", "training needs"):
        from tofc.training.codec import run
        from tofc.training.settings import TrainConfig
    _train(config, TrainConfig, run, estimate_, out, json_)


@reports_user_errors
def train_familial(
    config: ConfigArgument,
    out: CheckpointOption = None,
    estimate_: EstimateOption = False,
    json_: JsonOption = False,
) -> None:
    """Train smaller members of a checkpoint's language model; after a kill it goes on where it last saved."""
    find_config(config)
    with needs_extra("train", "training needs"):
        from tofc.training.family_settings import FamilyConfig
        from tofc.training.hpcd import run
    _train(config, FamilyConfig, run, estimate_, out, json_)


def _train(
    config: str,
    settings_class: type[C],
    run: Callable[[C, Path, Console], Path],
    only_estimate: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Runs what the configuration says and reports the checkpoint, or shows what it would take."""
    settings = load_yaml(config, settings_class)
    if not only_estimate:
        folder = checkpoint_folder(out, find_config(config).stem)
        report_folder(run(settings, folder, _console()), as_json)
        return
    from tofc.training.estimate import estimate, estimate_table

    with working("counting what a pass takes"):
        found = estimate(settings)
    if as_json:
        print_json({**asdict(found), "memory": found.memory, "hours": found.hours})
    else:
        print_table(estimate_table(found))


@reports_user_errors
def merge(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint that holds adapters/.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the new checkpoint goes.")],
    json_: JsonOption = False,
) -> None:
    """Add a checkpoint's adapters to its base, which the new checkpoint then holds whole."""
    folder = checkpoint_folder(out, out.name)
    with working("reading the base"):
        from tofc.model import merge_checkpoint

        quieten_libraries()
        made = merge_checkpoint(source, folder)
    report_folder(made, json_)


@reports_user_errors
def import_tower(
    source: Annotated[
        str, typer.Argument(metavar="TOWER", help="A folder or hub id of a tower, or an open_clip file.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the base goes; a new folder.")],
    language: Annotated[
        str, typer.Option("--language", metavar="BASE", help="A LLaVA-OneVision model: its language model.")
    ] = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    architecture: Annotated[
        str | None, typer.Option("--architecture", metavar="NAME", help="Of an open_clip file: ViT-L-14-336.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", metavar="N", help="Hidden state that is seen; LLaVA-1.5: -2.")
    ] = None,
    quick_gelu: Annotated[bool, typer.Option("--quick-gelu", help="Trained so, as OpenAI's were.")] = False,
    json_: JsonOption = False,
) -> None:
    """Put a vision tower before a language model, as a base for `tofc train`; the projector is new."""
    check_new(out)
    with working("reading tower and language model"), needs_extra("train", "training needs"):
        from tofc.training.import_tower import TowerSource
        from tofc.training.import_tower import import_tower as write

        quieten_libraries()
        folder = write(TowerSource(source, architecture, layer, quick_gelu), language, out)
    report_folder(folder, json_)


def checkpoint_folder(out: Path | None, name: str) -> Path:
    """Where a checkpoint may be written: a new or empty folder, or an older checkpoint's; else UserError."""
    folder = run_folder(out, name)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG_NAME).is_file():
        raise UserError(f"--out {folder} holds something else than a checkpoint; name a new folder")
    return folder


def _console() -> Console:
    """Where a run says how far it is, without the bars of libraries between."""
    quieten_libraries()
    return Console(stderr=True)


def report_folder(checkpoint: Path, as_json: bool) -> None:
    """Prints where the checkpoint lies."""
    if as_json:
        print_json({"folder": str(checkpoint)})
    else:
        typer.echo(checkpoint)
