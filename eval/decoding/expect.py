"""What the simulator expects of the systems that were measured, from what passes took in that very run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from eval.decoding.config import DecodingConfig
from eval.decoding.costs import drafter_costs, verifier_costs
from eval.decoding.simulate import Costs, simulate
from tofc.drafting import Pace
from tofc.drafting.reader import Read, readers
from tofc.drafting.states import StateRule
from tofc.edge import Edge
from tofc.packet import Packet

if TYPE_CHECKING:
    from eval.decoding.measure import Run, System

_FULL = "full"
_LONG = 9  # tokens of a long pass
_REPEATS = 9


@dataclass(frozen=True)
class Told:
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


def read_along(config: DecodingConfig, edge: Edge, packets: Sequence[Packet]) -> Told:
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
    return Told(says, seconds, depths, config.draft)


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


def expect(config: DecodingConfig, run: Run, runs: Sequence[Run], told: Told) -> dict[str, Any]:
    """`simulated_over_measured` of a run, where every answer has a token at least."""
    if not all(run.tokens):
        return {}
    parallel, pace = run.system.parallel, _same_pace(run.system)
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


def _drafting(run: Run, told: Told) -> Costs:
    one, many = told.seconds[run.system.members[0]]
    waited = sum(counts.waited for counts in run.counts)
    if not run.system.parallel:
        waited += sum(run.pace.round_seconds)
    besides = run.seconds - sum(run.pace.draft_seconds) - waited
    return drafter_costs(run.pace, one, max(0.0, many - one) / (_LONG - 1), besides)


def _like(costs: Costs, seconds: tuple[float, float], full: tuple[float, float]) -> Costs:
    """The costs of a smaller tier, by how its passes compare here with those of the full model."""
    one, many = (a / b for a, b in zip(seconds, full, strict=True))
    alone = None if costs.alone is None else one * costs.alone
    return Costs(one * costs.one, many * costs.more, costs.way, alone, costs.shared, costs.state)


def _same_pace(system: System) -> Pace:
    states = StateRule(system.states)
    return Pace(system.drafts, parallel=system.parallel, alone=system.alone, states=states)
