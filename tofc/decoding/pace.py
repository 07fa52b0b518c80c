"""How many tokens to draft before asking: as many as pay, by what rounds have cost and kept so far.

With a share a of drafts kept one by one, a round of n drafts yields 1 + a + ... + a^n tokens. It takes the
drafting, one pass of the verifier, and the way there and back; in parallel, drafting and verifying take the
longer of both as long as no draft falls (figure 7 of AI Flow, arXiv 2506.12479). Where no n beats a verifier
that writes alone, it writes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_DRAFTS = 16
ALONE = 16  # tokens that a verifier writes alone before it is heard
_FIRST = 4  # drafts of the first rounds, before there is anything to go by
_TRY_AGAIN = 6  # rounds alone after which drafts are tried once more
_GAIN = 0.3  # of moving averages


@dataclass
class Pace:
    """Follows what rounds cost, over any number of answers, and plans the next one.

    drafts: a fixed number in place of planned ones; 0 lets the verifier write alone. parallel: whether
    drafting goes on while a round is under way.
    """

    drafts: int | None = None
    parallel: bool = False
    kept: float = 4.0  # drafts, with the weight of what was seen before the first round
    tried: float = 5.0
    _seconds: dict[str, float] = field(default_factory=dict)
    _rounds: int = 0
    _alone: int = 0

    def plan(self) -> tuple[int, int]:
        """Drafts to make, and tokens that the verifier is to add."""
        if self.drafts is not None:
            return (self.drafts, 1) if self.drafts else (0, ALONE)
        if self._rounds < 2:
            return _FIRST, 1
        best = max(range(1, MOST_DRAFTS + 1), key=self.rate)
        if self.rate(best) >= self.rate_alone() or self._alone >= _TRY_AGAIN:
            self._alone = 0
            return best, 1
        self._alone += 1
        return 0, ALONE

    def drafted(self, seconds: float) -> None:
        """One draft was made."""
        self._learn("draft", seconds)

    def heard(self, sent: int, stood: int, own: int, elapsed: float, pass_seconds: float) -> None:
        """A round came back: of `sent` drafts `stood` stand; `elapsed` seconds in all."""
        if not pass_seconds:
            return  # an old round: it says nothing
        self._rounds += 1
        passes = 1 if sent else own
        self._learn("way", max(0.0, elapsed - passes * pass_seconds))
        self._learn("verify" if sent else "alone", pass_seconds)
        if sent:
            self.kept = 0.9 * self.kept + min(stood, sent)
            self.tried = 0.9 * self.tried + min(stood + 1, sent)

    @property
    def share(self) -> float:
        """Of drafts that follow on kept ones, those that are kept."""
        return min(0.995, self.kept / self.tried)

    def rate(self, drafts: int) -> float:
        """Tokens a second with rounds of so many drafts."""
        tokens = sum(self.share**i for i in range(drafts + 1))
        drafting, verifying = drafts * self._second("draft"), self._second("verify") + self._second("way")
        in_turn = drafting + verifying
        if not self.parallel:
            return tokens / in_turn
        through = self.share**drafts
        return tokens / (through * max(drafting, verifying) + (1 - through) * in_turn)

    def rate_alone(self) -> float:
        """Tokens a second of the verifier alone, without waiting for each of them."""
        each = self._seconds.get("alone", self._second("verify"))
        return ALONE / (ALONE * each + self._second("way"))

    def _second(self, what: str) -> float:
        return self._seconds.get(what, 1e-9)

    def _learn(self, what: str, seconds: float) -> None:
        before = self._seconds.get(what, seconds)
        self._seconds[what] = before + _GAIN * (seconds - before)
