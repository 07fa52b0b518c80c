"""How many tokens to draft before asking: as many as pay, by what rounds have cost and kept so far.

With a share a of drafts kept one by one, a round of n drafts yields 1 + a + ... + a^n tokens. It takes the
drafting, one pass of the verifier, and the way there and back; in parallel, drafting goes on meanwhile, so
that as long as no draft falls a round takes the longer of both (figure 7 of AI Flow, arXiv 2506.12479). Where
no n beats a verifier that writes alone, it writes alone; what it writes then tells which drafts would stand.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import fmean, median

from tofc.drafting.reader import StateRule
from tofc.drafting.rounds import Verdict

MOST_DRAFTS = 16
ALONE = 16  # tokens at least that a verifier writes alone before it is heard
_FIRST = 1  # drafts of the first round, before there is anything to go by
# Tokens that a verifier writes alone before drafts that had not paid are tried once more.
_SHORT_REST, _LONG_REST = 64, 1024
_SPREAD = 0.8  # of the speed of one round, as a share of it: what few rounds showed is believed less
_FEW = 8  # rounds, with less memory of them, that show nothing yet
_TRUSTED = 24  # rounds with drafts after which the next rest is a short one
_WAY_SHARE, _FIRST_WAY_SHARE = 0.025, 0.1  # of the time of a round alone that the way may take
_LONGEST = 4.0  # seconds that it lasts at most for that
_MEMORY = 0.97  # weight of what was seen before the last round
_TOKEN_MEMORY = 0.99  # and before the last draft
_MOST_SHARE = 0.995  # of drafts that are expected to stand
_LATEST = 15  # durations that count
_KEPT_UP = 1.5  # times the median of the last rounds: what takes longer counts as that


@dataclass
class Pace:
    """Follows what rounds cost, over any number of answers, and plans the next one.

    drafts: a fixed number in place of planned ones; 0 lets the verifier write alone, `alone` tokens a round.
    parallel: whether drafting goes on while a round is under way. states: whether those of drafts go along.
    """

    drafts: int | None = None
    parallel: bool = False
    alone: int = ALONE
    states: StateRule = field(default_factory=StateRule)
    rounds: float = 0.0  # with drafts, their tokens and their seconds: the later the heavier
    gained: float = 0.0
    spent: float = 0.0
    kept: float = 4.0  # drafts, with the weight of what was seen before the first round
    tried: float = 5.0
    _latest: dict[str, deque[float]] = field(default_factory=dict)
    _passes: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_LATEST))
    _seconds: dict[str, float] = field(default_factory=dict)  # as of the last plan
    _spent: deque[float] = field(default_factory=lambda: deque(maxlen=_LATEST))
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
            self._resting, self._tries = self._rest, 0
            self._remember(0.5)  # by the next try, things may have changed
        own = self._chunk()
        self._resting -= own
        return 0, own

    def _first_chunk(self) -> int:
        """Tokens of the verifier in the first round; as fast as drafts, as long as nothing else is known."""
        draft = self._second("draft")
        return max(
            self.alone, math.ceil(self._second("alone_way") / _FIRST_WAY_SHARE / draft) if draft else 0
        )

    def _hoped(self) -> float:
        """The share of drafts that are kept, half a standard error higher: the unknown may be tried."""
        error = math.sqrt(self.share * (1 - self.share) / self.tried)
        return min(_MOST_SHARE, self.share + error / 2)

    def _chunk(self) -> int:
        """Tokens that a verifier writes alone in a round: so many that the way costs little beside them."""
        wanted = min(self._second("alone_way") / _WAY_SHARE, _LONGEST)
        return max(self.alone, math.ceil(wanted / self._second("alone")))

    def _seen(self) -> float:
        """Tokens a second that the last rounds with drafts may well have shown; infinite before a few."""
        if self.rounds < _FEW:
            return math.inf
        return self.gained / self.spent * (1 + _SPREAD / math.sqrt(self.rounds))

    def drafted(self, seconds: float) -> None:
        """One draft was made."""
        self._learn("draft", seconds)

    def looked(self, kept: float, tried: int) -> None:
        """Of `tried` tokens of the verifier's so many would have been drafted."""
        self._count(kept, tried)

    def way(self, seconds: float) -> None:
        """So long an empty message takes there and back."""
        self._learn("alone_way", seconds)

    def heard(
        self,
        verdict: Verdict,
        *,
        sent: int,
        stood: int,
        gained: int,
        elapsed: float,
        spent: float,
        carried: bool = False,
    ) -> None:
        """A round came back after `elapsed` seconds: of `sent` drafts `stood` stand, `gained` tokens are new;
        `spent` seconds since the round before it came back. `carried`: with the drafts' states."""
        if not verdict.passes:  # nobody looked at the drafts
            if sent:
                self._count(0, 1)
            if gained > sent + 1:  # a tier in the middle passed on what the one above it wrote
                self._learn("alone", max(0.0, elapsed - self._second("alone_way")) / gained)
            return
        way = max(0.0, elapsed - verdict.seconds)
        self._learn("way" if sent else "alone_way", way)
        if sent:
            self.states.heard(carried, way, verdict.shared)
            self._count(min(stood, sent), min(stood + 1, sent))
        if not sent or verdict.passes > 1:  # most passes were over one token
            self._learn("alone", verdict.seconds / max(verdict.passes, gained))
            return
        self._passes.append((sent, verdict.seconds))
        self._tries += 1
        if self._tries == 1:
            return  # after a rest it has much to read before it can draft
        self._remember(_MEMORY)
        self._spent.append(spent)
        # Like the verifier's own token, of which the median counts: one round that was kept up is no measure.
        spent = min(spent, _KEPT_UP * median(self._spent))
        self.rounds, self.gained, self.spent = self.rounds + 1, self.gained + gained, self.spent + spent

    def _remember(self, share: float) -> None:
        self.rounds, self.gained, self.spent = (
            share * self.rounds,
            share * self.gained,
            share * self.spent,
        )

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
        """Seconds of a pass over so many drafts; one over none, as long as there was no other."""
        if not self._passes:
            return self._second("alone")
        return self._second("verify") + self._second("more") * drafts

    def rate_alone(self) -> float:
        """Tokens a second of the verifier alone, without waiting for each of them."""
        num = self._chunk()
        return num / (num * self._second("alone") + self._second("alone_way"))

    @property
    def seconds(self) -> dict[str, float]:
        """What was measured: a draft ("draft"), a pass of the verifier over one token ("alone"), and a round
        besides: with drafts ("way"), or after a wait ("alone_way"), when machines and connections may have
        gone to sleep. A pass over n drafts takes "verify" + n * "more".

        What belongs to drafts is what three in four took at least: the first ones after a rest are slow, and
        are no measure of those that would follow; how fast all of them were together is seen soon enough.
        """
        found = {}
        for what, latest in self._latest.items():
            quantile = 2 if what.startswith("alone") else 4
            found[what] = sorted(latest)[(len(latest) - 1) // quantile]
        found.setdefault("way", min(self._latest.get("alone_way", [0.0])))
        if self._passes:
            most = 1.5 * median(seconds for _, seconds in self._passes)
            found["more"], found["verify"] = line([one for one in self._passes if one[1] <= most])
        return found

    def _second(self, what: str) -> float:
        return self._seconds.get(what, 0.0)

    def _learn(self, what: str, seconds: float) -> None:
        self._latest.setdefault(what, deque(maxlen=_LATEST)).append(max(seconds, 1e-9))


def line(points: Collection[tuple[int, float]]) -> tuple[float, float]:
    """Slope, from 0 to that of a proportion, and value at 0 of a line near (tokens, seconds).

    The slope of points that lie close together is held down: it would be that of their noise.
    """
    x, y = fmean(point[0] for point in points), fmean(point[1] for point in points)
    spread = sum((point[0] - x) ** 2 for point in points) + len(points)
    slope = sum((point[0] - x) * (point[1] - y) for point in points) / spread
    slope = min(max(slope, 0.0), y / x)
    return slope, y - slope * x


def _yield(drafts: int, share: float) -> float:
    """Tokens of a round: those that stand, and one of the verifier's."""
    return (1 - share ** (drafts + 1)) / (1 - share)
