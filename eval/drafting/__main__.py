"""`tofc eval drafting`: device, edge and cloud together: their speed, and that answers stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eval.lab.commands import evaluation, needs_extra, print_summary, run_folder
from tofc.cli_report import ConfigArgument, JsonOption, OutOption, note, print_json, reports_user_errors
from tofc.config import load_yaml

app = evaluation("Device, edge and cloud together: tokens a second, equal answers, states on the wire.")


@app.command(
    epilog="Examples:\n\ntofc eval drafting measure decoding-scenes    (a bundled configuration)\n\n"
    "tofc eval drafting measure mine.yaml --out runs/drafting"
)
@reports_user_errors
@needs_extra("eval,serve")
def measure(config: ConfigArgument, out: OutOption = None, json_: JsonOption = False) -> None:
    """Tokens a second of device, edge and cloud together and alone, over links of several round trips."""
    from eval.drafting.config import DraftingConfig
    from eval.drafting.measure import run
    from eval.drafting.table import tables

    settings = load_yaml(config, DraftingConfig)
    folder = run_folder(out, settings.name)
    print_summary(run(settings, folder), tables, folder, json_)


@app.command()
@reports_user_errors
@needs_extra("eval,serve")
def equality(
    model: Annotated[str, typer.Option(help="A checkpoint with a family.")] = "scenes-tiny",
    scenes: Annotated[int, typer.Option(min=1, help="Of the test split.")] = 500,
    members: Annotated[str, typer.Option(help="Such as e1,e2-50,full, in any order; else all.")] = "",
    prompt: Annotated[str, typer.Option()] = "Describe the picture.",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 80,
    apart: Annotated[
        bool, typer.Option("--apart", help="Each tier by itself, with states of drafts that travel as bytes.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="A JSON file for what was found.")] = None,
) -> None:
    """Are drafted answers the verifier's own? Exit code 1 where a greedy answer differs."""
    from eval.drafting.equality import EqualitySettings, check
    from eval.lab.files import write_json

    names = tuple(filter(None, members.split(",")))
    for done, found in check(EqualitySettings(model, scenes, names, prompt, max_new_tokens, apart)):
        note(f"{done} scenes, {len(found.unequal)} answers differ")
    for group, tally in found.tallies.items():
        share = 100 * tally.stood / max(1, tally.sent)
        print(f"{' > '.join(group):28} {tally.equal}/{scenes} equal, {share:.0f} % of drafts stood")
    print_json(found.as_json(scenes))
    if out is not None:
        write_json(out, found.as_json(scenes))
    raise typer.Exit(int(bool(found.unequal)))


@app.command()
@reports_user_errors
@needs_extra("eval,serve")
def states(
    config: Annotated[str, typer.Option(help="Names the model and the large shapes.")] = "decoding-scenes",
    repeats: Annotated[int, typer.Option(min=1, help="Passes of each kind that are timed.")] = 60,
) -> None:
    """From which link rate on should states of shared blocks travel with drafts?"""
    from eval.drafting.config import DraftingConfig
    from eval.drafting.states import report
    from eval.lab.tables import show

    table, told = report(load_yaml(config, DraftingConfig), repeats)
    show(table)
    print_json(told)


if __name__ == "__main__":
    app(prog_name="python -m eval.drafting")
