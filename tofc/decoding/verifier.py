"""The verifying tier: the answer that one model gives alone, grown from another's drafts."""

from __future__ import annotations

import time

from tofc.decoding.choice import Policy
from tofc.decoding.growing import Exchange, Growing, LinkDown
from tofc.decoding.reading import Read, common
from tofc.decoding.rounds import Round, Verdict, told


class Verifier:
    """Checks rounds of drafts with `read`; what it has said it takes back for a tier above alone.

    drafter: the model that made the drafts, where it is at hand: sampling then keeps the most. tokens: the
    answer up to here, of a verifier whose place this one takes. upstream: asks a tier above about what stands
    here, as soon as there are `send_after` tokens; until then, and as long as it cannot be reached, they are
    not final.
    """

    def __init__(
        self,
        read: Read,
        policy: Policy,
        ends: frozenset[int],
        most: int,
        drafter: Read | None = None,
        tokens: tuple[int, ...] = (),
        upstream: Exchange | None = None,
        send_after: int = 8,
    ) -> None:
        self._read, self._policy, self._drafter = read, policy, drafter
        self._upstream, self._send_after = upstream, send_after
        self.answer = Growing(ends, most, list(tokens), len(tokens), len(tokens))
        self.passes = 0

    def check(self, round: Round) -> Verdict:
        """What stands of a round; the same round again gives the same tokens, or more of them."""
        passes, begin = self.passes, time.perf_counter()
        drafts = self._fresh(round)
        if drafts is not None and not self.answer.has_ended:
            self._extend(drafts, round.own)
        spent = time.perf_counter() - begin
        if self._upstream is None:
            self.answer.final = self.answer.checked = len(self.answer.tokens)
        else:
            self._ask_above(self._upstream)
        answer = self.answer
        known = min(round.known, answer.final)
        return Verdict(
            since=known,
            tokens=tuple(answer.tokens[known:]),
            final=answer.final,
            is_over=answer.is_over,
            seconds=spent / max(1, self.passes - passes) if self.passes > passes else 0.0,
        )

    def _fresh(self, round: Round) -> list[int] | None:
        """The drafts that go on from the answer as it is here; None for those of another, or an old round."""
        tokens = self.answer.tokens
        if round.start > len(tokens) or told(tokens[: round.start]) != round.prefix:
            return None
        since = tokens[round.start :]
        if common(since, round.drafts) < len(since):
            return None
        return list(round.drafts[len(since) :])

    def _extend(self, drafts: list[int], own: int) -> None:
        """Appends the drafts that stand, then at least `own` tokens; one where a draft fell."""
        answer = self.answer
        drafts = self._within(drafts)
        if drafts:
            logits = self._read([*answer.tokens, *drafts], len(drafts) + 1)
            self.passes += 1
            behind = None
            if self._drafter is not None:
                behind = self._drafter([*answer.tokens, *drafts], len(drafts) + 1)[:-1]
            stand, said = self._policy.verify(logits, drafts, behind)
            answer.tokens += drafts[:stand]
            if not answer.has_ended and (stand < len(drafts) or own > 0):
                answer.append(said)
                own -= 1
        while own > 0 and not answer.has_ended:
            answer.append(self._policy.draw(self._read(answer.tokens)[0]))
            self.passes += 1
            own -= 1

    def _within(self, drafts: list[int]) -> list[int]:
        """Up to the end of an answer."""
        room = self.answer.most - len(self.answer.tokens)
        end = next((i + 1 for i, token in enumerate(drafts) if token in self.answer.ends), room)
        return drafts[: min(end, room)]

    def _ask_above(self, upstream: Exchange) -> None:
        """Sends on what stands here, once it is worth a round."""
        answer = self.answer
        waiting = len(answer.tokens) - answer.final
        if not waiting or (waiting < self._send_after and not answer.has_ended):
            return
        try:
            answer.take(upstream(answer.round()))
        except LinkDown:
            return  # they go up with the next round
