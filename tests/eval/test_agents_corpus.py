"""What server and agents learn from: answers that were asked once, read again, and put before questions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.agents.corpus import AgentsCorpus, AskedExample, ask_pictures, read_answers, write_answers
from eval.scenes.corpus import SceneCorpus
from tests.eval.commands import evaluate
from tests.eval.test_agents import KINDS, Knows
from tofc.agents import AgentCard, Agents, AgentsConfig
from tofc.agents.aggregation import aggregate_prompt, revise_prompt
from tofc.errors import UserError
from tofc.training.data import load_corpus
from tofc.training.family_settings import BranchConfig

SCENES: Mapping[str, Any] = {"size": 32, "questions": 4, "describe_share": 0.0}


@pytest.fixture(scope="module")
def asked() -> list[AskedExample]:
    cards = tuple(AgentCard(n, n, url="http://127.0.0.1:9", sees="nothing") for n in (*KINDS, "nothing"))
    server = AgentCard("server", url="http://127.0.0.1:9", sees="nothing")
    endpoints = {**{card.name: Knows(card.name) for card in cards}, "server": Knows("repeats")}
    with Agents(AgentsConfig(agents=cards, server=server), endpoints, None) as agents:
        return list(ask_pictures(agents, SceneCorpus(**SCENES), range(20), seed=3))


@pytest.fixture(scope="module")
def cache(asked: list[AskedExample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("agents") / "deep" / "answers.jsonl"
    write_answers(file, asked)
    return file


def corpus(cache: Path, **options: Any) -> AgentsCorpus:
    """As a recipe names it: with an option `source` of its own."""
    named: dict[str, Any] = {"source": "eval.scenes.corpus:SceneCorpus", "options": SCENES, **options}
    found: AgentsCorpus = load_corpus("eval.agents.corpus:AgentsCorpus", cache=str(cache), **named)
    return found


def test_answers_are_what_was_asked(asked: list[AskedExample], cache: Path) -> None:
    assert read_answers(cache) == asked
    first = SceneCorpus(**SCENES).picture("train", 0, 3)
    assert [(t.prompt, t.answer, t.category) for t in first.turns] == [
        (t.prompt, t.answer, t.category) for t in asked[0].turns
    ]
    for turn in (turn for example in asked for turn in example.turns):
        assert [reply.name for reply in turn.replies] == [*KINDS, "nothing"]
        assert turn.replies[2].fault
        assert turn.aggregate == turn.replies[0].text  # the server repeats what it reads first


def test_the_server_reads_some_of_the_answers(asked: list[AskedExample], cache: Path) -> None:
    made = corpus(cache, questions=4, most=2, plain=0.0)
    turns = {turn.prompt: turn for turn in asked[0].turns}
    first = made.picture("train", 0, 5)
    assert first.turns
    assert np.array_equal(first.pixels, SceneCorpus(**SCENES).picture("train", 0, 3).pixels)
    for turn in first.turns:
        question = next(text for text in turns if turn.prompt.endswith(text))
        own = turns[question]
        orders = [[a, b] for a in own.replies for b in own.replies if a is not b] + [[a] for a in own.replies]
        assert turn.prompt in {aggregate_prompt(question, order) for order in orders}
        assert (turn.answer, turn.category) == (own.answer, own.category)
    assert made.picture("train", 0, 5).turns == first.turns
    plain = corpus(cache, plain=1.0).picture("train", 7, 5)
    assert plain.turns == SceneCorpus(**SCENES).picture("train", 7, 5).turns


def test_an_agent_reads_its_own_answer_and_the_aggregate(asked: list[AskedExample], cache: Path) -> None:
    made = corpus(cache, learner="agents", questions=4, plain=0.0)
    seen = [turn for number in range(12) for turn in made.picture("train", number, 1).turns]
    branch = BranchConfig(1, name="cars", learns=("count", "revise/cars"))
    assert any(branch.is_taught(turn.category) for turn in seen)
    assert not branch.is_taught("revise/dogs")
    assert branch.is_taught("free/count")
    assert {turn.category for turn in seen} == {"revise/cars", "revise/dogs", "revise/nothing"}
    turns = {turn.prompt: turn for example in asked for turn in example.turns}
    for turn in seen:
        own = turns[max((text for text in turns if turn.prompt.startswith(f"{text}\n")), key=len)]
        name = turn.category.removeprefix("revise/")
        said = next(reply.text for reply in own.replies if reply.name == name)
        assert turn.prompt == revise_prompt(own.prompt, said, own.aggregate)


def test_validation_has_other_pictures(cache: Path) -> None:
    made = corpus(cache)
    assert made.num_pictures("train") is None
    assert made.num_pictures("validation") == 2
    train = [made.picture("train", number, 0).pixels.tobytes() for number in range(18)]
    assert not {made.picture("validation", n, 0).pixels.tobytes() for n in range(2)} & set(train)


def test_a_missing_cache_says_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--cache"):
        corpus(tmp_path / "nothing.jsonl").picture("train", 0, 0)


def test_the_command_asks_about_as_many_as_it_is_told(
    checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the configuration says too, where the corpus has no end."""
    monkeypatch.chdir(tmp_path)
    here = f"model: '{checkpoint_folder}'"
    (tmp_path / "group.yaml").write_text(
        f"agents: [{{name: one, description: one, {here}}}]\nserver: {{name: server, {here}}}\n"
        f"device: '{checkpoint_folder}'\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nagents: group.yaml\nlimit: 2\ndata: {source: 'eval.rate.scenes:ScenesData'}\n"
        "train_data: {source: 'eval.scenes.corpus:SceneCorpus', options: {size: 32, questions: 2}}\n"
        "train_limit: 2\n"
    )
    code, printed, told = evaluate("agents", "mine.yaml", "--cache", "answers.jsonl", "--limit", "3")
    assert code == 0, told
    assert json.loads(printed.splitlines()[-1])["pictures"] == len(read_answers("answers.jsonl")) == 3
