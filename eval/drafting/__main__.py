"""`tofc eval drafting`: device, edge and cloud together: their speed, and that answers stay the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from eval.lab.terminal import Evaluation, print_summary, show, table
from tofc.cli.files import run_folder
from tofc.cli.options import ConfigArgument, JsonOption, OutOption
from tofc.cli.report import note, print_json
from tofc.config import find_config, load_yaml

if TYPE_CHECKING:
    from eval.drafting.capacity import CountedLoad

app = Evaluation(
    "Device, edge and cloud together: tokens a second, equal answers, states on the wire.", extra="eval,serve"
)


@app.command(
    epilog="Examples:\n\ntofc eval drafting measure decoding-scenes    (a bundled configuration)\n\n"
    "tofc eval drafting measure mine.yaml --out runs/drafting"
)
def measure(config: ConfigArgument, out: OutOption = None, json_: JsonOption = False) -> None:
    """Tokens a second of device, edge and cloud together and alone, over links of several round trips."""
    find_config(config)  # before what is slow to import
    from eval.drafting.measure import run
    from eval.drafting.tiers import DraftingConfig

    settings = load_yaml(config, DraftingConfig)
    folder = run_folder(out, settings.name)
    print_summary(run(settings, folder), _tables, folder, json_)


@app.command()
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
    from tofc.writing import write_json

    names = tuple(filter(None, members.split(",")))
    for done, found in check(EqualitySettings(model, scenes, names, prompt, max_new_tokens, apart)):
        note(f"{done} scenes, {len(found.unequal)} answers differ")
    for group, tally in found.tallies.items():
        share = 100 * tally["stood"] / max(1, tally["sent"])
        print(f"{' > '.join(group):28} {tally['equal']}/{scenes} equal, {share:.0f} % of drafts stood")
    print_json(found.as_json(scenes))
    if out is not None:
        write_json(out, found.as_json(scenes))
    raise typer.Exit(int(bool(found.unequal)))


@app.command()
def states(
    config: Annotated[str, typer.Option(help="Names the model and the large shapes.")] = "decoding-scenes",
    repeats: Annotated[int, typer.Option(min=1, help="Passes of each kind that are timed.")] = 60,
) -> None:
    """From which link rate on should states of shared blocks travel with drafts?"""
    from eval.drafting.states import report
    from eval.drafting.tiers import DraftingConfig

    passes, told = report(load_yaml(config, DraftingConfig), repeats)
    show(passes)
    print_json(told)


@app.command()
def capacity(
    config: Annotated[str, typer.Option(help="Names the model and the large shapes.")] = "decoding-scenes",
    draft: Annotated[
        list[str] | None, typer.Option("--draft", metavar="MEMBER", help="Once for each; else e1, e2-50.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, metavar="N", help="Devices that ask at once.")] = 16,
    pictures: Annotated[int, typer.Option(min=1, metavar="N")] = 12,
    json_: JsonOption = False,
) -> None:
    """What a saturated edge serves, with devices that draft and without: really, and at large shapes."""
    from dataclasses import asdict

    from eval.drafting.capacity import count_load, counted_table, serve_load, served_table
    from eval.drafting.tiers import DraftingConfig

    settings = load_yaml(config, DraftingConfig)
    served = list(serve_load(settings.model, draft or ("e1", "e2-50"), clients, pictures))
    counted: list[CountedLoad] = []
    if (large := settings.counted) is not None:
        for shape in large.shapes[1:]:
            counted += count_load(shape, large.rates, large.context, (1, 8, 32, 128, 512), settings.shares)
    if json_:
        print_json({"served": [asdict(row) for row in served], "counted": [asdict(row) for row in counted]})
        return
    show(served_table(settings.model, clients, served))
    for name in dict.fromkeys(load.model for load in counted):
        show(counted_table([load for load in counted if load.model == name]))


@app.command(
    epilog="Example:\n\ntofc eval drafting text math500.jsonl --tier models/1.5B --tier models/7B",
    extra="eval",
)
def text(
    prompts: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines: problem (or prompt), answer.")],
    tier: Annotated[
        list[str],
        typer.Option(
            "--tier", metavar="MODEL[@EXIT]", help="A causal model or a member of a family; smallest first."
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, help="The first N prompts.")] = 500,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 512,
    drafts: Annotated[int | None, typer.Option(min=1, help="A round; planned if left out.")] = None,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """Text without pictures: each tier alone, and two or three together, as in the paper's table I."""
    from dataclasses import asdict

    from eval.drafting.text import compare, read_prompts, text_table
    from tofc.writing import write_json

    asked = read_prompts(prompts, limit)
    rows = list(compare(tier, asked, max_new_tokens, drafts))
    found = {"prompts": len(asked), "rows": [{**asdict(row), "tokens_per_second": row.rate} for row in rows]}
    if out is not None:
        write_json(out / "text.json", found)
    if json_:
        print_json(found)
        return
    show(text_table(rows, len(asked)))


def _tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    """Systems at each round trip; then two and three tiers at the paper's and at counted speeds."""
    yield _measured(summary)
    rows = summary["published"]
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        title = (
            f"{benchmark}, simulated with the speeds of the paper's tiers: times as fast as the top one alone"
        )
        yield _simulated(title, [row for row in rows if row["benchmark"] == benchmark])
    if "counted" in summary:
        names = [shape["name"] for shape in summary["config"]["counted"]["shapes"]]
        alone = ", ".join(
            f"{name} {rate:.0f}" for name, rate in zip(names, summary["counted"][0]["alone"], strict=True)
        )
        yield _simulated(f"counted passes ({alone} tokens/s alone): times as fast", summary["counted"])


def _measured(summary: Mapping[str, Any]) -> Table:
    found, config = summary["measured"], summary["config"]
    title = (
        f"{config['model']}: {config['draft']} drafts, {100 * found['agreement']:.0f} % of its tokens would "
        f"stand; alone it says {found['device_alone_tokens_per_second']:.0f} tokens/s"
    )
    columns = (
        "round trip",
        "tokens/s",
        "of edge alone",
        "drafts a round",
        "with states",
        "bytes a token",
        "equal",
        "simulated/measured",
    )
    rows = []
    for row in found["rows"]:
        ratio = row.get("simulated_over_measured")
        rows.append(
            (
                row["system"],
                f"{row['round_trip_ms']:g} ms",
                f"{row['tokens_per_second']:.1f}",
                f"{row['of_edge_alone']:.2f}",
                f"{row['stood_per_round']:.1f}",
                f"{100 * row['with_states']:.0f} %",
                f"{row['uplink_bytes_per_token']:.0f}",
                f"{row['equal_to_edge_alone']}/{row['answers']}",
                "" if ratio is None else f"{ratio:.2f}",
            )
        )
    return table(title, ["system"], columns, rows)


def _simulated(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    shares = list(dict.fromkeys(row["share"] for row in rows))
    lines = []
    for tiers in ("two", "three"):
        for parallel in (False, True):
            cells = [row for row in rows if (row["tiers"], row["parallel"]) == (tiers, parallel)]
            paper = cells[0].get("paper") if cells else None
            lines.append(
                (
                    f"{tiers}, {'in parallel' if parallel else 'in turn'}",
                    *(f"{row['ratio']:.2f}" for row in cells),
                    "" if paper is None else f"{paper:.2f}",
                )
            )
    return table(title, ["tiers"], [*(f"{100 * share:g} % stand" for share in shares), "paper"], lines)


if __name__ == "__main__":
    app(prog_name="python -m eval.drafting")
