"""`tofc eval drafting states`: from which link on would the states of shared blocks travel with drafts?

A verifier runs the blocks that it shares with its drafter once more, unless it is sent what the drafter has
after them. A pass over n drafts reads n + 1 tokens, the one before the drafts among them: n + 1 states would
travel. Members of a family are timed on this machine, one pass after another; for each large shape of a
configuration, operations and bytes are counted, with a drafter that has the first half of its blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import median
from typing import Any

import torch
from PIL import Image
from rich.table import Table

from eval.drafting.tiers import CountedTiers, DraftingConfig, pass_costs
from eval.lab.terminal import table
from eval.latency.link import Packets
from eval.scenes.world import make_scene
from tofc.device import Device
from tofc.drafting.reader import readers
from tofc.edge import Edge
from tofc.errors import UserError
from tofc.familial.views import Family
from tofc.language.prompt import Prompt

DRAFTS = (1, 4, 8)
_BEFORE = 16  # tokens of the answer in front of a pass
_ROUND = 21  # bytes that travel in any case
_BYTES = 2  # of a number in large models


@dataclass(frozen=True)
class Pass:
    """A verifier's pass over some drafts, with and without the `shared` blocks; a state has `state_bytes`."""

    verifier: str
    drafter: str
    shared: int
    drafts: int
    all_seconds: float
    own_seconds: float
    state_bytes: int

    @property
    def saved_seconds(self) -> float:
        """What states that travel save the verifier."""
        return self.all_seconds - self.own_seconds

    @property
    def wire_bytes(self) -> int:
        """What they add to a round, headers of packets included."""
        packets, states = Packets(), (self.drafts + 1) * self.state_bytes
        return packets.on_the_wire(_ROUND + states) - packets.on_the_wire(_ROUND)

    @property
    def pays_above_mbit(self) -> float | None:
        """The rate of the link at which they take as long as they save; None where they save nothing."""
        return 8e-6 * self.wire_bytes / self.saved_seconds if self.saved_seconds > 0 else None

    def row(self) -> dict[str, object]:
        """All of it, for JSON."""
        return asdict(self) | {"wire_bytes": self.wire_bytes, "pays_above_mbit": self.pays_above_mbit}


def timed(
    family: Family,
    prompt: Prompt,
    tokens: Sequence[int],
    pairs: Iterable[tuple[str, str]],
    repeats: int,
    now: Callable[[], float] = time.perf_counter,
) -> Iterator[Pass]:
    """Medians over `repeats` passes with all blocks and with the verifier's own, in turn.

    tokens: at least 25 of an answer; pairs: of drafter and verifier.
    """
    text = family.main.config.get_text_config()
    state_bytes = text.hidden_size * family.main.dtype.itemsize
    for drafter, verifier in pairs:
        whole = readers(family, prompt, [verifier])[verifier]
        both = readers(family, prompt, [drafter, verifier])  # the verifier goes on from the drafter's states
        for drafts in DRAFTS:
            end = _BEFORE + drafts + 1
            seconds: list[tuple[float, float]] = []
            for _ in range(repeats + 1):
                for read in (whole, *both.values()):
                    read(tokens[:_BEFORE])  # what was read behind these is dropped
                begin = now()
                whole(tokens[:end], drafts + 1)
                between = now()
                both[drafter](tokens[:end])
                resumed = now()
                both[verifier](tokens[:end], drafts + 1)
                seconds.append((between - begin, now() - resumed))
            every, own = (median(column) for column in zip(*seconds[1:], strict=True))
            shared = min(family.named(name).exit_layer for name in (drafter, verifier))
            yield Pass(verifier, drafter, shared, drafts, every, own, state_bytes)


def counted(settings: CountedTiers) -> Iterator[Pass]:
    """Each shape by operations and bytes, with states in 16 bits."""
    for shape in settings.shapes:
        shared = shape.layers // 2
        every, own = (
            pass_costs(replace(shape, layers=layers), settings.rates, settings.context)
            for layers in (shape.layers, shape.layers - shared)
        )
        for drafts in DRAFTS:
            times = every.read(drafts + 1), own.read(drafts + 1)
            yield Pass(shape.name, "first half", shared, drafts, *times, _BYTES * shape.width)


def report(settings: DraftingConfig, repeats: int) -> tuple[Table, dict[str, Any]]:
    """The table of passes, timed and counted, and its figures. UserError for what the user can put right."""
    measured = list(_bundled(settings, repeats))
    modelled = [] if settings.counted is None else list(counted(settings.counted))
    threads = torch.get_num_threads()
    title = (
        f"{settings.model} on {threads} thread(s), then large shapes by operations and bytes: a pass\n"
        "with all blocks, with the verifier's own, and the link above which states pay"
    )
    columns = ("shared", "drafts", "all ms", "own ms", "saved ms", "bytes", "Mbit/s")
    made = table(title, ["verifier", "drafter"], columns, map(_cells, [*measured, *modelled]))
    told = {"measured": [one.row() for one in measured], "counted": [one.row() for one in modelled]}
    return made, {"benchmark": "states", "threads": threads, **told}


def _bundled(settings: DraftingConfig, repeats: int) -> Iterator[Pass]:
    """Every pair of members, the smaller one drafting, behind one scene and the start of its description."""
    picture = Image.fromarray(make_scene(settings.split, 0)[1])
    packet = Device.from_pretrained(settings.model).encode(picture)
    edge = Edge.from_pretrained(settings.model)
    names = sorted(edge.family.names, key=lambda name: edge.family.named(name).num_parameters)
    needed = _BEFORE + max(DRAFTS) + 1
    tokens = edge.answer(packet, settings.prompt, max_new_tokens=needed).tokens
    if len(names) < 2 or len(tokens) < needed:
        raise UserError(
            f"{settings.model} has {len(names)} members and answers with {len(tokens)} tokens; it takes 2 "
            f"members and {needed} tokens: name another model or a prompt with longer answers in the "
            "configuration"
        )
    prompt = edge.prompt(packet, settings.prompt)
    yield from timed(edge.family, prompt, tokens, combinations(names, 2), repeats)


def _cells(one: Pass) -> tuple[str, ...]:
    rate = one.pays_above_mbit
    return (
        one.verifier,
        one.drafter,
        str(one.shared),
        str(one.drafts),
        *(f"{1e3 * ms:.3f}" for ms in (one.all_seconds, one.own_seconds, one.saved_seconds)),
        f"{one.wire_bytes:,}",
        "never" if rate is None else f"{rate:.0f}",
    )
