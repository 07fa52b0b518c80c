"""Members of a family are models: requests for different ones are decoded side by side by one engine."""

from __future__ import annotations

import asyncio
import logging

import pytest
import torch

import tofc
from tests.tofc.conftest import Made
from tofc.language.sampling import GREEDY, Sampling
from tofc.serving.engine import Engine
from tofc.serving.errors import ApiError
from tofc.serving.job import Completion, Job
from tofc.serving.models import ServedModels
from tofc.serving.requests import ChatQuestion
from tofc.serving.settings import Limits
from tofc.serving.telemetry import Metrics

QUESTIONS = ("How many cars are there?", "What colour is it?", "Yes?")


@pytest.fixture(scope="module")
def edge(made: Made) -> tofc.Edge:
    return tofc.Edge.from_pretrained(made.folder)


@pytest.fixture(scope="module")
def models(edge: tofc.Edge) -> ServedModels:
    return ServedModels("tiny", edge, None)


@pytest.fixture(scope="module")
def packets(made: Made, make_picture) -> list[tofc.Packet]:
    device = tofc.Device.from_pretrained(made.folder)
    return [
        device.encode(make_picture(90, 60, seed), tokens=tokens) for seed, tokens in enumerate((4, 12, 30))
    ]


def ask(
    model: str, packet: tofc.Packet, question: str, deadline: float = 60.0, sampling: Sampling = GREEDY
) -> ChatQuestion:
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    return ChatQuestion(model, turns, [packet], sampling, 12, (), False, False, deadline, len(packet))


def run(engine: Engine, asked: list[ChatQuestion]) -> list[Completion | ApiError]:
    """What becomes of requests that are all there at once."""

    async def all_of_them() -> list[Completion | ApiError]:
        jobs = [Job(one, f"r{number}") for number, one in enumerate(asked)]
        for job in jobs:
            engine.submit(job)
        ended = await asyncio.gather(*(job.whole() for job in jobs), return_exceptions=True)
        return list(ended)  # type: ignore[arg-type]

    return asyncio.run(all_of_them())


def test_members_are_models(models: ServedModels, edge: tofc.Edge) -> None:
    names = list(models.members)
    assert names[0] == "tiny"
    assert set(names[1:]) == {f"tiny:{name}" for name in edge.family.names if name != "full"}
    assert len(names) == 5
    assert models.resolve("default") == "tiny"
    assert models.resolve("default:e1") == "tiny:e1"
    assert models.resolve("tiny:e9") is None


def test_each_member_answers_for_itself(models: ServedModels, edge: tofc.Edge, packets) -> None:
    metrics = Metrics()
    engine = Engine(models, Limits(batch=6), metrics)
    engine.start()
    asked = [ask(name, p, q) for q in QUESTIONS for p in packets for name in models.members]
    results = run(engine, asked)
    engine.close()
    said = set()
    for one, result in zip(asked, results, strict=True):
        exit = models.members[one.model].name
        question = one.turns[0]["content"][1]["text"]
        expected = edge.answer(one.seen[0], question, exit=exit, max_new_tokens=12)
        assert (result.exit, result.tokens, result.text) == (exit, expected.tokens, expected.text)
        said.add((question, exit, result.tokens))
    assert len({tokens for _, _, tokens in said}) > 3, "the members say the same"
    assert not engine.is_ready
    with pytest.raises(ApiError, match="going down"):
        run(engine, asked[:1])


def test_a_fault_fails_its_requests_and_not_the_server(
    models: ServedModels, edge: tofc.Edge, packets, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(models, Limits(), Metrics())
    engine.start()
    (broken,) = models.members["tiny:e1"].blocks

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("of the NoneType kind")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "tofc.serving"):
        patch.setattr(broken.input_layernorm, "forward", fail)
        failed, fine = run(engine, [ask("tiny:e1", packets[0], "Yes?"), ask("tiny", packets[0], "Yes?")])
    assert failed.status == 500
    assert "NoneType" not in failed.message
    assert "the model failed" in caplog.text
    assert fine.tokens == edge.answer(packets[0], "Yes?", max_new_tokens=12).tokens
    (again,) = run(engine, [ask("tiny:e1", packets[0], "Yes?")])
    assert again.tokens == edge.answer(packets[0], "Yes?", exit="e1", max_new_tokens=12).tokens
    engine.close()


def test_a_pass_that_fails_is_repeated_for_each_request_alone(
    models: ServedModels, edge: tofc.Edge, packets, monkeypatch
) -> None:
    """The third pass breaks in the middle of the model, and with it only the request that breaks it."""
    engine = Engine(models, Limits(), Metrics())
    passes = 0
    last = models.edge.model.model.language_model.layers[-1].input_layernorm
    forward = last.forward

    def fail_once(states: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes == 3:
            raise MemoryError("once")
        return forward(states)

    monkeypatch.setattr(last, "forward", fail_once)
    drawn = Sampling(1.0, seed=7)
    asked = [ask("tiny", packet, QUESTIONS[0], sampling=how) for packet in packets for how in (GREEDY, drawn)]
    engine.start()
    results = run(engine, asked)
    (alone,) = run(engine, [asked[1]])
    engine.close()
    assert passes > 3
    for one, result in zip(asked, results, strict=True):
        if one.sampling.is_greedy:
            expected = edge.answer(one.seen[0], QUESTIONS[0], max_new_tokens=12)
            assert result.tokens == expected.tokens
    assert results[1].tokens == alone.tokens  # draws go on where they were


def test_a_request_whose_token_cannot_be_chosen_fails_alone(
    models: ServedModels, edge: tofc.Edge, packets, monkeypatch
) -> None:
    draw = Sampling.draw
    broken = Sampling(1.0, seed=13)

    def fail(self: Sampling, *given: object) -> int:
        if self == broken:
            raise RuntimeError("invalid multinomial distribution")
        return draw(self, *given)

    monkeypatch.setattr(Sampling, "draw", fail)
    engine = Engine(models, Limits(), Metrics())
    engine.start()
    fine, failed, drawn = run(
        engine,
        [ask("tiny", packets[0], "Yes?", sampling=how) for how in (GREEDY, broken, Sampling(1.0, seed=1))],
    )
    engine.close()
    assert failed.status == 500
    assert fine.tokens == edge.answer(packets[0], "Yes?", max_new_tokens=12).tokens
    assert drawn.tokens


def test_what_is_too_long_for_the_model_is_refused(models: ServedModels, packets) -> None:
    engine = Engine(models, Limits(), Metrics())
    engine.start()
    (refused,) = run(engine, [ask("tiny", packets[0], "x" * 50_000)])
    assert refused.code == "context_length_exceeded"
    (late,) = run(engine, [ask("tiny", packets[0], "Yes?", deadline=1e-6)])
    assert late.status == 408
    engine.close()
