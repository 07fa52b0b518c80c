"""Collaboration on a benchmark: the figures of agents whose answers are known, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image

from eval.agents.measure import (
    AgentsEvalConfig,
    AgentsRow,
    Measurement,
    accuracy_table,
    analyse,
    ask_alone,
    right_alone,
)
from eval.asking.answering import AskedPicture, ScoredQuestion, SweepData
from eval.lab.rows import read_rows, read_table, write_rows
from tests.eval.commands import evaluate
from tofc.agents import AgentCard, Agents, AgentsConfig
from tofc.agents.endpoints import Sight
from tofc.answer import Answer
from tofc.config import from_mapping
from tofc.errors import ConfigError, EdgeUnreachable

KINDS = ("cars", "dogs")


class Knows:
    """An agent that answers questions about one thing; "repeats" says what it reads first in quotes."""

    def __init__(self, thing: str) -> None:
        self.thing = thing

    def ask(self, sight: Sight, prompt: str) -> Answer:
        if self.thing == "nothing":
            raise EdgeUnreachable("gone")
        if self.thing == "repeats":
            quotations = prompt.split('"')[1::2]
            return Answer(quotations[0] if quotations else "wrong", "", ())
        return Answer("right" if self.thing in prompt else "wrong", "", (), confidence=0.9)

    def close(self) -> None:
        pass


def asked(number: int) -> AskedPicture:
    questions = [
        ScoredQuestion(
            "free", kind, f"How many {kind}?", "right", 4, lambda given: (int(given == "right"), 1)
        )
        for kind in KINDS
    ]
    return AskedPicture(f"p{number}", Image.new("RGB", (8, 8)), tuple(questions))


@pytest.fixture
def agents() -> Agents:
    names = (*KINDS, "nothing")
    cards = tuple(
        AgentCard(name, f"how many {name}", url="http://127.0.0.1:9", sees="nothing") for name in names
    )
    config = AgentsConfig(agents=cards, server=AgentCard("server", url="http://127.0.0.1:9", sees="nothing"))
    return Agents(config, {**{name: Knows(name) for name in names}, "server": Knows("repeats")}, None)


def test_what_selection_and_aggregation_bring_is_counted(agents: Agents, tmp_path: Path) -> None:
    rows = Measurement(agents, [asked(number) for number in range(3)]).run([1, 2, 3])
    write_rows(tmp_path / "rows.parquet", rows, AgentsRow)
    best, found = analyse(read_table(tmp_path / "rows.parquet", AgentsRow), (*KINDS, "nothing"))
    shares = {one.system: one.accuracy.value for one in found}
    assert best in KINDS
    assert (shares["cars"], shares["dogs"], shares["nothing"], shares["server"]) == (0.5, 0.5, 0.0, 0.0)
    # The description that fits is asked first, and the server repeats what it reads first.
    assert shares["together 1"] == shares["together 2"] == shares["majority 1"] == 1.0
    assert shares["together with cars alone"] == 0.5
    assert shares["together without cars"] == 0.5
    assert shares["together with nothing alone"] == 0.0
    by_system = {one.system: one for one in found}
    assert by_system["cars"].by_category == {"cars": 1.0, "dogs": 0.0}
    assert by_system["together 1"].over_server.value == 1.0
    assert by_system[best].over_best_agent.value == 0.0
    assert by_system["together 3"].over_simpler.value == 1.0 - shares["majority 3"]
    assert by_system["cars revised"].over_simpler.value == shares["cars revised"] - 0.5
    assert {n for n, one in by_system.items() if one.over_simpler is not None} == {
        *(f"together {count}" for count in (1, 2, 3)),
        *(f"{name} revised" for name in (*KINDS, "nothing")),
    }
    assert by_system["nothing"].failed == 6
    assert accuracy_table(found, best, "mine").row_count == len(found)


def test_what_the_selector_learns_from(agents: Agents) -> None:
    right = right_alone(ask_alone(agents, [asked(0)]))
    np.testing.assert_array_equal(right, [[1, 0, 0], [0, 1, 0]])


def test_rows_of_another_run_are_refused() -> None:
    row = AgentsRow("p", 0, "cars", "a", 1.0, 1.0, "right", "")
    other = AgentsRow("p", 0, "dogs", "server", 1.0, 1.0, "right", "")
    table = pyarrow.Table.from_pylist([vars(row), vars(other)])
    with pytest.raises(ValueError, match="run again"):
        analyse(table, ["a"])


@pytest.mark.parametrize(
    "change, says",
    [
        ({"limit": 1}, "limit"),
        ({"fit_data": {"source": "a:b"}}, "another split"),
        ({"colour": 1}, "unknown key"),
    ],
)
def test_configurations_are_strict(change: dict[str, object], says: str) -> None:
    values = {"name": "n", "agents": "a", "limit": 3, "data": {"source": "a:b"}}
    assert from_mapping(AgentsEvalConfig, values, "x").data == SweepData("a:b")
    with pytest.raises(ConfigError, match=says):
        from_mapping(AgentsEvalConfig, {**values, **change}, "x")


def test_the_command_goes_on_where_it_was(checkpoint_folder: Path, tmp_path: Path) -> None:
    here = f"model: '{checkpoint_folder}'"
    cards = [f"  - {{name: {name}, description: {name}, {here}}}" for name in ("one", "two")]
    group = tmp_path / "group.yaml"
    server = f"server: {{name: server, {here}}}\ndevice: '{checkpoint_folder}'"
    group.write_text("\n".join(["agents:", *cards, server]))
    data = "{source: 'eval.rate.scenes:ScenesData', options: {split: SPLIT}}"
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"name: mine\nagents: {group}\nlimit: 2\nfit_limit: 1\n"
        f"data: {data.replace('SPLIT', 'test')}\nfit_data: {data.replace('SPLIT', 'validation')}\n"
    )
    selector, out = tmp_path / "selector.safetensors", tmp_path / "out"
    code, shown, error = evaluate("agents", str(config), "--fit", str(selector))
    assert code == 0, error
    assert json.loads(shown.splitlines()[-1])["questions"] > 5
    group.write_text(f"{group.read_text()}\nselector: {selector}")
    code, shown, error = evaluate("agents", str(config), "--out", str(out))
    assert code == 0, error
    told = json.loads(shown.splitlines()[-1])
    rows = read_rows(out / "rows.parquet", AgentsRow)
    assert {row.system for row in rows} == {one["system"] for one in told["systems"]}
    # Both agents are the same model: alone they say the same, and so do any votes.
    answers = {
        name: [row.answer for row in rows if row.system == name] for name in ("one", "two", "majority 2")
    }
    assert answers["one"] == answers["two"] == answers["majority 2"]
    assert evaluate("agents", str(config), "--out", str(out))[1].splitlines()[-1] == shown.splitlines()[-1]
