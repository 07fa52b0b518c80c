"""What the simulator expects of the systems that were measured, from what passes took in that very run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from eval.drafting.simulate import TierCosts, simulate
from eval.drafting.tiers import DraftingConfig
from tofc.drafting import Pace
from tofc.drafting.pace import line
from tofc.drafting.reader import Read, readers
from tofc.drafting.rounds import Verdict
from tofc.edge import Edge
from tofc.packet import Packet

if TYPE_CHECKING:
    from eval.drafting.measure import LinkRun

_FULL = "full"
_LONG = 9  # tokens of a long pass
_REPEATS = 9


@dataclass(frozen=True)
class MemberReadings:
    """What each member would say behind the full one's words: `says[picture][member]`, position by position,
    the seconds that it takes here for a pass over one token and over `_LONG`, and the blocks that it shares
    with those above it."""

    says: list[dict[str, list[int]]]
    seconds: dict[str, tuple[float, float]]
    depths: dict[str, int]
    draft: str

    @property
    def agreement(self) -> float:
        """The share of the drafter's tokens that are the full model's."""
        return fmean(d == s for one in self.says for d, s in zip(one[self.draft], one[_FULL], strict=True))

    def tiers(self, names: Sequence[str]) -> list[list[list[int]]]:
        """For each picture what the tiers say: 0 where the last one says the same, else the tier's number."""
        return [
            [
                [0 if a == b else number for a, b in zip(one[name], one[names[-1]], strict=True)]
                for number, name in enumerate(names, 1)
            ]
            for one in self.says
        ]


def read_along(config: DraftingConfig, edge: Edge, packets: Sequence[Packet]) -> MemberReadings:
    """Has the members of a run read the full one's answers."""
    names = list(dict.fromkeys([config.draft, *config.three, _FULL]))
    says, ends = [], edge.ends
    for packet in packets:
        prompt = edge.prompt(packet, config.prompt)
        reads = readers(edge.family, prompt, names)
        answer: list[int] = []
        while len(answer) < config.max_new_tokens and not ends & set(answer[-1:]):
            answer.append(int(reads[_FULL](answer)[0].argmax()))
        says.append(
            {name: read(answer[:-1], len(answer)).argmax(-1).tolist() for name, read in reads.items()}
        )
        says[-1][_FULL] = answer
    seconds = {name: _timed(readers(edge.family, prompt, [name])[name], answer) for name in names}
    depths = {name: edge.family.named(name).exit_layer for name in names}
    return MemberReadings(says, seconds, depths, config.draft)


def _timed(read: Read, answer: list[int]) -> tuple[float, float]:
    """Seconds of a pass over one more token and over `_LONG`: medians."""
    base = max(0, len(answer) - _LONG - _REPEATS)

    def once(start: int, tokens: int) -> float:
        read(answer[:start])
        begin = time.perf_counter()
        read(answer[: start + tokens], tokens)
        return time.perf_counter() - begin

    spent = [[once(base + i, tokens) for i in range(_REPEATS)] for tokens in (1, _LONG)]
    return median(spent[0]), median(spent[1])


def expect(
    config: DraftingConfig, run: LinkRun, runs: Sequence[LinkRun], told: MemberReadings
) -> dict[str, Any]:
    """`simulated_over_measured` of a run, where every answer has a token at least."""
    if not all(run.tokens):
        return {}
    parallel, pace = run.system.parallel, run.system.pace(Pace)
    below, cores = run.system.members, [config.cores[0], config.cores[-1]]
    costs = [_drafting(run, told)]
    if len(below) == 1:
        costs.append(verifier_costs(run.pace))
    else:  # the device does not see what the cloud's passes take; with two tiers it does
        like = replace(run.system, name="", members=(config.draft,))
        two = next(r for r in runs if r.link == run.link and replace(r.system, name="") == like)
        top = verifier_costs(two.pace)
        alike = _like(top, told.seconds[below[1]], told.seconds[_FULL])
        shares = [told.depths[name] / told.depths[config.draft] for name in below]
        costs += [replace(c, shared=c.shared * share) for c, share in zip((alike, top), shares, strict=True)]
        cores.insert(1, config.cores[min(1, len(config.cores) - 1)])
    above = Pace(parallel=True)  # as servers do
    says = told.tiers([*below, _FULL])
    simulate(says[0], costs, pace, parallel=parallel, middle=above, cores=cores)  # as there, to warm up
    expected = sum(
        simulate(one, costs, pace, parallel=parallel, middle=above, cores=cores).seconds for one in says
    )
    return {"simulated_over_measured": expected / run.seconds}


