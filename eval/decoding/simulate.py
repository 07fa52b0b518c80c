"""An event simulator: the very loop of `tofc.decoding`, on a clock that only moves by what things cost.

Tiers are told what they would say at each position of the top tier's answer; a draft stands where it is what
the tier above says. That is all that greedy answers take: behind a draft that falls nothing counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tofc.decoding.choice import Greedy
from tofc.decoding.drafting import Counts, Drafter
from tofc.decoding.growing import Exchange, Growing
from tofc.decoding.pace import Pace
from tofc.decoding.reading import Read
from tofc.decoding.rounds import Round, Verdict
from tofc.decoding.verifier import Above, Verifier


@dataclass(frozen=True)
class Costs:
    """A tier in seconds: a pass over one token, what each further token adds to it, and `way`, a round to it
    and back without the pass; of the drafter, what it does besides for a round.

    alone: a token that is written right after another, where that takes less than a pass in between others.
    """

    one: float
    more: float = 0.0
    way: float = 0.0
    alone: float | None = None

    def read(self, tokens: int) -> float:
        """A pass over so many tokens."""
        if tokens == 1 and self.alone is not None:
            return self.alone
        return self.one + self.more * (tokens - 1)


class Clock:
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

    def __init__(self, clock: Clock) -> None:
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


class _Coming(Future[Any]):
    """What is known by now, and there from `due` on."""

    def __init__(self, clock: Clock, due: float, what: Any) -> None:
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

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def submit(self, call: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """Does it, and turns the clock back."""
        begin = self._clock.now
        what = call(*given, **named)
        due, self._clock.now = self._clock.now, begin
        return _Coming(self._clock, due, what)


def simulate(
    says: Sequence[Sequence[int]],
    costs: Sequence[Costs],
    pace: Pace,
    *,
    parallel: bool = False,
    middle: Pace | None = None,
    cores: Sequence[int] | None = None,
) -> Counts:
    """What an answer takes: `says[tier][position]`, token ids below 8, the drafter's first, the top's last.

    costs: of each tier. With `parallel` tiers go on while a round is under way. `middle` is the pace of tiers
    in the middle, `cores` names each tier's core: one of its own, if left out. `Counts.seconds` is the time
    on the simulated clock.
    """
    clock, most = Clock(), len(says[-1])
    used = range(len(says)) if cores is None else cores
    on = {core: _Core(clock) for core in used}
    readers = [_reader(said, cost, on[core]) for said, cost, core in zip(says, costs, used, strict=True)]
    exchange: Exchange | None = None
    for reader, cost in reversed(list(zip(readers[1:], costs[1:], strict=True))):
        above = None
        if exchange is not None:
            plans = Pace(parallel=parallel) if middle is None else middle
            above = Above(exchange, plans, _Aside(clock) if parallel else None, now=clock)
        verifier = Verifier(reader, Greedy(), frozenset(), most, above=above, now=clock)
        exchange = _link(verifier, cost, clock)
    assert exchange is not None
    checked = 0

    def besides(answer: Growing) -> None:
        nonlocal checked
        if answer.checked != checked:
            checked = answer.checked
            clock.spend(costs[0].way)

    drafter = Drafter(
        readers[0],
        Greedy(),
        exchange,
        pace,
        pool=_Aside(clock) if parallel else None,
        watch=besides,
        now=clock,
    )
    answer = Growing(frozenset(), most)
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


def _reader(said: Sequence[int], cost: Costs, core: _Core) -> Read:
    rows = torch.eye(8)

    def read(tokens: Sequence[int], last: int = 1) -> Tensor:
        core.spend(cost.read(last))
        places = range(len(tokens) - last + 1, len(tokens) + 1)
        return torch.stack([rows[said[p] if p < len(said) else 0] for p in places])

    return read


def _link(verifier: Verifier, cost: Costs, clock: Clock) -> Exchange:
    def exchange(round: Round) -> Verdict:
        clock.spend(cost.way / 2)
        verdict = verifier.check(round)
        clock.spend(cost.way / 2)
        return verdict

    return exchange
