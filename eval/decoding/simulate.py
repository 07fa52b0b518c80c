"""An event simulator: the very loop of `tofc.decoding`, on a clock that only moves by what things cost.

Tiers are told what they would say at each position of the top tier's answer; a draft stands where it is what
the tier above says. That is all that greedy answers take: behind a draft that falls nothing counts.
"""

from __future__ import annotations

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
    and back without the pass."""

    one: float
    more: float = 0.0
    way: float = 0.0

    def read(self, tokens: int) -> float:
        """A pass over so many tokens."""
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
    says: Sequence[Sequence[int]], costs: Sequence[Costs], pace: Pace, *, parallel: bool = False
) -> Counts:
    """What an answer takes: `says[tier][position]`, token ids below 8, the drafter's first, the top's last.

    costs: of each tier; the drafter's `way` is not used. With `parallel` tiers go on while a round is
    under way. `Counts.seconds` is the time on the simulated clock.
    """
    clock, most = Clock(), len(says[-1])
    exchange: Exchange | None = None
    for said, cost in reversed(list(zip(says[1:], costs[1:], strict=True))):
        reader = _reader(said, cost, clock)
        above = None
        if exchange is not None:
            above = Above(exchange, Pace(parallel=parallel), _Aside(clock) if parallel else None, clock)
        verifier = Verifier(reader, Greedy(), frozenset(), most, above=above, now=clock)
        exchange = _link(verifier, cost, clock)
    assert exchange is not None
    drafter = Drafter(
        _reader(says[0], costs[0], clock),
        Greedy(),
        exchange,
        pace,
        pool=_Aside(clock) if parallel else None,
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


def _reader(said: Sequence[int], cost: Costs, clock: Clock) -> Read:
    rows = torch.eye(8)

    def read(tokens: Sequence[int], last: int = 1) -> Tensor:
        clock.spend(cost.read(last))
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
