"""Every way of asking gives the same tokens: those that are recorded, and those of the stock model.

`test_edge_batching` compares batches with single calls, `serving/test_decoding` rows that come and go,
`drafting` (two tiers, three, with states) and `serving/test_remote_edge` compare with `Edge.answer`; here is
what `Edge.answer` itself is compared with.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

import tofc
from tests.tofc.conftest import Made
from tests.tofc.language.recorded import DESCRIBE, EXITS, FILE, HOT, MOST, SEED, sampled_here, served
from tofc.familial.index import Policy, Stage
from tofc.language.prompt import Prompt
from tofc.network.messages import chat_request, data_url
from tofc.serving.models import ServedModels
from tofc.serving.server import build_app

Pairs = list[tuple[tofc.Packet, str]]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


@pytest.fixture(scope="module")
def pairs(recorded: dict[str, Any]) -> Pairs:
    packets = [tofc.Packet.from_bytes(base64.b64decode(packet)) for packet in recorded["packets"]]
    return [(packets[number], question) for number, question in recorded["asked"]]


@pytest.fixture(scope="module")
def edge() -> tofc.Edge:
    return tofc.Edge.from_pretrained("scenes-tiny")


@pytest.mark.parametrize("exit", EXITS)
def test_answers_are_those_recorded(
    edge: tofc.Edge, pairs: Pairs, recorded: dict[str, Any], exit: str
) -> None:
    together = edge.answer_many(pairs, exit=exit, max_new_tokens=MOST)
    assert [list(answer.tokens) for answer in together] == recorded["tokens"][exit]
    exits = recorded["auto"] if exit == "auto" else [exit] * len(pairs)
    assert [answer.exit for answer in together] == exits
    alone = [edge.answer(*pair, exit=exit, max_new_tokens=MOST) for pair in pairs[-4:]]
    assert alone == together[-4:]


def test_texts_are_those_recorded(edge: tofc.Edge, pairs: Pairs, recorded: dict[str, Any]) -> None:
    assert [answer.text for answer in edge.answer_many(pairs, max_new_tokens=MOST)] == recorded["text"]
    assert len(set(recorded["auto"])) > 1, "one member gives all answers"


def test_what_is_drawn_is_what_was_drawn(edge: tofc.Edge, pairs: Pairs, recorded: dict[str, Any]) -> None:
    drawn, greedy = recorded["sampled"], recorded["tokens"]["full"][-3:]
    assert [sampled_here(edge, pair) for pair in pairs[-3:]] == drawn["edge"] != greedy
    assert list(served(edge, pairs[-3:], seed=SEED, **HOT)) == drawn["server"] != greedy


def test_a_server_says_and_streams_the_same(edge: tofc.Edge, pairs: Pairs, recorded: dict[str, Any]) -> None:
    assert list(served(edge, pairs)) == recorded["tokens"]["full"]
    wanted = edge.answer(*pairs[3], max_new_tokens=MOST)
    with TestClient(build_app(ServedModels("scenes-tiny", edge, None))) as client:
        for (packet, question), text in zip(pairs, recorded["text"], strict=True):
            if question == DESCRIBE:
                url = data_url("application/vnd.tofc", bytes(packet))
                body = chat_request("default", url, question, {"max_new_tokens": MOST})
                streamed = client.post("/v1/chat/completions", json={**body, "stream": True}).text
                events = [line.removeprefix("data: ") for line in streamed.split("\n\n")]
                deltas = [json.loads(event)["choices"][0]["delta"] for event in events if event[:1] == "{"]
                assert "".join(delta.get("content", "") for delta in deltas) == text
        url = data_url("application/vnd.tofc", bytes(pairs[3][0]))
        body = chat_request("default", url, pairs[3][1], {"max_new_tokens": MOST})
        said = client.post("/v1/chat/completions", json=body).json()["tofc"]
        assert said["confidence"] == pytest.approx(wanted.confidence, abs=1e-4)


def test_an_answer_says_how_sure_it_is(edge: tofc.Edge, pairs: Pairs) -> None:
    """Of many tokens one is doubtful sooner than of one; beams do not tell."""
    long, short = (edge.answer(*pairs[number], max_new_tokens=MOST) for number in (3, 0))
    assert long.confidence is not None
    assert short.confidence is not None
    assert 0 < long.confidence < short.confidence <= 1
    assert edge.answer(*pairs[0], num_beams=2, max_new_tokens=2).confidence is None
    assert tofc.Answer("Yes", "full", (5,), confidence=0.4).is_unsure
    assert not tofc.Answer("Yes", "full", (5,), confidence=0.6).is_unsure
    assert not tofc.Answer("Yes", "full", (5,)).is_unsure


# -- against the stock model, on random weights of another shape --


def stock_greedy(model: Any, prompt: Prompt, ends: frozenset[int], most: int) -> tuple[list[int], float]:
    """Ids and the least of their probabilities, each token from a pass over all before it."""
    embeds, _ = Prompt.batch([prompt], model)
    embedding, ids, least = model.get_input_embeddings(), [], 1.0
    while len(ids) < most:
        more = embedding(torch.tensor([ids], dtype=torch.int64))
        with torch.inference_mode():
            logits = model(inputs_embeds=torch.cat([embeds, more], 1)).logits[0, -1]
        least, token = min(least, float(logits.softmax(-1).max())), int(logits.argmax())
        if token in ends:
            break
        ids.append(token)
    return ids, least


@pytest.fixture(scope="module")
def random_edge(made: Made) -> tofc.Edge:
    return tofc.Edge.from_pretrained(made.folder)


@pytest.fixture(scope="module")
def random_pairs(made: Made, make_picture: Any) -> Pairs:
    device = tofc.Device.from_pretrained(made.folder)
    packets = [device.encode(make_picture(80, 60, seed), tokens=8 + 4 * seed) for seed in range(3)]
    questions = ("How many?", "What colour is it?", "Yes or no, and why is it that way?")
    return [(packet, question) for packet in packets for question in questions]


def test_each_member_says_what_the_stock_model_says(random_edge: tofc.Edge, random_pairs: Pairs) -> None:
    ends = random_edge.ends
    prompts = [prompt for pair in random_pairs for prompt in random_edge.prompts([pair])]
    said: dict[str, list[tuple[list[int], float]]] = {}
    for exit in random_edge.family.names:
        model = random_edge.family.model(exit)
        said[exit] = [stock_greedy(model, prompt, ends, MOST) for prompt in prompts]
        answers = random_edge.answer_many(random_pairs, exit=exit, max_new_tokens=MOST)
        assert [list(answer.tokens) for answer in answers] == [ids for ids, _ in said[exit]]
        sure = [answer.confidence for answer in answers]
        assert sure == pytest.approx([least for _, least in said[exit]], abs=1e-4)
    for first in (0.0, 0.05, 0.2, 1.0):
        random_edge.policy = Policy((Stage("e1-50", first), Stage("e3", 0.1)))
        expected = []
        for number in range(len(prompts)):
            sure = [e for e, t in (("e1-50", first), ("e3", 0.1)) if said[e][number][1] >= t]
            expected.append((sure or ["full"])[0])
        answers = random_edge.answer_many(random_pairs, exit="auto", max_new_tokens=MOST)
        assert [answer.exit for answer in answers] == expected
        tokens = [said[exit][number][0] for number, exit in enumerate(expected)]
        assert [list(answer.tokens) for answer in answers] == tokens
