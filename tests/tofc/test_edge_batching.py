"""Many questions at once: shared prefixes and padding change no answer, and nothing is computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

import tofc
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene
from tofc.edge import Seen
from tofc.language.blocks import CachedBlock, Positions

Request = tuple[Seen, str]


@pytest.fixture(scope="module")
def device() -> tofc.Device:
    return tofc.Device.from_pretrained("scenes-tiny")


@pytest.fixture(scope="module")
def edge() -> tofc.Edge:
    return tofc.Edge.from_pretrained("scenes-tiny")


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Image.Image, list[str]]]:
    """Pictures with their questions: some short, some with lettered options."""
    made = [make_scene("test", index)[:2] for index in range(4)]
    return [(Image.fromarray(p), [q.prompt for q in benchmark_questions(scene)]) for scene, p in made]


@pytest.fixture(scope="module")
def requests(device, scenes) -> list[Request]:
    """Packets of different lengths, each asked several times, one of two pictures, one asked once."""
    packets = [
        device.encode(image, quality=quality, tokens=tokens)
        for (image, _), tokens, quality in zip(scenes, (16, 64, "all"), (2, 4, 8), strict=False)
    ]
    packets.append(device.encode([scenes[0][0], scenes[3][0]], tokens=24))
    asked = [(p, q) for p, (_, prompts) in zip(packets, scenes, strict=True) for q in prompts[::3]]
    asked.append((device.encode(scenes[3][0], tokens=9), scenes[3][1][-1]))
    return asked[::2] + asked[1::2]  # questions about a picture do not stand together


@contextmanager
def passes(edge: tofc.Edge) -> Iterator[list[tuple[int, int]]]:
    """(sequences, positions) of every pass of the language model's first block."""
    seen: list[tuple[int, int]] = []
    first, run = edge.family.language.blocks[0], CachedBlock.__call__

    def look(self: CachedBlock, states: torch.Tensor, positions: Positions) -> torch.Tensor:
        if self.block is first:
            new = positions.end - positions.start
            seen.append((len(states) // new, new))
        return run(self, states, positions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachedBlock, "__call__", look)
        yield seen


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_answers_are_those_of_separate_calls(edge, requests, batch_size: int) -> None:
    together = edge.answer_many(requests, batch_size=batch_size, max_new_tokens=12)
    assert together == [edge.answer(packet, question, max_new_tokens=12) for packet, question in requests]
    assert len({answer.tokens for answer in together}) > 5, "the questions are too much alike"


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"do_sample": True, "top_k": 1},
        {"repetition_penalty": 1.3, "min_new_tokens": 4},
        {"cache_implementation": "static"},
    ],
    ids=lambda settings: next(iter(settings)),
)
# Prompts are embeddings here, so the penalty is for new words alone, which transformers tells each time.
@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with `inputs_embeds`:UserWarning")
def test_generation_settings_hold_for_shared_prefixes(edge, requests, settings) -> None:
    some = requests[:12]
    together = edge.answer_many(some, max_new_tokens=6, **settings)
    assert together == [edge.answer(packet, q, max_new_tokens=6, **settings) for packet, q in some]
    if "min_new_tokens" in settings:
        assert min(len(answer.tokens) for answer in together) >= 4


def test_sampling_draws_from_the_same_distribution(edge, requests) -> None:
    """Hot sampling spreads the answers to one question, with the prefix shared or not."""
    packet, question = requests[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"do_sample": True, "temperature": 6.0, "max_new_tokens": 3}
        answers = edge.answer_many([(packet, question)] * 24, batch_size=24, **settings)
    assert len({answer.tokens for answer in answers}) > 8


def test_features_are_answered_like_packets(edge, device, scenes, requests) -> None:
    """Uncoded, decoded and coded requests may stand in one call."""
    packet, question = requests[0]
    decoded = edge.decode_features(packet)
    uncoded = device.features(scenes[1][0], 32)
    mixed = [(packet, question), (decoded, question), (uncoded, question), (uncoded, scenes[1][1][0])]
    answers = edge.answer_many([(bytes(packet), question), *mixed], max_new_tokens=12)
    assert answers[:3] == [edge.answer(packet, question, max_new_tokens=12)] * 3
    assert answers[3:] == edge.answer_features(uncoded, [question, scenes[1][1][0]], max_new_tokens=12)


def test_each_picture_is_prefilled_once(edge, device, scenes) -> None:
    image, prompts = scenes[0]
    packet = device.encode(image, tokens=100)
    asked = [(packet, prompt) for prompt in prompts]
    with passes(edge) as seen:
        edge.answer_many(asked, batch_size=7, max_new_tokens=1)
    long = [(sequences, positions) for sequences, positions in seen if positions > 100]
    assert [sequences for sequences, _ in long] == [1], "the visual tokens were prefilled again"
    questions = sum(sequences for sequences, positions in seen if positions <= 100)
    assert questions == len(asked)


def test_what_nobody_shares_is_prefilled_in_one_piece(edge, device, scenes) -> None:
    asked = [(device.encode(image, tokens=40), prompts[0]) for image, prompts in scenes]
    with passes(edge) as seen:
        edge.answer_many(asked, max_new_tokens=1)
    assert len(seen) == 1


def test_pictures_are_prefilled_together_and_batches_stay_bounded(edge, device, scenes) -> None:
    packets = [device.encode(image, tokens=50) for image, _ in scenes]
    asked = [(p, q) for p, (_, prompts) in zip(packets, scenes, strict=True) for q in prompts[:6]]
    for batch_size in (3, 24):
        with passes(edge) as seen:
            edge.answer_many(asked, batch_size=batch_size, max_new_tokens=2)
        assert max(sequences for sequences, _ in seen) <= batch_size
        prefills = [sequences for sequences, positions in seen if positions > 50]
        assert prefills == ([3, 1] if batch_size == 3 else [4])


def test_no_requests_have_no_answers(edge) -> None:
    assert edge.answer_many([]) == []