def _drafting(run: LinkRun, told: MemberReadings) -> TierCosts:
    one, many = told.seconds[run.system.members[0]]
    waited = sum(counts.waited for counts in run.counts)
    if not run.system.parallel:
        waited += sum(run.pace.round_seconds)
    besides = run.seconds - sum(run.pace.draft_seconds) - waited
    return drafter_costs(run.pace, one, max(0.0, many - one) / (_LONG - 1), besides)


def _like(costs: TierCosts, seconds: tuple[float, float], full: tuple[float, float]) -> TierCosts:
    """The costs of a smaller tier, by how its passes compare here with those of the full model."""
    one, many = (a / b for a, b in zip(seconds, full, strict=True))
    alone = None if costs.alone is None else one * costs.alone
    return TierCosts(one * costs.one, many * costs.more, costs.way, alone, costs.shared, costs.state)


@dataclass(frozen=True)
class CheckedRound:
    """A round of drafts: the seconds of the pass over them, of its shared blocks, and of the way; whether
    states travelled."""

    drafts: int
    seconds: float
    shared: float
    way: float
    carried: bool


@dataclass
class RecordedPace(Pace):
    """A pace with the seconds of each draft, of each round and its way, and of tokens written alone; and with
    the rounds of drafts that took one pass."""

    draft_seconds: list[float] = field(default_factory=list)
    round_seconds: list[float] = field(default_factory=list)
    way_seconds: list[float] = field(default_factory=list)  # of rounds without states
    alone_seconds: list[float] = field(default_factory=list)
    checked: list[CheckedRound] = field(default_factory=list)
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
            self.checked.append(CheckedRound(sent, verdict.seconds, verdict.shared, way, carried))
        else:
            self.alone_seconds += [verdict.seconds / verdict.passes] * verdict.passes


def drafter_costs(recorded: RecordedPace, one: float, more: float, besides: float) -> TierCosts:
    """Of the device: `one` a draft where none was made, `more` what further tokens add to a pass; `besides`
    the seconds of all rounds that neither drafts nor ways nor passes explain."""
    draft = fmean(recorded.draft_seconds or [one])
    looks = sum(draft + more * (tokens - 1) for tokens in recorded.looked_at)
    return TierCosts(draft, more, max(0.0, besides - looks) / max(1, len(recorded.round_seconds)))


def verifier_costs(recorded: RecordedPace) -> TierCosts:
    """Of the tier that the device asks: passes over drafts on a line, and what states add and save.

    Where all rounds went with states, they are part of the way, and passes are over own blocks alone.
    """
    bare = [one for one in recorded.checked if not one.carried]
    loaded = [one for one in recorded.checked if one.carried]
    way = fmean(recorded.way_seconds or [one.way for one in loaded])
    alone = fmean(recorded.alone_seconds) if recorded.alone_seconds else None
    if not recorded.checked:
        assert alone is not None
        return TierCosts(alone, 0.0, way)
    shared = state = 0.0
    if bare and loaded:
        shared, usual = median(one.shared for one in bare), median(one.way for one in bare)
        state = max(0.0, median((one.way - usual) / (one.drafts + 1) for one in loaded))
    slope, at_none = line([(one.drafts, one.seconds + one.carried * shared) for one in recorded.checked])
    return TierCosts(at_none, slope, way, at_none if alone is None else alone, shared, state)
