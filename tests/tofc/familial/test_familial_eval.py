"""`tofc eval familial`: rows, intervals by hand, figure and table of a tiny family."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

import tofc
from eval.familial.accuracy import AVERAGE, analyse
from eval.familial.members import ExitRow, exits_of
from eval.familial.speed import HALF_BILLION, load_here, open_family, random_family, speeds
from eval.lab.rows import ROWS, Store, read_rows
from eval.rate.config import RateConfig
from eval.rate.points import AnswerRow
from eval.rate.senders import TofcSender
from eval.rate.sweep import Unit, Worker
from tests.eval.commands import evaluate
from tests.tofc.conftest import Made
from tofc import familial
from tofc.config import from_mapping
from tofc.familial.index import Policy, Stage, read_index, write_index


def made_up_rows() -> list[ExitRow]:
    """Ten scenes: the full model misses one question a scene of ten, e1 what the scene's number says."""
    rows = []
    for scene in range(10):
        picture = str(scene)
        for category in ("colour", "count"):
            rows.append(ExitRow(picture, "full", "yes_no", category, 9, 10))
            rows.append(ExitRow(picture, "e1", "yes_no", category, scene if category == "count" else 9, 10))
    return rows


def test_accuracies_and_what_is_kept_are_as_by_hand() -> None:
    table = pyarrow.Table.from_pylist([asdict(row) for row in made_up_rows()])
    found = {(result.system, result.category): result for result in analyse(table)}
    assert found["full", AVERAGE].accuracy.value == pytest.approx(0.9)
    assert found["e1", "count"].accuracy.value == pytest.approx(0.45)
    assert found["e1", "count"].kept.value == pytest.approx(0.5)
    assert found["e1", AVERAGE].kept.value == pytest.approx(0.75)
    kept = found["e1", "count"].accuracy
    # The mean of ten draws from 0 .. 9 tenths has a deviation of 0.287 / sqrt(10).
    assert kept.high - kept.low == pytest.approx(2 * 1.96 * np.arange(10).std() / 10 / 10**0.5, rel=0.15)
    for system in ("full", "e1"):
        assert (
            found[system, "colour"].accuracy.low
            == found[system, "colour"].accuracy.high
            == pytest.approx(0.9)
        )
    assert found["full", "count"].questions == 100


def test_systems_are_members_and_direct_exits(made: Made) -> None:
    edge = tofc.Edge.from_pretrained(made.folder)
    names = [system.name for system in exits_of(edge)]
    assert names == [*edge.family.names, "direct1", "direct2", "direct3", "direct4"]
    main_sizes = edge.family.roster.main
    assert exits_of(edge)[-1].num_parameters == main_sizes.outside + 4 * main_sizes.layer


def test_the_command_writes_rows_table_and_figure_and_goes_on(made: Made, tmp_path: Path) -> None:
    words = ["familial", "accuracy", "--checkpoint", made.folder, "--limit", 2, "--out", tmp_path]
    code, printed, _ = evaluate(*words)
    assert code == 0
    assert "e3-50" in printed
    results = json.loads(printed.splitlines()[-1])["results"]
    rows = read_rows(tmp_path / ROWS, ExitRow)
    assert {row.system for row in rows} == {result["system"] for result in results}
    asked = {name: sum(row.of for row in rows if row.system == name) for name in ("full", "e1", "direct2")}
    assert len(set(asked.values())) == 1
    assert (tmp_path / "figure9.png").read_bytes()[:4] == b"\x89PNG"
    (lost, *kept) = sorted((tmp_path / "parts").iterdir())
    before = {part: part.stat().st_mtime_ns for part in kept}
    lost.unlink()
    assert evaluate(*words)[:2] == (0, printed)
    assert {part: part.stat().st_mtime_ns for part in kept} == before
    assert lost.exists()
    assert evaluate("familial", "accuracy", "--limit", 0)[0] == 2


def test_exits_are_a_system_of_a_sweep(made: Made, tmp_path: Path) -> None:
    grids = [{"quality": [2]}, {"quality": [2], "exit": ["e1", "e3-50"]}]
    values = {"name": "t", "checkpoint": str(made.folder), "systems": {"tofc": grids}, "limit": 1}
    config = from_mapping(RateConfig, values, "test")
    senders = [sender for sender in config.senders() if isinstance(sender, TofcSender)]
    names = [(point.system, point.name) for sender in senders for point in sender.points]
    assert names == [
        ("tofc", "quality 2, tokens 64"),
        ("tofc_exits", "quality 2, tokens 64, exit e1"),
        ("tofc_exits", "quality 2, tokens 64, exit e3-50"),
    ]
    worker = Worker(config, Store(tmp_path / "sweep", AnswerRow, {}))
    for sender in senders:
        worker.work(Unit(sender, range(1)))
    for (system, name), exit in zip(names, ("full", "e1", "e3-50"), strict=True):
        rows = [row for row in _stored(tmp_path) if (row["system"], row["point"]) == (system, name)]
        question = worker.examples[0].questions[0]
        packet = bytes(worker.device.encode(worker.examples[0].image, quality=2, tokens=64))
        answer = worker.edge.answer(
            packet, question.prompt, exit=exit, max_new_tokens=question.max_new_tokens
        )
        assert rows[0]["answer"] == answer.text
        assert rows[0]["bytes"] == len(packet)


def _stored(folder: Path) -> list[dict[str, Any]]:
    """All rows that a sweep has written under a folder."""
    files = sorted(folder.rglob("*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def test_lmms_eval_takes_an_exit(made: Made) -> None:
    from eval.lmms.options import Options

    _, edge = Options.read({"pretrained": str(made.folder), "exit": "e3-50", "device": "cpu"}).load()
    assert edge.exit == "e3-50"
    assert edge.family.num_blocks == 3


def test_what_a_policy_keeps_and_costs(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(made.folder, folder)

    def found(limit: int = 2) -> dict[str, Any]:
        code, printed, _ = evaluate("familial", "policy", "--checkpoint", folder, "--limit", limit)
        assert code == 0
        return json.loads(printed.splitlines()[-1])

    code, _, said = evaluate("familial", "policy", "--checkpoint", folder, "--limit", 1)
    assert code == 2
    assert "calibrate" in said
    index = read_index(folder / "family")
    write_index(folder / "family", replace(index, policy=Policy((Stage("e1", 0.0),))))
    early = found()
    assert early["exits"] == {"e1": 1.0}
    assert 0.2 < early["compute"]["value"] < 0.6  # two blocks of five, and as many answers' tokens as it says
    write_index(folder / "family", replace(index, policy=Policy((Stage("e1", 1.0),))))
    late = found()
    assert late["accuracy"] == late["accuracy_full"]
    assert late["exits"] == {"full": 1.0}
    assert late["compute"]["value"] > 1.0


@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux alone tells")
def test_loading_a_member_takes_its_own_weights(tmp_path: Path) -> None:
    shape = {**HALF_BILLION, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6}
    shape |= {"num_attention_heads": 4, "vocab_size": 500}
    folder = random_family(tmp_path / "random", shape, [1, 3], torch.bfloat16)
    for member in familial.family(folder):
        found = load_here(str(folder), member.name, torch.bfloat16)
        assert found.tensor_bytes == 2 * member.num_parameters
    family = open_family(folder)
    found = speeds(family, rounds=1)
    assert [one.name for one in found] == ["e1-50", "e1", "e3-50", "e3", "full"]
    assert found[-1].speedup == 1.0
