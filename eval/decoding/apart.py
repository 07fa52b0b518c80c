"""Tiers as on machines of their own, in one process: nothing is shared, and what travels does so as bytes."""

from __future__ import annotations

from collections.abc import Sequence

from tofc.decoding.carry import Carrier, Carry
from tofc.decoding.choice import Choice
from tofc.decoding.drafting import Counts, Drafter
from tofc.decoding.growing import Exchange, Growing
from tofc.decoding.pace import Pace
from tofc.decoding.reading import Shared, readers
from tofc.decoding.rounds import Round, Verdict
from tofc.decoding.verifier import Above, Verifier
from tofc.familial.family import Family
from tofc.language.prompt import Prompt


def grow_apart(answer: Growing, family: Family, prompt: Prompt, tiers: Sequence[str], drafts: int) -> Counts:
    """Grows an answer greedily with `tiers`, the smallest first, `drafts` a round, which bring their states.

    `tofc.decoding.together.grow` does it where tiers share what they have in common.
    """
    depths = [family.named(name).exit_layer for name in tiers]
    exchange: Exchange | None = None
    for name, own, below in reversed(list(zip(tiers[1:], depths[1:], depths, strict=False))):
        read = readers(family, prompt, [name], below)[name]
        above = None
        if exchange is not None:
            above = Above(exchange, Pace(drafts), pack=_carrier(read.shared(own)))
        verifier = Verifier(
            read, Choice().policy(), answer.ends, answer.most, above=above, shared=read.shared(below)
        )
        exchange = _wire(verifier)
    assert exchange is not None
    first = readers(family, prompt, [tiers[0]])[tiers[0]]
    pack = _carrier(first.shared(depths[0]))
    return Drafter(first, Choice().policy(), exchange, Pace(drafts), pack=pack).run(answer)


def _carrier(shared: Shared) -> Carrier:
    return Carrier(shared, lambda: True, Carry(always=True))


def _wire(verifier: Verifier) -> Exchange:
    def exchange(round: Round) -> Verdict:
        return Verdict.from_bytes(bytes(verifier.check(Round.from_bytes(bytes(round)))))

    return exchange
