"""An event simulator: the very loop of `tofc.drafting`, on a clock that only moves by what things cost.

Tiers are told what they would say at each position of the top tier's answer; a draft stands where it is what
the tier above says. That is all that greedy answers take: behind a draft that falls nothing counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tofc.drafting.acceptance import Greedy
from tofc.drafting.drafter import DraftCounts, Drafter
from tofc.drafting.pace import Pace
from tofc.drafting.reader import Read, StateSender
from tofc.drafting.rounds import Exchange, PartialAnswer, Round, Verdict
from tofc.drafting.verifier import UpperTier, Verifier


@dataclass(frozen=True)
class TierCosts:
    """A tier in seconds: a pass over one token, what each further token adds to it, and `way`, a round to it
    and back without the pass; of the drafter, what it does besides for a round.

    alone: a token that is written right after another, where that takes less than a pass in between others.
    shared: of a pass over drafts, what states save that travel (0: none do); state: one of them on its way.
    """

    one: float
    more: float = 0.0
    way: float = 0.0
    alone: float | None = None
    shared: float = 0.0
    state: float = 0.0

    def read(self, tokens: int) -> float:
        """A pass over so many tokens, of those over drafts what comes after the shared blocks."""
        if tokens == 1 and self.alone is not None:
            return self.alone
        return self.one + self.more * (tokens - 1) - (self.shared if tokens > 1 else 0.0)


class SimulatedClock:
    """The time, which `spend` moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds since the beginning."""
        return self.now

    def spend(self, seconds: float) -> None:
        """So much later."""
        self.now += seconds


class _Core:
    """What computes for one tier or several: what is asked for later takes the gaps."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self._busy: deque[tuple[float, float]] = deque(maxlen=64)

    def spend(self, seconds: float) -> None:
        """Moves the clock on to where so many seconds of work are done."""
        now = self._clock.now
        for begin, end in sorted(self._busy):
            if end <= now:
                continue
            if begin >= now + seconds:
                break
            if begin > now:
                self._busy.append((now, begin))
                seconds -= begin - now
            now = end
        self._busy.append((now, now + seconds))
        self._clock.now = now + seconds


class _Shared:
    """Blocks whose states may travel: they take time where they were not given. A state is a byte here."""

    def __init__(self, core: _Core, seconds: float) -> None:
        self._core, self._seconds, self._given = core, seconds, False

    def states(self, tokens: Sequence[int], begin: int) -> bytes:
        return bytes(len(tokens) - begin)

    def take(self, tokens: Sequence[int], round: Round) -> None:
        self._given = True

    def run(self, tokens: Sequence[int]) -> None:
        if not self._given:
            self._core.spend(self._seconds)
        self._given = False


class _Coming(Future[Any]):
    """What is known by now, and there from `due` on."""

    def __init__(self, clock: SimulatedClock, due: float, what: Any) -> None:
        super().__init__()
        self._clock, self._due = clock, due
        self.set_result(what)

    def done(self) -> bool:
        """Whether it is there by now."""
        return self._clock.now >= self._due

    def result(self, timeout: float | None = None) -> Any:
        """Waits for it."""
        self._clock.now = max(self._clock.now, self._due)
        return super().result(timeout)


class _Aside(Executor):
    """What is submitted happens beside what goes on here."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock

    def submit(self, call: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """Does it, and turns the clock back."""
        begin = self._clock.now
        what = call(*given, **named)
        due, self._clock.now = self._clock.now, begin
        return _Coming(self._clock, due, what)


def simulate(
    says: Sequence[Sequence[int]],
    costs: Sequence[TierCosts],
    pace: Pace,
    *,
    parallel: bool = False,
    middle: Pace | None = None,
    cores: Sequence[int] | None = None,
) -> DraftCounts:
    """What an answer takes: `says[tier][position]`, token ids below 8, the drafter's first, the top's last.

    costs: of each tier. With `parallel` tiers go on while a round is under way. `middle` is the pace of tiers
    in the middle, `cores` names each tier's core: one of its own, if left out. `DraftCounts.seconds` is the
    time on the simulated clock.
    """
    clock, most = SimulatedClock(), len(says[-1])
    used = range(len(says)) if cores is None else cores
    on = {core: _Core(clock) for core in used}
    readers = [_reader(said, cost, on[core]) for said, cost, core in zip(says, costs, used, strict=True)]
    shared: list[Any] = [_Shared(on[core], cost.shared) for core, cost in zip(used, costs, strict=True)]
    exchange: Exchange | None = None
    takes = False  # states, the tier above
    for level in range(len(says) - 1, 0, -1):
        cost, above = costs[level], None
        if exchange is not None:
            plans = Pace(parallel=parallel) if middle is None else middle
            pack = StateSender(shared[level], partial(bool, takes), plans.states)
            above = UpperTier(exchange, plans, _Aside(clock) if plans.parallel else None, pack, clock)
        verifier = Verifier(
            readers[level], Greedy(), frozenset(), most, above=above, shared=shared[level], now=clock
        )
        exchange, takes = _link(verifier, cost, clock), cost.shared > 0
    assert exchange is not None
    checked = 0

    def besides(answer: PartialAnswer) -> None:
        nonlocal checked
        if answer.checked != checked:
            checked = answer.checked
            clock.spend(costs[0].way)

    drafter = Drafter(
        readers[0],
        Greedy(),
        exchange,
        pace,
        pack=StateSender(shared[0], partial(bool, takes), pace.states),
        pool=_Aside(clock) if parallel else None,
        watch=besides,
        now=clock,
    )
    answer = PartialAnswer(frozenset(), most)
    counts = drafter.run(answer)
    assert answer.tokens == list(says[-1])
    return counts


def random_says(shares: Sequence[float], tokens: int, seed: int = 0) -> list[list[int]]:
    """Tiers of which each says what the one above it says with so much probability, position by position."""
    random = torch.Generator().manual_seed(seed)
    out = [[0] * tokens]
    for share in reversed(shares):
        differs = torch.rand(tokens, generator=random) >= share
        above = torch.tensor(out[0])
        out.insert(0, torch.where(differs, (above + 1 + len(out)) % 8, above).tolist())
    return out


def _reader(said: Sequence[int], cost: TierCosts, core: _Core) -> Read:
    rows = torch.eye(8)

    def read(tokens: Sequence[int], last: int = 1) -> Tensor:
        core.spend(cost.read(last))
        places = range(len(tokens) - last + 1, len(tokens) + 1)
        return torch.stack([rows[said[p] if p < len(said) else 0] for p in places])

    return read


def _link(verifier: Verifier, cost: TierCosts, clock: SimulatedClock) -> Exchange:
    def exchange(round: Round) -> Verdict:
        clock.spend(cost.way / 2 + cost.state * len(round.states))
        verdict = verifier.check(round)
        clock.spend(cost.way / 2)
        return verdict

    return exchange
