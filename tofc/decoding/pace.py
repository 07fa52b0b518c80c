"""How many tokens to draft before asking: as many as pay, by what rounds have cost and kept so far.

With a share a of drafts kept one by one, a round of n drafts yields 1 + a + ... + a^n tokens. It takes the
drafting, one pass of the verifier, and the way there and back; in parallel, drafting goes on meanwhile, so
that as long as no draft falls a round takes the longer of both (figure 7 of AI Flow, arXiv 2506.12479). Where
no n beats a verifier that writes alone, it writes alone; what it writes then tells which drafts would stand.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean

from tofc.decoding.rounds import Verdict

MOST_DRAFTS = 16
ALONE = 16  # tokens at least that a verifier writes alone before it is heard
_FIRST = 1  # drafts of the first round, before there is anything to go by
# Tokens that a verifier writes alone before drafts that had not paid are tried once more.
_SHORT_REST, _LONG_REST = 32, 1024
_FEW = 6  # rounds with drafts after which their speed is believed more than what is expected of them
_TRUSTED = 24  # rounds after which the next rest is a short one
_WAY_SHARE, _FIRST_WAY_SHARE = 0.025, 0.1  # of the time of a round alone that the way may take
_LONGEST = 4.0  # seconds that it lasts at most for that
_MEMORY = 0.95  # weight of what was seen before the last round
_TOKEN_MEMORY = 0.99  # and before the last draft
_MOST_SHARE = 0.995  # of drafts that are expected to stand
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
    _tries: int = 0  # rounds with drafts since the last rest
    _rest: int = _SHORT_REST
    _resting: int = 0  # tokens

    @property
    def is_new(self) -> bool:
        """Whether not even the cost of a draft is known, from which the first plan starts."""
        return self.drafts is None and "draft" not in self._latest

    @property
    def wants_look(self) -> bool:
        """Whether the next plan depends on how many drafts would have stood while there were none."""
        return self.drafts is None and self._resting <= 0

    def plan(self) -> tuple[int, int]:
        """Drafts to make, and tokens that the verifier is to add."""
        if self.drafts is not None:
            return (self.drafts, 1) if self.drafts else (0, self.alone)
        self._seconds = self.seconds
        if "alone" not in self._seconds:
            return _FIRST, self._first_chunk()
        if self._resting <= 0:
            best = max(range(1, MOST_DRAFTS + 1), key=self.rate)
            if min(self.rate(best, self._hoped()), self._seen()) >= self.rate_alone():
                return best, 1
            self._rest = _SHORT_REST if self._tries >= _TRUSTED else min(2 * self._rest, _LONG_REST)
            self._resting, self._tries, self.gained, self.spent = self._rest, 0, 0.0, 0.0
        own = self._chunk()
        self._resting -= own
        return 0, own

    def _first_chunk(self) -> int:
        """Tokens of the verifier in the first round; as fast as drafts, as long as nothing else is known."""
        draft = self._second("draft")
        return max(self.alone, math.ceil(self._second("way") / _FIRST_WAY_SHARE / draft) if draft else 0)

    def _hoped(self) -> float:
        """The share of drafts that are kept, half a standard error higher: the unknown may be tried."""
        error = math.sqrt(self.share * (1 - self.share) / self.tried)
        return min(_MOST_SHARE, self.share + error / 2)

    def _chunk(self) -> int:
        """Tokens that a verifier writes alone in a round: so many that the way costs little beside them."""
        wanted = min(self._second("way") / _WAY_SHARE, _LONGEST)
        return max(self.alone, math.ceil(wanted / self._second("alone")))

    def _seen(self) -> float:
        """Tokens a second of the last rounds with drafts; infinite until there are some."""
        return self.gained / self.spent if self._tries >= _FEW else math.inf

    def drafted(self, seconds: float) -> None:
        """One draft was made."""
        self._learn("draft", seconds)

    def looked(self, kept: float, tried: int) -> None:
        """Of `tried` tokens of the verifier's so many would have been drafted."""
        self._count(kept, tried)

    def way(self, seconds: float) -> None:
        """So long an empty message takes there and back."""
        self._learn("way", seconds)

    def heard(
        self, verdict: Verdict, *, sent: int, stood: int, gained: int, elapsed: float, spent: float
    ) -> None:
        """A round came back after `elapsed` seconds: of `sent` drafts `stood` stand, `gained` tokens are new;
        `spent` seconds since the round before it came back."""
        if not verdict.passes:
            if gained:  # a tier in the middle passed on what the one above it wrote
                self._learn("alone", max(0.0, elapsed - self._second("way")) / gained)
            return  # of an old round there is nothing to learn
        self._learn("way", max(0.0, elapsed - verdict.seconds))
        if sent:
            self._count(min(stood, sent), min(stood + 1, sent))
        if not sent or verdict.passes > 1:  # most passes were over one token
            self._learn("alone", verdict.seconds / verdict.passes)
            return
        self._learn("verify", verdict.seconds)
        self._learn("verified", sent)
        self._tries += 1
        self.gained, self.spent = _MEMORY * self.gained + gained, _MEMORY * self.spent + spent

    def _count(self, kept: float, tried: int) -> None:
        fade = _TOKEN_MEMORY**tried
        self.kept, self.tried = fade * self.kept + kept, fade * self.tried + tried

    @property
    def share(self) -> float:
        """Of drafts that follow on kept ones, those that are kept."""
        return min(_MOST_SHARE, self.kept / self.tried)

    def rate(self, drafts: int, share: float | None = None) -> float:
        """Tokens a second with rounds of so many drafts, of which `share` stand (else as many as did)."""
        share = self.share if share is None else share
        draft = self._second("draft")
        under_way = self._pass(drafts) + self._second("way")
        tokens, seconds = _yield(drafts, share), drafts * draft + under_way
        if not self.parallel:
            return tokens / seconds
        # Where all stand and the verifier's own token is the one drafted next, what was drafted meanwhile
        # goes up at once, and so on; else a draft that is under way is finished in vain.
        more = drafts
        if draft:
            more = max(drafts, min(int(under_way / draft) - 1, drafts + MOST_DRAFTS - 1))
        follows, goes_on = share ** (drafts + 1), share ** (more + 1)
        rounds = follows / (1 - goes_on)
        steady = max(self._pass(more) + self._second("way"), (more + 1) * draft)
        tokens += rounds * _yield(more, share)
        return tokens / (seconds + rounds * steady + draft / 2)

    def _pass(self, drafts: int) -> float:
        """Seconds of a pass over so many drafts, by those over others and over none."""
        verify, alone = self._second("verify"), self._second("alone")
        if verify <= alone:
            return verify or alone
        return alone + (verify - alone) * drafts / self._second("verified")

    def rate_alone(self) -> float:
        """Tokens a second of the verifier alone, without waiting for each of them."""
        num = self._chunk()
        return num / (num * self._second("alone") + self._second("way"))

    @property
    def seconds(self) -> dict[str, float]:
        """What was measured, on average: a draft ("draft"), a pass of the verifier over one token ("alone")
        and over drafts ("verify"), "verified" of them, and a round besides ("way")."""
        means = {}
        for what, latest in self._latest.items():
            ordered = sorted(latest)
            means[what] = fmean(ordered[:-1] if len(ordered) > 2 else ordered[:1])
        return means

    def _second(self, what: str) -> float:
        return self._seconds.get(what, 0.0)

    def _learn(self, what: str, seconds: float) -> None:
        self._latest.setdefault(what, deque(maxlen=_LATEST)).append(max(seconds, 1e-9))


def _yield(drafts: int, share: float) -> float:
    """Tokens of a round: those that stand, and one of the verifier's."""
    return (1 - share ** (drafts + 1)) / (1 - share)
