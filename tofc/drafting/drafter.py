"""The drafting tier: the one loop of collaborative decoding, over any link and with any rule."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from tofc.drafting.acceptance import Rule
from tofc.drafting.pace import MOST_DRAFTS, Pace
from tofc.drafting.reader import Read
from tofc.drafting.rounds import Exchange, LinkDown, LinkOver, Pack, PartialAnswer, Round, Verdict, bare

Watch = Callable[[PartialAnswer], None]
_OFFLINE = 4  # drafts between two tries of a link that is down
_LONGEST_PAUSE = 0.5  # seconds


@dataclass
class DraftCounts:
    """What an answer took: `drafted` tokens, of which `sent` went up and `stood`, in `rounds` that came back;
    `cuts` did not. Rounds took `num_bytes`, without what connections add. Seconds in all, and those of them
    in which the drafter only waited."""

    rounds: int = 0
    drafted: int = 0
    sent: int = 0
    stood: int = 0
    cuts: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class Drafter:
    """Drafts with `read`, asks the tier above by `exchange`, and goes on where that says.

    `pack` has the last word about a round before it goes up. With a `pool` of threads, drafting goes on while
    a round is under way. A link that is down is tried again and again, `pause` seconds apart and growing;
    meanwhile tokens grow unverified. At the end of the answer, tiers from which nothing comes for `patience`
    seconds are given up. `watch` is told at first and of every change, `now` tells the time.
    """

    def __init__(
        self,
        read: Read,
        rule: Rule,
        exchange: Exchange,
        pace: Pace,
        *,
        pack: Pack = bare,
        pool: Executor | None = None,
        pause: float = 0.05,
        patience: float = 10.0,
        watch: Watch | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._read, self._rule, self._exchange, self._pace = read, rule, exchange, pace
        self._pack, self._pool, self._pause, self._patience = pack, pool, pause, patience
        self._watch = watch or (lambda answer: None)
        self._now = now
        self.counts = DraftCounts()
        self._is_down = self._is_over = False
        self._idle = 0  # rounds in a row that brought nothing
        self._moved = 0.0  # when one last did
        self._heard_at = 0.0
        self._known = 0  # tokens up to which the pace knows whether drafts stand

    def run(self, answer: PartialAnswer) -> DraftCounts:
        """Grows `answer` until it is over, or the link is given up: then its last tokens are not final."""
        begin = self._moved = self._heard_at = self._now()
        self._watch(answer)
        if self._pace.is_new:
            self._draft(answer, 1)
        while not answer.is_over:
            if self._pace.wants_look:
                self._look(answer)
            drafts, own = self._pace.plan()
            if self._is_down:
                drafts = len(answer.tokens) - answer.checked + _OFFLINE
            self._draft(answer, drafts)
            if self._ask(answer, own):
                self._idle, self._moved = 0, self._now()
                continue
            self._idle += 1
            if answer.has_ended:  # nothing is left to do but to wait
                if self._is_over or self._now() - self._moved > self._patience:
                    break
                time.sleep(min(_LONGEST_PAUSE, self._pause * 2 ** min(self._idle, 6)))
        self.counts.seconds += self._now() - begin
        return self.counts

    def _draft(self, answer: PartialAnswer, num: int) -> None:
        """Up to `num` tokens that nobody has checked."""
        while len(answer.tokens) - answer.checked < num and not answer.has_ended:
            self._draft_one(answer)

    def _draft_one(self, answer: PartialAnswer) -> None:
        begin = self._now()
        answer.append(self._rule.draw(self._read(answer.tokens)[0]))
        self._pace.drafted(self._now() - begin)
        self.counts.drafted += 1
        self._watch(answer)

    def _look(self, answer: PartialAnswer) -> None:
        """Tells the pace how many tokens that were never drafted here would have been drafted right."""
        checked = answer.tokens[: answer.checked]
        num = len(checked) - self._known
        if num > 0:
            self._pace.looked(self._rule.agrees(self._read(checked[:-1], num), checked[-num:]), num)
            self._known = len(checked)

    def _ask(self, answer: PartialAnswer, own: int) -> bool:
        """One round; whether it brought anything."""
        before = (answer.final, answer.checked, len(answer.tokens))
        checked = answer.checked
        sent = len(answer.tokens) - answer.checked
        try:
            verdict, elapsed, carried = self._heard(answer, own)
        except LinkDown as error:
            self.counts.cuts += 1
            self._is_down, self._is_over = True, isinstance(error, LinkOver)
            return False
        self._is_down = False
        there = self._now()
        stood = answer.take(verdict)
        self._pace.heard(
            verdict,
            sent=sent,
            stood=stood,
            gained=answer.checked - checked,
            elapsed=elapsed,
            spent=there - self._heard_at,
            carried=carried,
        )
        self._heard_at = there
        if sent:
            self._known = answer.checked
        self.counts.rounds += 1
        self.counts.sent += sent
        self.counts.stood += stood
        self._watch(answer)
        return before != (answer.final, answer.checked, len(answer.tokens))

    def _heard(self, answer: PartialAnswer, own: int) -> tuple[Verdict, float, bool]:
        """Sends the drafts there are; gives what comes back, after how many seconds, and whether states went.

        Meanwhile drafts grow, where they can and are of use.
        """
        begin = self._now()
        round = self._pack(answer.round(own), answer.tokens)
        self.counts.num_bytes += len(bytes(round))
        if self._pool is None:
            return self._exchanged(round, begin)
        coming = self._pool.submit(self._exchanged, round, begin)
        if own > 1 and self._pace.drafts is None:
            self._look(answer)
        most = len(round.drafts) + MOST_DRAFTS
        while own <= 1 and round.drafts and not coming.done():
            if answer.has_ended or len(answer.tokens) - answer.checked >= most:
                break
            self._draft_one(answer)
            os.sched_yield()  # on one core, the thread that hears the verdict would wait for its time slice
        waiting = self._now()
        heard = coming.result()
        self.counts.waited += self._now() - waiting
        return heard

    def _exchanged(self, round: Round, begin: float) -> tuple[Verdict, float, bool]:
        return self._exchange(round), self._now() - begin, bool(round.states)
