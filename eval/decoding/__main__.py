"""`python -m eval.decoding`: are drafted answers the verifier's own, over many scenes and all tiers?"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations

from PIL import Image

from eval.scenes.world import make_scene
from tofc.decoding import Choice, Pace
from tofc.decoding.growing import Growing
from tofc.decoding.reading import readers
from tofc.decoding.together import end_ids, grow, prompt_of
from tofc.device import Device
from tofc.edge import Edge
from tofc.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Compares pairs and triples of members; exit code 1 where a greedy answer differs."""
    parser = argparse.ArgumentParser(prog="python -m eval.decoding", description=__doc__)
    parser.add_argument("--model", default="scenes-tiny", help="a checkpoint with a family")
    parser.add_argument("--scenes", type=int, default=500, help="of the test split")
    parser.add_argument("--members", help="such as e1-50,e2-50,full, the smallest first; else all")
    parser.add_argument("--prompt", default="Describe the picture.")
    parser.add_argument("--max-new-tokens", type=int, default=80)
    options = parser.parse_args(arguments)
    try:
        device, edge = Device.from_pretrained(options.model), Edge.from_pretrained(options.model)
        names = options.members.split(",") if options.members else edge.family.names
        names.sort(key=lambda name: edge.family.named(name).num_parameters)
        if len(names) < 2:
            raise UserError(f"{options.model} has {', '.join(names)} alone: two members are needed")
    except UserError as error:
        print(f"eval.decoding: {error}", file=sys.stderr)
        return 2
    groups = [*combinations(names, 2), *combinations(names, 3)]
    found = {group: {"equal": 0, "sent": 0, "stood": 0} for group in groups}
    for index in range(options.scenes):
        packet = device.encode(Image.fromarray(make_scene("test", index)[1]))
        settings = {"max_new_tokens": options.max_new_tokens}
        alone = {name: edge.answer(packet, options.prompt, exit=name, **settings).tokens for name in names}
        reads = readers(edge.family, prompt_of(edge, packet, options.prompt), names)
        for group in groups:
            answer = Growing(end_ids(edge), options.max_new_tokens)
            counts = grow(answer, [reads[name] for name in group], Choice(), Pace(4))
            said = tuple(token for token in answer.tokens if token not in answer.ends)
            found[group]["equal"] += said == alone[group[-1]]
            found[group]["sent"] += counts.sent
            found[group]["stood"] += counts.stood
        print(f"\r{index + 1} scenes", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for group, counted in found.items():
        share = 100 * counted["stood"] / max(1, counted["sent"])
        print(
            f"{' > '.join(group):28} {counted['equal']}/{options.scenes} equal, {share:.0f} % of drafts stood"
        )
    print(json.dumps({" ".join(group): counted for group, counted in found.items()}))
    return int(any(counted["equal"] < options.scenes for counted in found.values()))


if __name__ == "__main__":
    sys.exit(main())
