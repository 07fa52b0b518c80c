"""How many tokens to draft before asking: as many as pay, by what rounds have cost and kept so far.

With a share a of drafts kept one by one, a round of n drafts yields 1 + a + ... + a^n tokens. It takes the
drafting, one pass of the verifier, and the way there and back; in parallel, drafting and verifying take the
longer of both as long as no draft falls (figure 7 of AI Flow, arXiv 2506.12479). Where no n beats a verifier
that writes alone, it writes alone.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean

from tofc.decoding.rounds import Verdict

MOST_DRAFTS = 16
ALONE = 16  # tokens at least that a verifier writes alone before it is heard
_FIRST = 4  # drafts of the first rounds, before there is anything to go by
# Tokens that a verifier writes alone before drafts are tried once more: more and more while that is in vain.
_SHORT_REST, _LONG_REST = 16, 1024
_FEW = 6  # rounds with drafts after which their speed is believed more than what is expected of them
_TRUSTED = 24  # rounds after which the next rest is a short one
_WAY_SHARE = 0.04  # of the time of a round alone that the way may take, as long as that stays
_LONGEST = 4.0  # seconds
_MEMORY = 0.95  # weight of what was seen before the last round
_HOPED = 0.98  # share of drafts that may stand for once
_LATEST = 15  # durations that count, without the longest: the first of a process is no measure


@dataclass
class Pace:
    """Follows what rounds cost, over any number of answers, and plans the next one.

    drafts: a fixed number in place of planned ones; 0 lets the verifier write alone, `alone` tokens a round.
    parallel: whether drafting goes on while a round is under way.
    """

    drafts: int | None = None
    parallel: bool = False
    alone: int = ALONE
    gained: float = 0.0  # tokens of rounds with drafts, and their seconds: the later the heavier
    spent: float = 0.0
    kept: float = 4.0  # drafts, with the weight of what was seen before the first round
    tried: float = 5.0
    _latest: dict[str, deque[float]] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)  # as of the last plan
    _rounds: int = 0
    _tries: int = 0  # rounds with drafts since the last rest
    _rest: int = _SHORT_REST
    _resting: int = 0  # tokens
    _is_trying: bool = False

    def plan(self) -> tuple[int, int]:
        """Drafts to make, and tokens that the verifier is to add."""
        if self.drafts is not None:
            return (self.drafts, 1) if self.drafts else (0, self.alone)
        if not self._rounds:
            return _FIRST, 1
        self._seconds = self.seconds
        best = max(range(1, MOST_DRAFTS + 1), key=self.rate)
        pays = self._is_trying or min(self.rate(best), self._seen()) >= self.rate_alone()
        if self._resting <= 0 and pays:
            self._is_trying = False
            return best, 1
        if self._resting <= 0:
            self._rest = 2 * _SHORT_REST if self._tries >= _TRUSTED else min(2 * self._rest, _LONG_REST)
            self._resting, self._tries, self.gained, self.spent = self._rest, 0, 0.0, 0.0
        own = self._chunk()
        self._resting -= own
        if self._resting <= 0:  # the next round has drafts, unless even good ones could not pay
            hoped = max(self.rate(drafts, _HOPED) for drafts in range(1, MOST_DRAFTS + 1))
            self._is_trying = hoped > self.rate_alone()
        return 0, own

    def _chunk(self) -> int:
        """Tokens that a verifier writes alone in a round: so many that the way costs little beside them."""
        writing = self._second("alone") or self._second("verify")
        wanted = min(self._second("way") / _WAY_SHARE, _LONGEST)
        return max(self.alone, math.ceil(wanted / writing))

    def _seen(self) -> float:
        """Tokens a second of the last rounds with drafts; infinite until there are some."""
        return self.gained / self.spent if self._tries >= _FEW else math.inf

    def drafted(self, seconds: float) -> None:
        """One draft was made."""
        self._learn("draft", seconds)

    def heard(
        self, verdict: Verdict, *, sent: int, stood: int, gained: int, elapsed: float, spent: float
    ) -> None:
        """A round came back after `elapsed` seconds: of `sent` drafts `stood` stand, `gained` tokens are new;
        `spent` seconds since the round before it came back."""
        if not verdict.passes:
            return  # an old round: it says nothing
        self._rounds += 1
        self._learn("way", max(0.0, elapsed - verdict.seconds))
        self._learn("verify" if sent else "alone", verdict.seconds / verdict.passes)
        if sent:
            self._tries += 1
            self.gained, self.spent = _MEMORY * self.gained + gained, _MEMORY * self.spent + spent
            self.kept = _MEMORY * self.kept + min(stood, sent)
            self.tried = _MEMORY * self.tried + min(stood + 1, sent)

    @property
    def share(self) -> float:
        """Of drafts that follow on kept ones, those that are kept."""
        return min(0.995, self.kept / self.tried)

    def rate(self, drafts: int, share: float | None = None) -> float:
        """Tokens a second with rounds of so many drafts, of which `share` stand (else as many as did)."""
        share = self.share if share is None else share
        tokens = (1 - share ** (drafts + 1)) / (1 - share)
        drafting, verifying = drafts * self._second("draft"), self._second("verify") + self._second("way")
        in_turn = drafting + verifying
        if not self.parallel:
            return tokens / in_turn
        # What is drafted meanwhile has to go on from the verifier's own token.
        through = share ** (drafts + 1)
        late = in_turn + self._second("draft") / 2  # a draft that is under way is finished first
        return tokens / (through * max(drafting, verifying) + (1 - through) * late)

    def rate_alone(self) -> float:
        """Tokens a second of the verifier alone, without waiting for each of them."""
        each, num = self._second("alone") or self._second("verify"), self._chunk()
        return num / (num * each + self._second("way"))

    @property
    def seconds(self) -> dict[str, float]:
        """What was measured, on average: a draft ("draft"), a pass of the verifier over drafts ("verify") and
        over one token ("alone"), and a round besides ("way")."""
        means = {}
        for what, latest in self._latest.items():
            ordered = sorted(latest)
            means[what] = fmean(ordered[:-1] if len(ordered) > 2 else ordered[:1])
        return means

    def _second(self, what: str) -> float:
        return self._seconds.get(what, 1e-9 if what == "verify" else 0.0)

    def _learn(self, what: str, seconds: float) -> None:
        self._latest.setdefault(what, deque(maxlen=_LATEST)).append(max(seconds, 1e-9))
