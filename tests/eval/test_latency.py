"""Whole latency runs on tiny models, what their files say, and what their configurations refuse."""

from __future__ import annotations

import copy
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import tofc
from eval.asking.answering import SweepData
from eval.bench import merging
from eval.lab.rows import read_rows, write_rows
from eval.latency import rows as figure
from eval.latency.assemble import Picture, assemble
from eval.latency.config import LatencyConfig
from eval.latency.link import Link
from eval.latency.rows import MEASURED, MODELLED, STAGES, StageRow, summarise
from eval.latency.run import load_pictures, run
from tofc.cli.app import app
from tofc.config import from_mapping, load_yaml
from tofc.errors import ConfigError, UserError

SYSTEMS = [
    {"name": "TOFC", "kind": "tofc", "quality": 4, "tokens": 12},
    {"name": "WebP", "kind": "webp", "quality": 75},
    {"name": "JPEG w/ FMM", "kind": "jpeg", "quality": 75, "tokens": 12},
    {"name": "raw", "kind": "features", "tiling": "base"},
]
RATES = {
    "tflops": 10.0, "float64_tflops": 0.1, "utilisation": 0.5,
    "gigabytes": 100.0, "bandwidth_utilisation": 0.5,
}  # fmt: skip
BASIC: dict[str, Any] = {
    "name": "tiny", "systems": SYSTEMS, "reference": "WebP", "limit": 2,
    "device": {"name": "device"}, "server": {"name": "server"},
    "link": {"mbit": [0.1, 1, 100], "round_trip_ms": 30, "loss": 0.01}, "figure_mbit": [1, 100],
    "answer_tokens": 3, "text_tokens": 10, "repeats": 1, "warm_up": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, make_picture) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        make_picture(100, 70, number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def measured_config(checkpoint_folder: Path, pictures: Path) -> dict[str, Any]:
    model = {"name": "tiny", "checkpoint": str(checkpoint_folder)}
    return {**copy.deepcopy(BASIC), "models": [model], "pictures": str(pictures)}


@pytest.fixture(scope="module")
def recipe(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    codec = {"width": 32, "hyper": 4, "analysis_hidden": 16, "synthesis_hidden": 16, "router_hidden": 8}
    file.write_text(yaml.safe_dump({"base": str(base_folder), "codec": codec, "data": {"source": "no:Data"}}))
    return file


@pytest.fixture(scope="module")
def measured(measured_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    run(from_mapping(LatencyConfig, measured_config, "test"), folder)
    return folder


@pytest.fixture(scope="module")
def counted(
    measured_config: dict[str, Any], recipe: Path, checkpoint_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    folder = tmp_path_factory.mktemp("counted")
    paper = {"networks": "paper", "rates": RATES}
    values = {
        **measured_config,
        "models": [{"name": "tiny", "recipe": str(recipe), "bytes_of": str(checkpoint_folder)}],
        "device": {"name": "device", **paper, "processor_factor": 2.0, "merging": "processor"},
        "server": {"name": "server", **paper},
    }
    run(from_mapping(LatencyConfig, values, "test"), folder)
    return folder


def stages_of(rows: list[StageRow], system: str) -> dict[str, str]:
    return {row.stage: row.basis for row in rows if row.system == system and row.mbit == 1}


def test_what_is_measured_and_what_is_modelled(measured: Path) -> None:
    rows = read_rows(measured / "latency.csv", StageRow)
    for row in rows:
        assert row.basis == (MODELLED if row.stage.startswith("link") else MEASURED)
    assert {row.picture for row in rows} == {"0.png", "1.png"}
    common = {"device code", "link uplink", "link round trip", "server decode", "server project",
              "server prefill", "server next tokens"}  # fmt: skip
    on_the_device = {"device preprocess", "device vision"}
    on_the_server = {"server preprocess", "server vision"}
    assert set(stages_of(rows, "TOFC")) == common | on_the_device | {"device merge"}
    assert set(stages_of(rows, "WebP")) == common | on_the_server
    assert set(stages_of(rows, "JPEG w/ FMM")) == common | on_the_server | {"server merge"}
    assert set(stages_of(rows, "raw")) == common | on_the_device


def test_what_is_counted_and_what_is_measured(counted: Path) -> None:
    rows = read_rows(counted / "latency.csv", StageRow)
    tofc = stages_of(rows, "TOFC")
    assert {stage for stage, basis in tofc.items() if basis == MEASURED} == {"server decode"}
    merging = {row.how for row in rows if row.stage.endswith("merge")}
    assert all("TFLOP/s" in how or "GB/s" in how or how.endswith("times 2") for how in merging)
    assert any(how.endswith("times 2") for how in merging)
    assert set(stages_of(rows, "JPEG w/ FMM")) >= {"server vision", "server merge"}


def test_bytes_and_tokens(measured: Path, counted: Path) -> None:
    for folder in (measured, counted):
        rows = read_rows(folder / "latency.csv", StageRow)
        assert {row.visual_tokens for row in rows if row.system in ("TOFC", "JPEG w/ FMM")} == {12}
        assert {row.num_bytes for row in rows if row.system == "raw"} == {36 * 32 * 2}
        sizes = {row.num_bytes for row in rows if row.system == "TOFC"}
        assert max(sizes) < 36 * 32 * 2
    # The recipe's codec is as wide as the trained one: as many bytes, for the checkpoint's own single tile.
    trained = [
        {
            row.picture: row.num_bytes
            for row in read_rows(folder / "latency.csv", StageRow)
            if row.system == "WebP"
        }
        for folder in (measured, counted)
    ]
    assert trained[0] == trained[1]


def test_every_bar_follows_from_the_rows(measured: Path, counted: Path) -> None:
    """An independent recomputation, from the CSV file alone."""
    for folder in (measured, counted):
        with (folder / "latency.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        summary = json.loads((folder / "latency.json").read_text())
        assert len(summary["bars"]) == 4 * 3
        for bar in summary["bars"]:
            mine = [r for r in rows if r["system"] == bar["system"] and float(r["mbit"]) == bar["mbit"]]
            total = sum(float(r["seconds"]) for r in mine) / 2
            last = sum(float(r["seconds"]) for r in mine if r["stage"] == "server next tokens") / 2
            assert bar["answer"] == pytest.approx(total, rel=1e-12)
            assert bar["first_token"] == pytest.approx(total - last, rel=1e-9)
            assert sum(p["seconds"] for p in bar["parts"].values()) == pytest.approx(bar["answer"])
            assert bar["num_bytes"] == pytest.approx(sum(int(r["num_bytes"]) for r in mine) / len(mine))
        reference = {b["mbit"]: b["first_token"] for b in summary["bars"] if b["system"] == "WebP"}
        for bar in summary["bars"]:
            assert bar["of_reference"] == pytest.approx(bar["first_token"] / reference[bar["mbit"]])


def test_random_weights_are_measured_too(
    measured_config: dict[str, Any], recipe: Path, checkpoint_folder: Path, tmp_path: Path
) -> None:
    """What a GPU runs at published shapes, here on the processor: tower and language model in full."""
    model = {"name": "tiny", "recipe": str(recipe), "bytes_of": str(checkpoint_folder)}
    values = {**measured_config, "models": [model], "limit": 1, "systems": SYSTEMS[:2]}
    run(from_mapping(LatencyConfig, values, "test"), tmp_path)
    for row in read_rows(tmp_path / "latency.csv", StageRow):
        assert row.basis == (MODELLED if row.stage.startswith("link") else MEASURED)


def test_transmission_is_that_of_the_link_model(measured: Path) -> None:
    for row in read_rows(measured / "latency.csv", StageRow):
        link = Link(row.mbit, 0.03, 0.01)
        if row.stage == "link uplink":
            assert row.seconds == link.uplink(row.num_bytes)
        if row.stage == "link round trip":
            assert row.seconds == 0.03


def test_the_figure_draws_modelled_parts_hatched(counted: Path, tmp_path: Path) -> None:
    assert (counted / "latency.png").read_bytes().startswith(b"\x89PNG")
    svg = (counted / "latency.svg").read_text()
    for text in ("TOFC", "1 Mbit/s", "server: prefill", figure.MEASURED_LABEL, "counted"):
        assert text in svg
    summary = json.loads((counted / "latency.json").read_text())
    for part in (p for bar in summary["bars"] for p in bar["parts"].values()):
        part["basis"] = MEASURED
    figure.draw(summary, tmp_path)
    # Each hatch is a pattern of its own colour; without modelled parts the legend's alone is left.
    assert svg.count('fill="url(#') + svg.count("fill: url(#") > 10
    plain = (tmp_path / "latency.svg").read_text()
    assert plain.count('fill="url(#') + plain.count("fill: url(#") == 1


def test_every_stage_has_a_colour() -> None:
    assert sorted(stage for _, _, stages in figure.GROUPS for stage in stages) == sorted(STAGES)


def row(**changes: Any) -> StageRow:
    basic = StageRow("m", "s", "p", 10, 5, 1.0, "server prefill", 0.5, MEASURED, "by hand")
    return replace(basic, **changes)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [row(), row(seconds=1 / 3, how='a, "b"'), row(stage="link round trip", seconds=0.0)]
    write_rows(tmp_path / "rows.csv", rows, StageRow)
    assert read_rows(tmp_path / "rows.csv", StageRow) == rows


@pytest.mark.parametrize("seconds", [0.0, -0.1, float("nan"), float("inf")])
def test_a_time_that_cannot_be_is_an_error(seconds: float) -> None:
    with pytest.raises(UserError, match=r"m, s, server prefill: .* seconds cannot be"):
        row(seconds=seconds)


def test_a_missing_stage_is_an_error() -> None:
    rows = [row(stage=stage, picture=p) for stage in STAGES[-2:] for p in ("p", "q")]
    (bar,) = summarise(rows, "s")
    assert bar["answer"] == 1.0
    assert bar["first_token"] == 0.5
    with pytest.raises(UserError, match="exactly one server prefill"):
        summarise(rows[1:], "s")


@pytest.mark.parametrize(
    "changes, wrong",
    [
        ({"reference": "AVIF"}, "choose from TOFC, WebP"),
        ({"figure_mbit": [3]}, r"choose from \[0.1, 1.0, 100.0\]"),
        ({"link": {"mbit": [0.01]}}, "give 0.1 to 100 Mbit/s"),
        ({"link": {"mbit": [2, 1]}}, "ascending"),
        ({"link": {"mbit": [1], "loss": 1.0}}, "loss is 1.0"),
        ({"link": {"mbit": [1], "jitter": 1.0}}, "unknown key jitter"),
        ({"answer_tokens": 1}, "answer_tokens is 1; give at least 2"),
        ({"device": {"name": "d", "networks": "paper"}}, "give rates to count with"),
        ({"device": {"name": "d", "networks": "tpu"}}, "choose one of cpu, cuda, paper"),
        ({"device": {"name": "d", "rates": {**RATES, "utilisation": 1.5}}}, "utilisation is 1.5"),
        ({"device": {"name": "d", "processor_factor": 0.0}}, "processor_factor is 0.0"),
        ({"systems": [{"name": "a", "kind": "webp"}], "reference": "a"}, "webp takes 0 to 100"),
        ({"systems": [{"name": "a", "kind": "tofc", "quality": 9}], "reference": "a"}, "tofc takes 1 to 8"),
        ({"systems": [{"name": "WebP", "kind": "features", "quality": 1}]}, "leave out quality"),
        ({"systems": [{"name": "WebP", "kind": "features", "tokens": "most"}]}, "tokens is 'most'"),
        ({"systems": [SYSTEMS[1], SYSTEMS[1]]}, "a name of its own"),
        ({"models": [{"name": "m"}]}, "either a checkpoint or a recipe"),
        ({"models": [{"name": "m", "recipe": "r"}]}, "bytes_of goes with a recipe"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be(
    measured_config: dict[str, Any], changes: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        from_mapping(LatencyConfig, {**measured_config, **changes}, "test")


@pytest.mark.parametrize("name", ["latency-scenes", "latency-llava-onevision", "latency-realworldqa"])
def test_bundled_configurations(name: str) -> None:
    config = load_yaml(name, LatencyConfig)
    assert (config.link.mbit[0], config.link.mbit[-1]) == (0.1, 100.0)


def test_requests_of_a_data_set_have_their_questions_and_answers(
    measured_config: dict[str, Any], checkpoint_folder: Path, tmp_path: Path
) -> None:
    data = {"source": "eval.rate.scenes:ScenesData"}
    values = {**measured_config, "limit": 1, "systems": SYSTEMS[:1], "reference": SYSTEMS[0]["name"]}
    config = from_mapping(LatencyConfig, {**values, "data": data}, "test")
    requests = load_pictures(SweepData(**data), 1)
    assert len({one.question for one in requests}) == len(requests) > 5
    summary = run(config, tmp_path)
    rows = read_rows(tmp_path / "latency.csv", StageRow)
    assert {row.picture for row in rows} == {one.name for one in requests}
    edge = tofc.Edge.from_pretrained(checkpoint_folder)
    model = assemble(config.models[0], torch.device("cpu"), "?", 4, 0)
    whole = tofc.Device.from_pretrained(checkpoint_folder).features(requests[0].image, "all")
    said = edge.answer_many([(whole, requests[0].question)])[0].tokens
    assert model.answer_tokens(requests[0], 99) == max(2, len(said) + 1)
    assert model.answer_tokens(Picture("p", requests[0].image), 99) == 99
    bar = summary["bars"][0]
    assert bar["answer"] > bar["first_token"]


def test_the_encoding_benchmark_ends_with_one_json_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_RECIPE", str(recipe))
    monkeypatch.setattr(merging, "_TOKENS", 8)
    merging.encoding()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(result["seconds"]) == {"tower", "merging", "coding"}
    assert result["overhead"] > 0


def test_the_command_line(measured_config: dict[str, Any], tmp_path: Path) -> None:
    values = {**measured_config, "limit": 1, "systems": SYSTEMS[:2], "figure_mbit": [1]}
    file = tmp_path / "latency.yaml"
    file.write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(app, ["eval", "latency", str(file), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "tiny at 1 Mbit/s" in done.stdout
    assert (tmp_path / "out" / "latency.png").is_file()
    values["pictures"] = str(tmp_path / "nowhere")
    file.write_text(yaml.safe_dump(values))
    failed = CliRunner().invoke(app, ["eval", "latency", str(file)])
    assert failed.exit_code == 2
    assert "give scenes, photographs or a folder" in failed.stderr
