"""Whether states travel with drafts: where the link takes less time for them than they save the verifier.

With w1 and w0 what rounds with and without states have taken beyond the verifier's own seconds, and s what
the shared blocks took the verifier in rounds without, medians of the last ones: states travel where
w1 - w0 < s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from threading import Lock

from tofc.drafting.reader import SharedBlocks
from tofc.drafting.rounds import Round

_FIRST_REST, _SHORT_REST, _LONG_REST = 5, 32, 512  # rounds before the other way is tried (once more)
_TRY = 5  # rounds that a try takes, the first of which does not count
_MARGIN = 0.1  # of what the shared blocks take: by so much the other way has to be better
_DEAR = 4.0  # times what they take: a try that costs more ends at once
_LATEST = 9  # rounds that count
_MOST_STATES = 64  # in a round: what was drafted while a link was down goes up without


@dataclass
class StateRule:
    """Follows what rounds with states and without them cost, and says how the next one goes.

    always: True or False in place of the rule.
    """

    always: bool | None = None
    _pays: bool = False  # as far as is known
    _tries: bool = False  # the other way, at the moment
    _rounds: int = 0  # since the way last changed
    _rest: int = _FIRST_REST
    _ways: dict[bool, deque[float]] = field(
        default_factory=lambda: {way: deque(maxlen=_LATEST) for way in (False, True)}
    )
    _shared: deque[float] = field(default_factory=lambda: deque(maxlen=_LATEST))
    _turn: Lock = field(default_factory=Lock, repr=False, compare=False)  # answers of several threads

    def goes(self, states: int) -> bool:
        """Whether so many states are to travel with the next round."""
        wanted = self._pays is not self._tries if self.always is None else self.always
        return wanted and states <= _MOST_STATES

    def heard(self, carried: bool, way: float, shared: float) -> None:
        """A round of drafts came back: beyond the verifier's seconds, `shared` of them in the shared blocks,
        it took `way`.
        """
        with self._turn:
            if self.always is None and carried is self.goes(1):
                self._learn(carried, way, shared)
            # Else there were too many states, or the other side takes none.

    def _learn(self, carried: bool, way: float, shared: float) -> None:
        self._rounds += 1
        if self._rounds == 1 and not carried:
            return  # the verifier has caught up with the positions of which it was given states
        self._ways[carried].append(way)
        if not carried:
            self._shared.append(shared)
        if self._tries:
            if self._rounds >= _TRY or (carried and self._cost() > _DEAR * median(self._shared)):
                self._decide()
        elif self._rounds >= (self._rest if self._better() is self._pays else self._doubts):
            self._try()

    def _try(self) -> None:
        """Goes the other way for a few rounds, which alone will count for it."""
        self._tries, self._rounds = True, 0
        self._ways[not self._pays].clear()
        if self._pays:
            self._shared.clear()

    def _decide(self) -> None:
        pays, self._tries = self._better(), False
        if pays is self._pays:
            self._rest, self._rounds = min(2 * self._rest, _LONG_REST), 0
        self._pays, self._rest = pays, max(self._rest, _SHORT_REST)

    @property
    def _doubts(self) -> int:
        """Rounds after which the other way is tried because this one has become worse than the other was."""
        return max(_SHORT_REST, self._rest // 8)

    def _cost(self) -> float:
        return median(self._ways[True]) - median(self._ways[False])

    def _better(self) -> bool:
        """Whether states pay; what is done stays as long as the other is not clearly better."""
        if not self._ways[True]:
            return self._pays
        margin = _MARGIN if self._pays else -_MARGIN
        return self._cost() < (1 + margin) * median(self._shared)


class StateSender:
    """Puts states into the rounds of one answer, where the other side `takes` them and `rule` has them go."""

    def __init__(self, shared: SharedBlocks, takes: Callable[[], bool], rule: StateRule) -> None:
        self._shared, self._takes, self._rule = shared, takes, rule

    def __call__(self, round: Round, tokens: Sequence[int]) -> Round:
        """The round about the last of `tokens`, with their states or without.

        The verifier has read everything but the token before the drafts.
        """
        begin = max(round.start - 1, 0)
        if not round.drafts or not self._takes() or not self._rule.goes(len(tokens) - begin):
            return round
        return replace(round, begin=begin, states=self._shared.states(tokens, begin))
