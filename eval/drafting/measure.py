"""Collaborative decoding with real processes over shaped links, and simulated at the speeds of others."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from PIL import Image

from eval.drafting.expect import RecordedPace, expect, read_along
from eval.drafting.tiers import DraftingConfig, of_counted, of_published
from eval.latency.link import Link, Packets
from eval.latency.stages import one_thread
from eval.scenes.world import make_scene
from eval.serving.process import pin, running_server
from eval.serving.proxy import ShapedProxy
from tofc.cli.report import working
from tofc.device import Device
from tofc.drafting import Pace
from tofc.drafting.drafter import DraftCounts
from tofc.drafting.reader import StateRule
from tofc.drafting.remote import DraftSettings, draft_for
from tofc.edge import Edge
from tofc.familial import Roster, family
from tofc.packet import Packet
from tofc.serving.client import RemoteEdge
from tofc.writing import write_json

P = TypeVar("P", bound=Pace)
_FRAME_BYTES = 6  # that a WebSocket adds to a short message


@dataclass(frozen=True)
class DraftingSystem:
    """A way to an answer: which members work below the full one, the device's first, with what pace, and
    whether states travel (None: where they pay)."""

    name: str
    members: tuple[str, ...]
    drafts: int | None = None
    alone: int = 16
    parallel: bool = False
    states: bool | None = None

    def pace(self, kind: type[P]) -> P:
        """A fresh one for each link: it goes on learning from picture to picture."""
        return kind(self.drafts, parallel=self.parallel, alone=self.alone, states=StateRule(self.states))


@dataclass
class LinkRun:
    """A system's answers over one link, and what its pace wrote down meanwhile."""

    system: DraftingSystem
    link: Link
    pace: RecordedPace
    tokens: list[tuple[int, ...]] = field(default_factory=list)
    counts: list[DraftCounts] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of all answers."""
        return sum(counts.seconds for counts in self.counts)


def systems(config: DraftingConfig) -> list[DraftingSystem]:
    """What is compared: the edge alone, in one go and token by token, and drafts from the device."""
    two = (config.draft,)
    found = [
        DraftingSystem("edge alone", two, 0, alone=config.max_new_tokens),
        DraftingSystem("edge alone, every token there and back", two, 0, alone=1),
        DraftingSystem("device, edge, in turn", two),
        DraftingSystem("device, edge, in parallel, tokens only", two, parallel=True, states=False),
        DraftingSystem("device, edge, in parallel", two, parallel=True),
    ]
    if config.three:
        found.append(DraftingSystem("device, edge, cloud, in parallel", config.three, parallel=True))
    return found


def measure(config: DraftingConfig) -> dict[str, Any]:
    """`rows` of systems at each round trip, beside what the simulator expects of them."""
    device = Device.from_pretrained(config.model)
    pictures = [Image.fromarray(make_scene(config.split, index)[1]) for index in range(config.pictures)]
    packets = [device.encode(picture) for picture in pictures]
    del device
    roster = family(config.model)
    assert isinstance(roster, Roster)  # what a name gives
    needed = roster.deepest([config.draft, *config.three[:1]])
    edge = Edge.from_pretrained(config.model, needed.name)
    pin(config.cores[0])
    with one_thread():
        runs = [run for far in (False, True) for run in _connected(config, far, edge, packets)]
        told = read_along(config, Edge.from_pretrained(config.model), packets)
        rows = [_row(run, _alone(runs, run)) | expect(config, run, runs, told) for run in runs]
    return {
        "rows": rows,
        "device_alone_tokens_per_second": 1 / told.seconds[config.draft][0],
        "agreement": told.agreement,
    }


def _connected(config: DraftingConfig, far: bool, edge: Edge, packets: Sequence[Packet]) -> Iterator[LinkRun]:
    """All runs with tiers connected as they are, or `far` from each other."""
    links = [Link(config.mbit, ms / 1e3) for ms in config.round_trips_ms if bool(ms) is far]
    if not links:
        return
    with ExitStack() as stack:
        with working("starting the tiers"):
            running = tiers(config.model, config.cores, config.three[1:], links[0] if far else None)
            urls, proxies = stack.enter_context(running)
        for link in links:
            for proxy in proxies:
                proxy.link = link
            yield from _over(config, link, urls, edge, packets)


def _over(
    config: DraftingConfig, link: Link, urls: dict[int, str], edge: Edge, packets: Sequence[Packet]
) -> list[LinkRun]:
    """All systems over one link, picture by picture in turn: what the machine does meets all alike."""
    runs = [LinkRun(system, link, system.pace(RecordedPace)) for system in systems(config)]
    remotes = {num: RemoteEdge(url, _served(config.model)) for num, url in urls.items()}
    for number, packet in enumerate([packets[0], *packets]):  # the first once more, to warm up
        for run in runs:
            with working(f"{1e3 * link.round_trip:g} ms, {run.system.name}: picture {number}"):
                remote = remotes[len(run.system.members) + 1]
                how = DraftSettings(
                    run.system.members[0],
                    max_new_tokens=config.max_new_tokens,
                    parallel=run.system.parallel,
                    pace=run.pace,
                )
                decoded = draft_for(remote.connection, remote.model, edge, packet, config.prompt, how)
            if not number:
                run.pace.forget()
                continue
            run.tokens.append(decoded.answer.tokens)
            run.counts.append(decoded.counts)
    for remote in remotes.values():
        remote.close()
    return runs


def _alone(runs: Sequence[LinkRun], run: LinkRun) -> LinkRun:
    """The edge alone over the same link."""
    return next(other for other in runs if other.link == run.link and other.system.name == "edge alone")


def _row(run: LinkRun, alone: LinkRun) -> dict[str, Any]:
    tokens, counts = sum(map(len, run.tokens)), run.counts
    rounds = sum(one.rounds for one in counts)
    payload = sum(one.num_bytes for one in counts) / rounds + _FRAME_BYTES  # of a round, on average
    return {
        "system": run.system.name,
        "round_trip_ms": 1e3 * run.link.round_trip,
        "tokens_per_second": tokens / run.seconds,
        "of_edge_alone": alone.seconds / run.seconds,
        "stood_per_round": sum(one.stood for one in counts) / rounds,
        "rounds_per_answer": rounds / len(counts),
        "with_states": fmean([one.carried for one in run.pace.checked] or [0.0]),
        "uplink_bytes_per_token": rounds * Packets().on_the_wire(math.ceil(payload)) / tokens,
        "equal_to_edge_alone": sum(a == b for a, b in zip(run.tokens, alone.tokens, strict=True)),
        "answers": len(counts),
        "seconds": [one.seconds for one in counts],
        "seconds_by": run.pace.seconds,
    }


def _served(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]


def run(config: DraftingConfig, folder: Path) -> dict[str, Any]:
    """Measures and simulates, writes decoding.json into `folder`, and gives what it holds.

    Raises UserError for what the user can put right.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"config": asdict(config), "measured": measure(config)}
    with working("simulating the paper's tiers"):
        summary["published"] = [
            row
            for one in config.published
            for row in of_published(one, config.shares, config.simulated_tokens)
        ]
        if config.counted is not None:
            summary["counted"] = list(of_counted(config.counted, config.shares, config.simulated_tokens))
    write_json(folder / "decoding.json", summary)
    return summary


@contextmanager
def tiers(
    model: str, cores: tuple[int, ...], middle: Sequence[str], link: Link | None
) -> Iterator[tuple[dict[int, str], list[ShapedProxy]]]:
    """Addresses by the number of tiers, and the proxies in front of them, all of `link`; none for None.

    With two the full model verifies; there are three as well where `middle` names a member that verifies in
    between. UserError where a tier does not come up.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        proxies: list[ShapedProxy] = []

        def reached(core: int, *arguments: str) -> str:
            alone = ("--model", model, "--packets-only", "--threads", "1")
            serving = running_server(folder, *alone, *arguments, patience=180, core=core, OMP_NUM_THREADS="1")
            server = stack.enter_context(serving)
            if link is None:
                return server.url
            proxies.append(stack.enter_context(ShapedProxy(server.port, link)))
            return proxies[-1].url

        found = {2: reached(cores[-1])}
        for exit in middle:
            found[3] = reached(cores[min(1, len(cores) - 1)], "--upstream", found[2], "--exit", exit)
        yield found, proxies
