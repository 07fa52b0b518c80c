"""Are drafted answers the verifier's own? Pairs and triples of members beside the largest of each alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from PIL import Image
from torch import Tensor

from eval.lab.rows import blocks
from eval.scenes.world import make_scene
from tofc.answer import Answer
from tofc.device import Device
from tofc.drafting.acceptance import rule_of
from tofc.drafting.drafter import DraftCounts, Drafter
from tofc.drafting.pace import Pace
from tofc.drafting.reader import Read, SharedBlocks, StateRule, StateSender, readers
from tofc.drafting.rounds import Exchange, PartialAnswer, Round, Verdict, common
from tofc.drafting.speculate import grow
from tofc.drafting.verifier import UpperTier, Verifier
from tofc.edge import Edge
from tofc.errors import UserError
from tofc.familial.views import Family
from tofc.language.prompt import Prompt
from tofc.language.sampling import Sampling
from tofc.packet import Packet

_DRAFTS = (1, 2, 3, 4, 6, 8, 12, 16)  # a round, scene by scene in turn: passes of every length
_BATCH = 16  # scenes that are answered alone at a time


@dataclass
class CachedReader:
    """A reader that computes each question once: members answer the same ones in many groups.

    Passes are told apart by all tokens and by how many rows are asked for, for rows of a longer pass may
    differ in their last bits.
    """

    read: Read
    known: dict[tuple[tuple[int, ...], int], Tensor] = field(default_factory=dict)

    def __call__(self, tokens: Sequence[int], last: int = 1) -> Tensor:
        """Logits [last, V]; see `Read`."""
        key = (tuple(tokens), last)
        if key not in self.known:
            self.known[key] = self.read(tokens, last)
        return self.known[key]


@dataclass(frozen=True)
class EqualitySettings:
    """What is asked about how many scenes; `apart`: each tier reads by itself, and states travel as bytes."""

    model: str = "scenes-tiny"
    scenes: int = 500
    members: tuple[str, ...] = ()
    prompt: str = "Describe the picture."
    max_new_tokens: int = 80
    apart: bool = False


@dataclass
class Equality:
    """By group of tiers how many answers are `equal` to the last one's own, and drafts `sent` that `stood`.

    `unequal` are the answers that differed: the position, the two likeliest tokens, and how far apart their
    logits are.
    """

    tallies: dict[tuple[str, ...], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unequal: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self, scenes: int) -> dict[str, Any]:
        """In plain numbers."""
        by_group = {" ".join(group): dict(tally) for group, tally in self.tallies.items()}
        return {"scenes": scenes, "unequal": self.unequal, **by_group}


def compare(
    edge: Edge,
    packet: Packet,
    alone: Mapping[str, Answer],
    scene: int,
    groups: Sequence[tuple[str, ...]],
    settings: EqualitySettings,
) -> Equality:
    """Every group's answer about one scene, beside what its last member gave `alone`."""
    prompt = edge.prompt(packet, settings.prompt)
    own = readers(edge.family, prompt, alone)
    reads = {name: CachedReader(read) for name, read in own.items()}
    found = Equality()
    for group in groups:
        answer = PartialAnswer(edge.ends, settings.max_new_tokens)
        drafts = _DRAFTS[scene % len(_DRAFTS)]
        if settings.apart:
            counts = grow_apart(answer, edge.family, prompt, group, drafts)
        else:
            counts = grow(answer, [reads[name] for name in group], Sampling(), Pace(drafts))
        said = tuple(token for token in answer.tokens if token not in answer.ends)
        wanted = alone[group[-1]].tokens
        found.tallies[group] = Counter(equal=int(said == wanted), sent=counts.sent, stood=counts.stood)
        if said != wanted:
            place = common(said, wanted)
            scores = own[group[-1]](said[:place])[0]
            likeliest = scores.topk(2)
            found.unequal.append(
                {
                    "tiers": group,
                    "scene": scene,
                    "position": place,
                    "likeliest": likeliest.indices.tolist(),
                    "gap": float(likeliest.values[0] - likeliest.values[1]),
                }
            )
    return found


def check(settings: EqualitySettings) -> Iterator[tuple[int, Equality]]:
    """Compares pairs and triples of members; yields the number of scenes done and what was found so far."""
    device, edge = Device.from_pretrained(settings.model), Edge.from_pretrained(settings.model)
    names = list(settings.members or edge.family.names)
    names.sort(key=lambda name: edge.family.named(name).num_parameters)
    if len(names) < 2:
        raise UserError(f"{settings.model} has {', '.join(names)} alone: two members are needed")
    groups = [*combinations(names, 2), *combinations(names, 3)]
    found = Equality()
    for scenes in blocks(settings.scenes, _BATCH):
        packets = [device.encode(Image.fromarray(make_scene("test", scene)[1])) for scene in scenes]
        asked = [(packet, settings.prompt) for packet in packets]
        most = settings.max_new_tokens
        alone = {name: edge.answer_many(asked, exit=name, max_new_tokens=most) for name in names}
        for row, scene in enumerate(scenes):
            given = {name: answers[row] for name, answers in alone.items()}
            one = compare(edge, packets[row], given, scene, groups, settings)
            found.unequal += one.unequal
            for group, tally in one.tallies.items():
                found.tallies[group].update(tally)
        yield scenes.stop, found


def grow_apart(
    answer: PartialAnswer, family: Family, prompt: Prompt, tiers: Sequence[str], drafts: int
) -> DraftCounts:
    """Grows an answer greedily with `tiers`, the smallest first, `drafts` a round, which bring their states.

    `tofc.drafting.speculate.grow` does it where tiers share what they have in common.
    """
    depths = [family.named(name).exit_layer for name in tiers]
    exchange: Exchange | None = None
    for name, own, below in reversed(list(zip(tiers[1:], depths[1:], depths, strict=False))):
        read = readers(family, prompt, [name], below)[name]
        above = None
        if exchange is not None:
            above = UpperTier(exchange, Pace(drafts), pack=_carrier(read.shared(own)))
        verifier = Verifier(
            read, rule_of(Sampling()), answer.ends, answer.most, above=above, shared=read.shared(below)
        )
        exchange = _wire(verifier)
    assert exchange is not None
    first = readers(family, prompt, [tiers[0]])[tiers[0]]
    pack = _carrier(first.shared(depths[0]))
    return Drafter(first, rule_of(Sampling()), exchange, Pace(drafts), pack=pack).run(answer)


def _carrier(shared: SharedBlocks) -> StateSender:
    return StateSender(shared, lambda: True, StateRule(always=True))


def _wire(verifier: Verifier) -> Exchange:
    def exchange(round: Round) -> Verdict:
        return Verdict.from_bytes(bytes(verifier.check(Round.from_bytes(bytes(round)))))

    return exchange
