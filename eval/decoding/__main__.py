"""`python -m eval.decoding`: are drafted answers the verifier's own, over many scenes and all tiers?

`python -m eval.decoding states` tells when states of shared blocks should travel with drafts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from eval.decoding.apart import grow_apart
from eval.scenes.world import make_scene
from tofc.answer import Answer
from tofc.device import Device
from tofc.drafting import Pace, Sampling
from tofc.drafting.partial import PartialAnswer
from tofc.drafting.reader import Read, common, readers
from tofc.drafting.speculate import grow
from tofc.edge import Edge
from tofc.errors import UserError
from tofc.packet import Packet

_DRAFTS = (1, 2, 3, 4, 6, 8, 12, 16)  # a round, scene by scene in turn: passes of every length
_BATCH = 16  # scenes that transformers answers at a time


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


@dataclass
class Tally:
    """Answers of one group of tiers: how many are the last one's own, and drafts that went up and stood."""

    equal: int = 0
    sent: int = 0
    stood: int = 0


def compare(
    edge: Edge,
    packet: Packet,
    alone: Mapping[str, Answer],
    scene: int,
    groups: Sequence[tuple[str, ...]],
    options: argparse.Namespace,
) -> tuple[dict[tuple[str, ...], Tally], list[dict[str, Any]]]:
    """Every group's answer about one scene, beside what its last member gave `alone`.

    Also gives what differed: the position, the two likeliest tokens, and how far apart their logits are.
    """
    prompt = edge.prompt(packet, options.prompt)
    own = readers(edge.family, prompt, alone)
    reads = {name: CachedReader(read) for name, read in own.items()}
    found, unequal = {}, []
    for group in groups:
        answer = PartialAnswer(edge.ends, options.max_new_tokens)
        drafts = _DRAFTS[scene % len(_DRAFTS)]
        if options.apart:
            counts = grow_apart(answer, edge.family, prompt, group, drafts)
        else:
            counts = grow(answer, [reads[name] for name in group], Sampling(), Pace(drafts))
        said = tuple(token for token in answer.tokens if token not in answer.ends)
        wanted = alone[group[-1]].tokens
        found[group] = Tally(int(said == wanted), counts.sent, counts.stood)
        if said != wanted:
            place = common(said, wanted)
            scores = own[group[-1]](said[:place])[0]
            likeliest = scores.topk(2)
            unequal.append(
                {
                    "tiers": group,
                    "scene": scene,
                    "position": place,
                    "likeliest": likeliest.indices.tolist(),
                    "gap": float(likeliest.values[0] - likeliest.values[1]),
                }
            )
    return found, unequal


def main(arguments: list[str] | None = None) -> int:
    """Compares pairs and triples of members, exit code 1 where a greedy answer differs; or `states`."""
    options = _options(arguments)
    try:
        if options.command == "states":
            from eval.decoding.states import report

            return report(options.config, options.repeats)
        device, edge = Device.from_pretrained(options.model), Edge.from_pretrained(options.model)
        names = options.members.split(",") if options.members else edge.family.names
        names.sort(key=lambda name: edge.family.named(name).num_parameters)
        if len(names) < 2:
            raise UserError(f"{options.model} has {', '.join(names)} alone: two members are needed")
    except UserError as error:
        print(f"eval.decoding: {error}", file=sys.stderr)
        return 2
    groups = [*combinations(names, 2), *combinations(names, 3)]
    total, unequal = {group: Tally() for group in groups}, []
    for first in range(0, options.scenes, _BATCH):
        scenes = range(first, min(first + _BATCH, options.scenes))
        packets = [device.encode(Image.fromarray(make_scene("test", scene)[1])) for scene in scenes]
        asked = [(packet, options.prompt) for packet in packets]
        settings = {"max_new_tokens": options.max_new_tokens}
        alone = {name: edge.answer_many(asked, exit=name, **settings) for name in names}
        for row, scene in enumerate(scenes):
            given = {name: answers[row] for name, answers in alone.items()}
            found, differing = compare(edge, packets[row], given, scene, groups, options)
            unequal += differing
            for group, one in found.items():
                tally = total[group]
                tally.equal += one.equal
                tally.sent += one.sent
                tally.stood += one.stood
        print(f"{scenes[-1] + 1} scenes, {len(unequal)} answers differ", file=sys.stderr, flush=True)
    for group, tally in total.items():
        share = 100 * tally.stood / max(1, tally.sent)
        print(f"{' > '.join(group):28} {tally.equal}/{options.scenes} equal, {share:.0f} % of drafts stood")
    told = {"scenes": options.scenes, "unequal": unequal} | {
        " ".join(group): vars(tally) for group, tally in total.items()
    }
    print(json.dumps(told))
    if options.out is not None:
        options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return int(bool(unequal))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.decoding", description=__doc__)
    parser.add_argument("--model", default="scenes-tiny", help="a checkpoint with a family")
    parser.add_argument("--scenes", type=int, default=500, help="of the test split")
    parser.add_argument("--members", help="such as e1,e2-50,full, in any order; else all")
    parser.add_argument("--prompt", default="Describe the picture.")
    parser.add_argument("--max-new-tokens", type=int, default=80)
    parser.add_argument(
        "--apart", action="store_true", help="each tier by itself, with states of drafts that travel as bytes"
    )
    parser.add_argument("--out", type=Path, help="a JSON file for what was found")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="besides")
    states = commands.add_parser("states", help="from which link on states of shared blocks should travel")
    states.add_argument("--config", default="decoding-scenes", help="names the model and the large shapes")
    states.add_argument("--repeats", type=int, default=60, help="passes of each kind that are timed")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
