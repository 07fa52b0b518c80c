"""Tiers as on machines of their own, in one process: nothing is shared, and what travels does so as bytes."""

from __future__ import annotations

from collections.abc import Sequence

from tofc.drafting.acceptance import rule_of
from tofc.drafting.drafter import DraftCounts, Drafter
from tofc.drafting.pace import Pace
from tofc.drafting.partial import Exchange, PartialAnswer
from tofc.drafting.reader import SharedBlocks, readers
from tofc.drafting.rounds import Round, Verdict
from tofc.drafting.states import StateRule, StateSender
from tofc.drafting.verifier import UpperTier, Verifier
from tofc.familial.family import Family
from tofc.language.prompt import Prompt
from tofc.language.sampling import Sampling


def grow_apart(
    answer: PartialAnswer, family: Family, prompt: Prompt, tiers: Sequence[str], drafts: int
) -> DraftCounts:
    """Grows an answer greedily with `tiers`, the smallest first, `drafts` a round, which bring their states.

    `tofc.drafting.speculate.grow` does it where tiers share what they have in common.
    """
    depths = [family.named(name).exit_layer for name in tiers]
    exchange: Exchange | None = None
    for name, own, below in reversed(list(zip(tiers[1:], depths[1:], depths, strict=False))):
        read = readers(family, prompt, [name], below)[name]
        above = None
        if exchange is not None:
            above = UpperTier(exchange, Pace(drafts), pack=_carrier(read.shared(own)))
        verifier = Verifier(
            read, rule_of(Sampling()), answer.ends, answer.most, above=above, shared=read.shared(below)
        )
        exchange = _wire(verifier)
    assert exchange is not None
    first = readers(family, prompt, [tiers[0]])[tiers[0]]
    pack = _carrier(first.shared(depths[0]))
    return Drafter(first, rule_of(Sampling()), exchange, Pace(drafts), pack=pack).run(answer)


def _carrier(shared: SharedBlocks) -> StateSender:
    return StateSender(shared, lambda: True, StateRule(always=True))


def _wire(verifier: Verifier) -> Exchange:
    def exchange(round: Round) -> Verdict:
        return Verdict.from_bytes(bytes(verifier.check(Round.from_bytes(bytes(round)))))

    return exchange
