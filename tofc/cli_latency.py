"""The command `tofc eval latency`."""

from __future__ import annotations

from pathlib import Path

from tofc.cli_report import ConfigArgument, JsonOption, OutOption, print_evaluation, reports_user_errors
from tofc.errors import UserError

LATENCY_EXAMPLES = (
    "Examples:\n\ntofc eval latency latency-scenes    (a bundled configuration, by its name)\n\n"
    "tofc eval latency configs/latency-llava-onevision.yaml --out runs/latency"
)


@reports_user_errors
def latency(
    config: ConfigArgument,
    out: OutOption = None,
    json_: JsonOption = False,
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
