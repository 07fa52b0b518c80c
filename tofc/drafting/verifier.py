"""The verifying tier: the answer that one model gives alone, grown from another's drafts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future

from tofc.drafting.acceptance import Rule
from tofc.drafting.pace import Pace
from tofc.drafting.reader import Read, SharedBlocks
from tofc.drafting.rounds import (
    Exchange,
    LinkDown,
    Pack,
    PartialAnswer,
    Round,
    Verdict,
    bare,
    checksum,
    common,
)


class UpperTier:
    """What a tier in the middle has above it: a verifier for whom it drafts.

    `pack` has the last word about a round before it goes up. With a `pool` of threads, rounds go up while
    drafts from below are verified.
    """

    def __init__(
        self,
        exchange: Exchange,
        pace: Pace | None = None,
        pool: Executor | None = None,
        pack: Pack = bare,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._exchange, self._pool, self._pack, self._now = exchange, pool, pack, now
        self._pace = pace or Pace(parallel=pool is not None)
        self._coming: Future[Verdict] | None = None
        self._sent, self._carried, self._begun, self._heard_at = 0, False, 0.0, now()
        # Since then the tokens beyond that length came, without the time of waiting for the tier above.
        self._worked_from: float | None = None
        self._length = 0
        self._plan = self._pace.plan()

    @property
    def writes_alone(self) -> bool:
        """Whether drafts from here do not pay."""
        return self._plan[0] == 0

    def room(self, answer: PartialAnswer) -> int:
        """Tokens that are still to be drafted here before the next round."""
        return self._sent + self._plan[0] - (len(answer.tokens) - answer.checked)

    def ask(self, answer: PartialAnswer) -> bool:
        """Sends what is worth a round, and takes what has come; waits where nothing else is left to do.

        Gives False where a round was lost: its tokens go up with the next one.
        """
        if self.room(answer) <= 0 and not self.hear(answer, wait=True):
            return False
        waiting = len(answer.tokens) - answer.checked
        if self._coming is None and (waiting >= self._plan[0] or answer.has_ended) and not answer.is_over:
            self._send(answer, waiting)
        return self.hear(answer, wait=self.writes_alone or answer.has_ended)

    def hear(self, answer: PartialAnswer, wait: bool = False) -> bool:
        """Takes the verdict that is under way, if it is there or `wait` is true; False where it was lost."""
        asked = self._now()
        if self._worked_from is None:
            self._worked_from, self._length = asked, len(answer.tokens)
        if self._coming is None or not (wait or self._coming.done()):
            return True
        coming, self._coming, sent, self._sent = self._coming, None, self._sent, 0
        try:
            verdict = coming.result()
        except LinkDown:
            self._worked_from += self._now() - asked
            return False
        there, checked, drafts = self._now(), answer.checked, len(answer.tokens)
        stood = answer.take(verdict)
        self._worked_from += there - asked
        self._length += max(0, len(answer.tokens) - drafts)
        if stood < sent:  # what is drafted from here on goes on from elsewhere
            self._worked_from, self._length = there, len(answer.tokens)
        self._pace.heard(
            verdict,
            sent=sent,
            stood=stood,
            gained=answer.checked - checked,
            elapsed=there - self._begun,
            spent=there - self._heard_at,
            carried=self._carried,
        )
        self._heard_at, self._plan = there, self._pace.plan()
        return True

    def _send(self, answer: PartialAnswer, waiting: int) -> None:
        now, fresh = self._now(), len(answer.tokens) - self._length
        if fresh > 0 and self._worked_from is not None:
            self._pace.drafted((now - self._worked_from) / fresh)
        self._worked_from, self._length = now, len(answer.tokens)
        self._begun, self._sent = now, waiting
        round = self._pack(answer.round(self._plan[1]), answer.tokens)
        self._carried = bool(round.states)
        if self._pool is not None:
            self._coming = self._pool.submit(self._exchange, round)
            os.sched_yield()  # on one core, the thread that sends it would wait for its time slice
            return
        self._coming = Future()
        try:
            self._coming.set_result(self._exchange(round))
        except LinkDown as error:
            self._coming.set_exception(error)
        self._worked_from = self._now()


class Verifier:
    """Checks rounds of drafts with `read`; what it has said it takes back for a tier above alone.

    drafter: the model that made the drafts, where it is at hand: sampling then keeps the most. tokens: the
    answer up to here, of a verifier whose place this one takes. above: asked about what stands here; until it
    has answered, and as long as it cannot be reached, that is not final. shared: blocks of `read` whose
    states may come with a round. now: tells the time.
    """

    def __init__(
        self,
        read: Read,
        rule: Rule,
        ends: frozenset[int],
        most: int,
        drafter: Read | None = None,
        tokens: tuple[int, ...] = (),
        above: UpperTier | None = None,
        shared: SharedBlocks | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._read, self._rule, self._above, self._shared, self._now = read, rule, above, shared, now
        self._drafter = drafter if rule.weighs_drafts else None
        self.answer = PartialAnswer(ends, most, list(tokens), len(tokens), len(tokens))
        self.passes = 0

    def check(self, round: Round) -> Verdict:
        """What stands of a round; the same round again gives the same tokens, or more of them.

        Raises MessageError for states that are none of this model.
        """
        answer, above, passes = self.answer, self._above, self.passes
        begin, shared, own = self._now(), 0.0, 0
        if above is not None:
            above.hear(answer)
        drafts = self._fresh(round)
        if drafts is not None and not answer.has_ended and not (above is not None and above.writes_alone):
            drafts = self._within(drafts)
            shared = self._share(drafts, round)
            own = self._extend(drafts, round.own)
        if above is None:
            answer.final = answer.checked = len(answer.tokens)
        else:
            self._go_on(own, above)
        known = min(round.known, answer.final)
        return Verdict(
            since=known,
            tokens=tuple(answer.tokens[known:]),
            final=answer.final,
            is_over=answer.is_over,
            passes=self.passes - passes,
            seconds=self._now() - begin,
            shared=shared,
        )

    def _go_on(self, own: int, above: UpperTier) -> None:
        """Asks the tier above, and writes the `own` tokens that are still to come, as far as it has room."""
        length = -1
        while length < len(self.answer.tokens) and not self.answer.is_over:
            if not above.ask(self.answer):
                break  # the tier below is not kept waiting for another try
            length = len(self.answer.tokens)
            if not above.writes_alone:
                own = self._extend([], own)

    def _share(self, drafts: list[int], round: Round) -> float:
        """Takes the states of the drafts that came with them, computes them where none did, and gives the
        seconds of that."""
        if self._shared is None or not drafts:
            return 0.0
        begin, tokens = self._now(), [*self.answer.tokens, *drafts]
        if round.states:
            self._shared.take(tokens, round)
        self._shared.run(tokens)
        return self._now() - begin

    def _fresh(self, round: Round) -> list[int] | None:
        """The drafts that go on from the answer as it is here; None for those of another, or an old round."""
        tokens = self.answer.tokens
        if round.start > len(tokens) or checksum(tokens[: round.start]) != round.prefix:
            return None
        since = tokens[round.start :]
        if common(since, round.drafts) < len(since):
            return None
        return list(round.drafts[len(since) :])

    def _extend(self, drafts: list[int], own: int) -> int:
        """Appends the drafts that stand, then `own` tokens, or one where a draft fell; gives the number of
        those for which a tier above has no room yet."""
        answer = self.answer
        if drafts:
            logits = self._read([*answer.tokens, *drafts], len(drafts) + 1)
            self.passes += 1
            behind = None
            if self._drafter is not None:
                behind = self._drafter([*answer.tokens, *drafts], len(drafts) + 1)[:-1]
            stand, said = self._rule.verify(logits, drafts, behind)
            answer.tokens += drafts[:stand]
            if not answer.has_ended and (stand < len(drafts) or own > 0):
                answer.append(said)
                own -= 1
        while own > 0 and not answer.has_ended and (self._above is None or self._above.room(answer) > 0):
            answer.append(self._rule.draw(self._read(answer.tokens)[0]))
            self.passes += 1
            own -= 1
            if self._above is not None:
                os.sched_yield()  # nor is the one that hears the verdict to wait
        return own

    def _within(self, drafts: list[int]) -> list[int]:
        """Up to the end of an answer."""
        room = self.answer.most - len(self.answer.tokens)
        end = next((i + 1 for i, token in enumerate(drafts) if token in self.answer.ends), room)
        return drafts[: min(end, room)]
