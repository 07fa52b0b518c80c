"""`tofc eval latency CONFIG`: time from a picture to an answer, stage by stage, over links of many rates."""

from __future__ import annotations

from eval.lab.terminal import Evaluation, print_summary
from tofc.cli.files import run_folder
from tofc.cli.options import ConfigArgument, JsonOption, OutOption
from tofc.config import find_config, load_yaml

app = Evaluation("Time from a picture to an answer, stage by stage, over links of many rates.")


@app.command(
    epilog="Examples:\n\ntofc eval latency latency-scenes    (a bundled configuration, by its name)\n\n"
    "tofc eval latency configs/latency-llava-onevision.yaml --out runs/latency"
)
def latency(config: ConfigArgument, out: OutOption = None, json_: JsonOption = False) -> None:
    """Time from a picture to an answer, stage by stage, over links of many rates."""
    find_config(config)  # before what is slow to import
    from eval.latency.config import LatencyConfig
    from eval.latency.run import run, tables

    settings = load_yaml(config, LatencyConfig)
    folder = run_folder(out, settings.name)
    print_summary(run(settings, folder), tables, folder, json_)


if __name__ == "__main__":
    app(prog_name="python -m eval.latency")
