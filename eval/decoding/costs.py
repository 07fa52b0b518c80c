"""What drafts, passes and ways cost in a run: a pace that writes down all that it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from eval.decoding.simulate import Costs
from tofc.drafting import Pace
from tofc.drafting.pace import line
from tofc.drafting.rounds import Verdict


@dataclass(frozen=True)
class Checked:
    """A round of drafts: the seconds of the pass over them, of its shared blocks, and of the way; whether
    states travelled."""

    drafts: int
    seconds: float
    shared: float
    way: float
    carried: bool


@dataclass
class Recorded(Pace):
    """A pace with the seconds of each draft, of each round and its way, and of tokens written alone; and with
    the rounds of drafts that took one pass."""

    draft_seconds: list[float] = field(default_factory=list)
    round_seconds: list[float] = field(default_factory=list)
    way_seconds: list[float] = field(default_factory=list)  # of rounds without states
    alone_seconds: list[float] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)
    looked_at: list[int] = field(default_factory=list)

    def forget(self) -> None:
        """Begins anew with writing down; what was learned stays."""
        for written in (
            self.draft_seconds,
            self.round_seconds,
            self.way_seconds,
            self.alone_seconds,
            self.checked,
            self.looked_at,
        ):
            written.clear()

    def drafted(self, seconds: float) -> None:
        """One draft was made."""
        super().drafted(seconds)
        self.draft_seconds.append(seconds)

    def looked(self, kept: float, tried: int) -> None:
        """One pass over so many tokens that were not drafted."""
        super().looked(kept, tried)
        self.looked_at.append(tried)

    def heard(
        self, verdict: Verdict, *, sent: int, elapsed: float, carried: bool = False, **more: Any
    ) -> None:
        """A round came back."""
        super().heard(verdict, sent=sent, elapsed=elapsed, carried=carried, **more)
        self.round_seconds.append(elapsed)
        if not verdict.passes:
            return
        way = elapsed - verdict.seconds
        if not carried:
            self.way_seconds.append(way)
        if sent and verdict.passes == 1:
            self.checked.append(Checked(sent, verdict.seconds, verdict.shared, way, carried))
        else:
            self.alone_seconds += [verdict.seconds / verdict.passes] * verdict.passes


def drafter_costs(recorded: Recorded, one: float, more: float, besides: float) -> Costs:
    """Of the device: `one` a draft where none was made, `more` what further tokens add to a pass; `besides`
    the seconds of all rounds that neither drafts nor ways nor passes explain."""
    draft = fmean(recorded.draft_seconds or [one])
    looks = sum(draft + more * (tokens - 1) for tokens in recorded.looked_at)
    return Costs(draft, more, max(0.0, besides - looks) / max(1, len(recorded.round_seconds)))


def verifier_costs(recorded: Recorded) -> Costs:
    """Of the tier that the device asks: passes over drafts on a line, and what states add and save.

    Where all rounds went with states, they are part of the way, and passes are over own blocks alone.
    """
    bare = [one for one in recorded.checked if not one.carried]
    loaded = [one for one in recorded.checked if one.carried]
    way = fmean(recorded.way_seconds or [one.way for one in loaded])
    alone = fmean(recorded.alone_seconds) if recorded.alone_seconds else None
    if not recorded.checked:
        assert alone is not None
        return Costs(alone, 0.0, way)
    shared = state = 0.0
    if bare and loaded:
        shared, usual = median(one.shared for one in bare), median(one.way for one in bare)
        state = max(0.0, median((one.way - usual) / (one.drafts + 1) for one in loaded))
    slope, at_none = line([(one.drafts, one.seconds + one.carried * shared) for one in recorded.checked])
    return Costs(at_none, slope, way, at_none if alone is None else alone, shared, state)
