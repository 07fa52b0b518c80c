"""Members of a family decode together: the answers of the largest, its own blocks alone run on the drafts."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import tofc
from tests.tofc.drafting.fakes import QUESTION
from tofc.drafting import Pace, Sampling, speculate
from tofc.drafting.reader import readers
from tofc.errors import UserError
from tofc.language.blocks import CachedBlock
from tofc.language.model import text_model
from tofc.language.prompt import Prompt

TIERS = [*combinations(["e1-50", "e3", "full"], 2), ("e1-50", "e3", "full")]


@pytest.mark.parametrize("tiers", TIERS, ids=":".join)
def test_greedy_answers_are_the_last_tiers_own(
    edge: tofc.Edge, packets: list[tofc.Packet], tiers: tuple[str, ...]
) -> None:
    for packet in packets:
        alone = edge.answer(packet, QUESTION, exit=tiers[-1], max_new_tokens=24)
        decoded = speculate(edge, packet, QUESTION, tiers, max_new_tokens=24)
        assert decoded.answer == alone
        assert decoded.counts.rounds > 0


def test_shared_blocks_run_once(
    edge: tofc.Edge, packets: list[tofc.Packet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions through blocks: the drafter's shared ones are not run again by the verifier."""
    run, seen = CachedBlock.__call__, {"first": 0, "rest": 0}

    def counted(self: Any, states: torch.Tensor, *more: Any) -> torch.Tensor:
        if self.block is text_model(edge.model).layers[0]:
            seen["first"] += len(states)
        if self.block is text_model(edge.model).layers[3]:
            seen["rest"] += len(states)
        return run(self, states, *more)

    monkeypatch.setattr(CachedBlock, "__call__", counted)
    decoded = speculate(edge, packets[0], QUESTION, ["e3", "full"], pace=Pace(3), max_new_tokens=16)
    prompt = edge.prompt(packets[0], QUESTION).length
    counts = decoded.counts
    said = len(decoded.answer.tokens)
    assert seen["first"] <= prompt + said + counts.sent  # each position once, and again where a draft fell
    assert seen["rest"] == seen["first"]


def test_readers_agree_with_the_stock_model_wherever_they_are_asked(
    edge: tofc.Edge, packets: list[tofc.Packet]
) -> None:
    prompt = edge.prompt(packets[0], QUESTION)
    reads = readers(edge.family, prompt, ["e1", "e3-50", "full"])
    embeds, _ = Prompt.batch([prompt], edge.model)
    embedding = edge.model.get_input_embeddings()
    for tokens in ([], [5, 9, 7], [5, 9, 7, 11], [5, 8], [5, 8, 3, 2, 2]):
        more = embedding(torch.tensor([tokens], dtype=torch.int64))
        for name, read in reads.items():
            model = edge.family.model(name)
            with torch.inference_mode():
                hidden = text_model(model)(inputs_embeds=torch.cat([embeds, more], 1)).last_hidden_state
                wanted = model.lm_head(hidden)[0, -len(tokens) - 1 :]
            torch.testing.assert_close(read(tokens, len(tokens) + 1), wanted, atol=2e-4, rtol=1e-4)


def test_sampling_repeats_with_its_seed_and_draws_what_the_verifier_may(
    edge: tofc.Edge, packets: list[tofc.Packet]
) -> None:
    def tokens(seed: int, **settings: Any) -> tuple[int, ...]:
        choice = Sampling(seed=seed, **settings)
        pace = Pace(4)
        return speculate(
            edge, packets[0], QUESTION, ["e3", "full"], sampling=choice, pace=pace, max_new_tokens=12
        ).answer.tokens

    assert tokens(1, temperature=1.5) == tokens(1, temperature=1.5)
    assert len({tokens(seed, temperature=2.0) for seed in range(4)}) > 1
    greedy = edge.answer(packets[0], QUESTION, max_new_tokens=12).tokens
    assert tokens(3, temperature=1.0, top_k=1) == greedy  # one token is left: the likeliest


def test_two_models_of_their_own_decode_together(edge: tofc.Edge, packets: list[tofc.Packet]) -> None:
    other = tofc.Edge.from_pretrained("scenes-tiny")
    decoded = speculate(edge, packets[0], QUESTION, ["e3", (other, "full")], max_new_tokens=12)
    assert decoded.answer == other.answer(packets[0], QUESTION, max_new_tokens=12)


def test_a_verifier_smaller_than_its_drafter(edge: tofc.Edge, packets: list[tofc.Packet]) -> None:
    with pytest.raises(UserError, match="a verifier is larger than its drafter"):
        speculate(edge, packets[0], QUESTION, ["full", "e1"])
    with pytest.raises(UserError, match="two tiers"):
        speculate(edge, packets[0], QUESTION, ["full"])
    with pytest.raises(UserError, match="no exit 'e9'"):
        speculate(edge, packets[0], QUESTION, ["e9", "full"])


def test_models_that_do_not_belong_together(
    edge: tofc.Edge, packets: list[tofc.Packet], checkpoint_folder: Path
) -> None:
    stranger = tofc.Edge.from_pretrained(checkpoint_folder)
    with pytest.raises(UserError, match=r"different tokenizers|a verifier is larger"):
        speculate(edge, packets[0], QUESTION, [(stranger, "full"), (edge, "full")])
    kin = tofc.Edge(edge.model, edge.tokenizer, edge.template, edge.config, None)
    with pytest.raises(UserError, match="different families"):
        speculate(edge, packets[0], QUESTION, [(edge, "e1"), (kin, "full")])
