"""Which drafts stand: distributions against chi-squared, settings against transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tofc.drafting.acceptance import Greedy, Sampled, accepted, drawn, remainder, rule_of
from tofc.errors import UserError
from tofc.language.sampling import Sampling

DRAWS = 200_000
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def p_value(counts: Tensor, shares: Tensor) -> float:
    """Of Pearson's chi-squared test, over the tokens that can occur."""
    there = shares > 0
    if int(counts[~there].sum()):
        return 0.0
    expected = counts.sum() * shares[there]
    statistic = ((counts[there] - expected) ** 2 / expected).sum()
    half = (int(there.sum()) - 1) / 2
    return float(torch.special.gammaincc(torch.tensor(half, dtype=torch.float64), statistic / 2))


def outcome(target: Tensor, proposal: Tensor, rule: Rule, seed: int) -> Tensor:
    """DraftCounts [V] of what comes out of DRAWS drafts from `proposal`, verified against `target`."""
    random = torch.Generator().manual_seed(seed)
    p, q = target.expand(DRAWS, -1), proposal.expand(DRAWS, -1)
    drafts = drawn(q, random)
    keeps = rule(p, q, drafts, torch.rand(DRAWS, generator=random, dtype=torch.float64))
    tokens = torch.where(keeps, drafts, drawn(remainder(p, q), random))
    return torch.bincount(tokens, minlength=len(target)).double()


def pair(settings: Sampling) -> tuple[Tensor, Tensor]:
    """p and q over eight tokens."""
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 8, generator=random, dtype=torch.float64)
    target, proposal = settings.shares(logits)
    return target, proposal


SETTINGS = [
    Sampling(1.0),
    Sampling(0.7, top_k=5),
    Sampling(1.3, top_p=0.8),
    Sampling(1.0, top_k=6, top_p=0.9),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_comes_out_is_distributed_as_the_verifier(settings: Sampling) -> None:
    target, proposal = pair(settings)
    assert p_value(outcome(target, proposal, accepted, 1), target) > 0.01


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_test_finds_a_wrong_rule(settings: Sampling) -> None:
    target, proposal = pair(settings)

    def by_half(p: Tensor, q: Tensor, drafts: Tensor, chances: Tensor) -> Tensor:
        return accepted(p, q, drafts, chances * 0.9)  # keeps a little too many

    assert p_value(outcome(target, proposal, by_half, 1), target) < 1e-6


def test_drafts_of_an_unknown_drafter_are_verified_as_exactly() -> None:
    settings = Sampling(1.0, seed=4)
    target, proposal = pair(settings)
    logits = target.log()[None].expand(2, -1)
    policy = rule_of(settings)
    random = torch.Generator().manual_seed(5)
    counts = torch.zeros(8, dtype=torch.float64)
    for draft in drawn(proposal.expand(4_000, -1), random).tolist():
        stand, said = policy.verify(logits, [draft], None)
        counts[draft if stand else said] += 1
    assert p_value(counts, target) > 0.01


def test_a_round_of_several_drafts_keeps_the_joint_distribution() -> None:
    """Two drafts and the token after them, three tokens of four kinds: 64 outcomes."""
    settings = Sampling(1.0, seed=6)
    random = torch.Generator().manual_seed(7)
    p, q = torch.randn(2, 4, 4, generator=random, dtype=torch.float64).softmax(-1)  # by the token before
    policy, counts = rule_of(settings), torch.zeros(64, dtype=torch.float64)
    for _ in range(4_000):
        first = int(drawn(q[:1], random))
        second = int(drawn(q[first : first + 1], random))
        rows = [0, first, second]
        stand, said = policy.verify(p[rows].log(), [first, second], q[rows[:2]].log())
        tokens = [*[first, second][:stand], said]
        while len(tokens) < 3:
            tokens.append(int(drawn(p[tokens[-1]][None], random)))
        counts[16 * tokens[0] + 4 * tokens[1] + tokens[2]] += 1
    joint = p[0][:, None, None] * p[:, :, None] * p[None]
    assert p_value(counts, joint.reshape(-1)) > 0.01


def test_the_settings_are_those_of_transformers() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    scores = logits
    for warp in (TemperatureLogitsWarper(0.8), TopKLogitsWarper(12), TopPLogitsWarper(0.7)):
        scores = warp(torch.zeros(6, 1, dtype=torch.int64), scores)
    found = Sampling(0.8, top_k=12, top_p=0.7).shares(logits)
    torch.testing.assert_close(found, scores.double().softmax(-1), atol=1e-6, rtol=1e-5)


def test_greedy_keeps_what_the_verifier_would_have_said() -> None:
    logits = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert Greedy().verify(logits, [1, 2], None) == (2, 0)
    assert Greedy().verify(logits, [1, 0], None) == (1, 2)
    assert Greedy().verify(logits, [2, 2], None) == (0, 1)
    assert isinstance(rule_of(Sampling()), Greedy)


def test_a_drafter_equal_to_the_verifier_loses_no_draft() -> None:
    settings = Sampling(1.0, seed=1)
    logits = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    policy = rule_of(settings)
    for _ in range(50):
        drafts = drawn(settings.shares(logits[:8]), torch.Generator().manual_seed(3)).tolist()
        assert policy.verify(logits, drafts, logits[:8])[0] == 8


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_a_seed_repeats_what_is_drawn() -> None:
    logits = torch.zeros(5)
    draws = [[policy.draw(logits) for _ in range(20)] for policy in (rule_of(Sampling(1.0, seed=2)),) * 1]
    again = rule_of(Sampling(1.0, seed=2))
    assert draws[0] == [again.draw(logits) for _ in range(20)]
    assert Sampled(Sampling(1.0, seed=2), stream=1).draw(logits.expand(5)) in range(5)
