"""Continuous batching: rows come and go, and no answer changes by it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from tofc.language.batch import Generation, LeastRecentCache
from tofc.language.prompt import Prompt, TextStream
from tofc.language.sampling import Sampling
from tofc.serving.models import ServedModels


@pytest.fixture(scope="module")
def models(edge, device) -> ServedModels:
    return ServedModels("scenes-tiny", edge, device)


def row(models: ServedModels, packet: bytes, question: str, most: int, **sampling: Any) -> Generation:
    from tofc.packet import Packet

    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prepared = models.prepare(turns, [Packet.from_bytes(packet)], 1)
    return Generation(prepared.prompt, most, Sampling(**sampling), prepared.prefix_key)


def run(models: ServedModels, rows: list[Generation], seed: int, most: int = 6, kept: int = 0) -> None:
    """Decodes rows that join at random moments, at most `most` at a time."""
    chance = random.Random(seed)
    batch, waiting = models.batch("scenes-tiny", kept), list(rows)
    while waiting or batch.rows:
        free = most - len(batch.rows)
        count = min(free, len(waiting), chance.randint(0, 3))
        if count:
            batch.join([waiting.pop(0) for _ in range(count)])
        batch.step()


@pytest.mark.parametrize("kept", [0, 150, 8192])
def test_answers_are_those_of_the_edge(models, edge, asked, kept: int) -> None:
    """With beginnings of prompts kept for further questions, few of them, or none."""
    rows = [row(models, packet, question, 40) for packet, question in asked]
    run(models, rows, seed=kept, kept=kept)
    answers = edge.answer_many(asked, max_new_tokens=40)
    assert [tuple(r.tokens) for r in rows] == [answer.tokens for answer in answers]
    assert {r.finish_reason for r in rows} == {"stop", "length"}
    assert len({tuple(r.tokens) for r in rows}) > 5


def test_a_row_that_leaves_changes_no_other(models, edge, asked) -> None:
    packet, question = asked[-1]
    rows = [row(models, p, q, 20) for p, q in (asked[-1], asked[4], asked[-1])]
    batch = models.batch("scenes-tiny")
    batch.join(rows)
    for _ in range(3):
        batch.step()
    rows[0].leave("cancelled")
    while batch.rows:
        batch.step()
    assert len(rows[0].tokens) == 4
    assert tuple(rows[2].tokens) == edge.answer(packet, question, max_new_tokens=20).tokens


def test_what_was_asked_about_is_prefilled_once(models, asked) -> None:
    positions: list[int] = []
    first = models.edge.model.model.language_model.layers[0].input_layernorm
    hook = first.register_forward_pre_hook(lambda _, args: positions.append(len(args[0])))
    packet, _ = asked[-1]
    batch = models.batch("scenes-tiny", 8192)
    for question in ("Is there a bus?", "Is there a cat?", "Describe the picture."):
        batch.join([row(models, packet, question, 1)])
    hook.remove()
    assert positions[0] > 196
    assert max(positions[1:]) < 30


def test_kept_beginnings_are_bounded_and_the_last_used_stay() -> None:
    held: LeastRecentCache[str] = LeastRecentCache(10)
    held.put(b"a", "A", 4)
    held.put(b"b", "B", 4)
    assert held.get(b"a") == "A"
    held.put(b"c", "C", 5)
    assert held.get(b"b") is None
    assert held.get(b"a") == "A"
    held.put(b"d", "D", 11)
    assert held.get(b"d") is None
    assert held.get(None) is None


def test_a_packet_that_is_asked_about_again_is_neither_decoded_nor_prefilled(
    models, asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = models.batch("scenes-tiny", 500)
    first = row(models, asked[0][0], "Is there a bus?", 1)
    assert batch.positions(first) == first.prompt.length
    batch.join([first])
    monkeypatch.setattr(models.edge, "decode_features", None)
    second = row(models, asked[0][0], "Is there a cat?", 1)
    assert batch.positions(second) == second.prompt.length - second.prompt.num_shared < 30
    assert all(map(torch.equal, first.prompt.pictures, second.prompt.pictures))


def test_an_empty_batch_gives_its_memory_back(models, asked) -> None:
    batch = models.batch("scenes-tiny")
    batch.join([row(models, *asked[0], 1)])
    batch.step()
    assert not batch.rows
    assert batch._sequences is None


def test_a_seed_repeats_what_is_drawn_whatever_else_is_there(models, asked) -> None:
    def draw(others: int, seed: int) -> list[int]:
        mine = row(models, *asked[2], 6, temperature=3.0, seed=seed)
        run(models, [*(row(models, *asked[i], 8) for i in range(others)), mine], seed=others)
        return mine.tokens

    assert draw(0, seed=1) == draw(4, seed=1)
    assert len({tuple(draw(0, seed)) for seed in range(6)}) > 3


def test_a_small_nucleus_is_greedy(models, edge, asked) -> None:
    mine = row(models, *asked[-1], 12, temperature=1.5, top_p=1e-6, seed=3)
    run(models, [mine], seed=0)
    assert tuple(mine.tokens) == edge.answer(*asked[-1], max_new_tokens=12).tokens


def test_drawn_tokens_follow_their_shares() -> None:
    """Of shares 0.6, 0.3, 0.1 the nucleus 0.7 keeps two, at 2 : 1."""
    logits = torch.tensor([0.1, 0.6, 0.3]).log()
    counts = [0, 0, 0]
    mine = Generation(Prompt(torch.zeros(0), (), {}), 10**9, Sampling(temperature=1.0, top_p=0.7, seed=0))
    for _ in range(3000):
        mine.take(logits, 1, 0.6, frozenset())
        counts[mine.tokens[-1]] += 1
    assert counts[0] == 0
    assert counts[1] / 3000 == pytest.approx(2 / 3, abs=0.03)


BYTES = [b" A", b" caf", b"\xc3", b"\xa9", b".", b" End", b" now"]


class Bytes:
    """A tokenizer of a few tokens, two of which are halves of a character."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return b"".join(BYTES[i] for i in ids).decode("utf-8", "replace")


def test_growing_text_never_takes_back() -> None:
    text = TextStream(Bytes())
    pieces = [text.push(i) for i in range(5)]
    assert pieces == ["A", " caf", "", "é", "."]
    assert text.close() == ""
    assert text.text == "A café."


@pytest.mark.parametrize(
    "stop, left", [("fé", "A ca"), (". End", "A café"), (" ", "A"), ("zzz", "A café. End now")]
)
def test_stop_strings_end_the_text_before_them(stop: str, left: str) -> None:
    text = TextStream(Bytes(), (stop,))
    pieces = [text.push(i) for i in range(len(BYTES))] + [text.close()]
    assert "".join(pieces) == text.text == left.strip()
    assert text.is_stopped == (stop != "zzz")
