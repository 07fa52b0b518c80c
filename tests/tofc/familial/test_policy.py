"""The exit is chosen per question: surely early, surely deep, in between, and what that costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tofc
from tests.tofc.conftest import Made
from tofc.config import from_mapping
from tofc.errors import UserError
from tofc.familial.branches import count_parameters
from tofc.familial.calibrate import MemberAnswers, calibrate, outcome
from tofc.familial.index import Policy, Stage, cost
from tofc.language.model import text_model

QUESTIONS = ("How many?", "What colour is it?", "Yes or no, and why is it that way?")
MOST = 8


@pytest.fixture(scope="module")
def edge(made: Made) -> tofc.Edge:
    return tofc.Edge.from_pretrained(made.folder)


@pytest.fixture(scope="module")
def asked(made: Made, make_picture: Any) -> list[tuple[tofc.Packet, str]]:
    device = tofc.Device.from_pretrained(made.folder)
    packets = [device.encode(make_picture(80, 60, seed)) for seed in range(3)]
    return [(packet, question) for packet in packets for question in QUESTIONS]


def with_policy(edge: tofc.Edge, *stages: tuple[str, float]) -> tofc.Edge:
    edge.policy = Policy(tuple(Stage(*stage) for stage in stages))
    return edge


def test_sure_of_everything_is_the_first_member(edge: tofc.Edge, asked: list[Any]) -> None:
    found = with_policy(edge, ("e1", 0.0)).answer_many(asked, exit="auto", max_new_tokens=MOST)
    assert found == edge.answer_many(asked, exit="e1", max_new_tokens=MOST)


def test_sure_of_nothing_is_the_full_member(edge: tofc.Edge, asked: list[Any]) -> None:
    found = with_policy(edge, ("e1-50", 1.0), ("e3", 1.0)).answer_many(
        asked, exit="auto", max_new_tokens=MOST
    )
    assert found == edge.answer_many(asked, exit="full", max_new_tokens=MOST)
    assert {answer.exit for answer in found} == {"full"}


def test_each_answer_is_whole_and_its_members_own(edge: tofc.Edge, asked: list[Any]) -> None:
    prompts = [prompt for pair in asked for prompt in edge.prompts([pair])]
    first = Policy((Stage("e1", 0.0),))
    sure = [one.confidence for one in first.decide(edge.family, prompts, edge.ends, MOST)]
    between = float(np.mean(sorted(sure)[3:5]))  # batches of another size round otherwise
    edge = with_policy(edge, ("e1", between), ("e3", 0.05))
    found = edge.answer_many(asked, exit="auto", max_new_tokens=MOST)
    exits = [answer.exit for answer in found]
    assert exits.count("e1") == sum(value >= between for value in sure)
    assert len(set(exits)) >= 2
    alone = {exit: edge.answer_many(asked, exit=exit, max_new_tokens=MOST) for exit in set(exits)}
    assert found == [alone[exit][place] for place, exit in enumerate(exits)]
    assert [edge.answer(*pair, exit="auto", max_new_tokens=MOST) for pair in asked] == found


def test_going_deeper_computes_nothing_twice(edge: tofc.Edge, asked: list[Any]) -> None:
    """By hand: each block once over the prompt, though two members were asked; one head each."""
    prompt = edge.prompts(asked[:1])[0]
    family = edge.family
    text = text_model(family.main)
    blocks = [*text.layers, *family.exit("e1").blocks]
    passed = [0] * len(blocks)
    hooks = []
    for number, block in enumerate(blocks):

        def count(_: Any, args: Any, number: int = number) -> None:
            passed[number] += len(args[0])

        hooks.append(block.input_layernorm.register_forward_pre_hook(count))
    (one,) = Policy((Stage("e1", 1.0),)).decide(family, [prompt], edge.ends, 1)
    for hook in hooks:
        hook.remove()
    assert passed == [prompt.length] * len(blocks)
    pairs = prompt.length * (prompt.length + 1) // 2
    weights = sum(count_parameters(block) for block in blocks) * prompt.length
    attention = len(blocks) * 2 * pairs * text.config.hidden_size
    spent = cost(family, prompt.length, one.attempts)
    assert spent.macs == weights + attention + 2 * family.main.lm_head.weight.numel()
    (full,) = Policy().decide(family, [prompt], edge.ends, 1)
    first = count_parameters(text.layers[0]) * prompt.length + 2 * pairs * text.config.hidden_size
    (early,) = Policy((Stage("e1", 0.0),)).decide(family, [prompt], edge.ends, 1)
    alone, shallow = (cost(family, prompt.length, other.attempts) for other in (full, early))
    assert shallow.shared == first
    assert spent.macs == alone.macs + shallow.macs - first


def test_calibration_finds_the_cheapest_that_is_good_enough() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.random(2000)
    right = generator.random(2000) < confidence  # a member that knows how sure it is
    columns = {
        "right": np.stack([right, np.ones(2000)], axis=1),
        "confidence": np.stack([confidence, np.ones(2000)], axis=1),
        "macs": np.tile([40.0, 100.0], (2000, 1)),
        "shared": np.tile([30.0, 100.0], (2000, 1)),
    }
    asked = MemberAnswers(("e1", "full"), **columns)
    found = calibrate(asked, 0.95)
    (stage,) = found.policy.stages
    # Above t a share (1 - t) answers early and is right (1 + t) / 2 of the time: lost is (1 - t)^2 / 2.
    assert stage.threshold == pytest.approx(1 - 0.1**0.5, abs=0.05)
    assert found.accuracy >= 0.95
    assert found.compute == pytest.approx((40 + stage.threshold * 70) / 100, abs=0.03)
    assert outcome(asked, (0.0,)) == (right.sum(), 40 * 2000)
    with pytest.raises(UserError, match="no policy keeps"):
        calibrate(asked, 1.01)


def test_a_policy_that_cannot_be_is_explained(edge: tofc.Edge, asked: list[Any], made: Made) -> None:
    with pytest.raises(UserError, match="the shallowest first"):
        with_policy(edge, ("e3", 0.5), ("e1", 0.5)).answer(*asked[0], exit="auto")
    with pytest.raises(UserError, match="from 0 to 1"):
        Stage("e1", 1.5)
    with pytest.raises(UserError, match="greedily"):
        with_policy(edge, ("e1", 0.5)).answer(*asked[0], exit="auto", do_sample=True)
    with pytest.raises(UserError, match="tofc familial calibrate"):
        tofc.Edge.from_pretrained(made.folder, exit="auto")
    policy = from_mapping(Policy, {"stages": [{"member": "e1", "threshold": 0.5}]}, "test")
    assert policy == Policy((Stage("e1", 0.5),))
