"""Collaborative decoding with real processes over shaped links, and the same in simulation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from eval.decoding.config import DecodingConfig
from eval.decoding.processes import pin, tiers
from eval.decoding.simulate import Costs, simulate
from eval.latency.link import Link
from eval.scenes.world import make_scene
from eval.serving.shaped import ShapedProxy
from tofc.cli_report import working
from tofc.decoding import Decoded, Pace
from tofc.decoding.reading import readers
from tofc.decoding.remote import draft_for
from tofc.decoding.together import prompt_of
from tofc.device import Device
from tofc.edge import Edge
from tofc.packet import Packet
from tofc.serving.client import RemoteEdge


@dataclass(frozen=True)
class System:
    """A way to an answer: at which proxy, how many tiers, and with what pace."""

    name: str
    at: str
    tiers: int
    drafts: int | None
    alone: int = 16
    parallel: bool = False

    def pace(self) -> Pace:
        """A fresh one for each link: it goes on learning from picture to picture."""
        return Pace(self.drafts, parallel=self.parallel, alone=self.alone)


def systems(config: DecodingConfig) -> list[System]:
    """What is compared: the edge alone, in one go and token by token, and drafts from the device."""
    found = [
        System("edge alone", "edge", 2, 0, alone=config.max_new_tokens),
        System("edge alone, every token there and back", "edge", 2, 0, alone=1),
        System("device, edge, in turn", "edge", 2, None),
        System("device, edge, in parallel", "edge", 2, None, parallel=True),
    ]
    if config.middle is not None:
        found.append(System("device, edge, cloud, in parallel", "middle", 3, None, parallel=True))
    return found


def measure(config: DecodingConfig) -> dict[str, Any]:
    """`rows` of systems at each round trip, the device's own speed, the share of drafts that stand."""
    device = Device.from_pretrained(config.model)
    packets = [
        device.encode(Image.fromarray(make_scene("test", index)[1])) for index in range(config.pictures)
    ]
    del device
    edge = Edge.from_pretrained(config.model, config.draft)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pin(config.cores[0])
    try:
        links = [Link(config.mbit, ms / 1e3) for ms in config.round_trips_ms]
        with working("starting the tiers"):
            running = tiers(config.model, config.cores, config.middle, links)
        with running as proxies:
            rows = [row for link in links for row in _over(config, link, proxies, edge, packets)]
        return _summary(config, edge, packets, rows)
    finally:
        torch.set_num_threads(threads)


def _over(
    config: DecodingConfig,
    link: Link,
    proxies: dict[str, ShapedProxy],
    edge: Edge,
    packets: Sequence[Packet],
) -> Iterator[dict[str, Any]]:
    """All systems over one link, picture by picture in turn: what the machine does meets all alike."""
    for proxy in proxies.values():
        proxy.link = link
    used = systems(config)
    paces = {system.name: system.pace() for system in used}
    remotes = {at: RemoteEdge(proxies[at].url, _served(config.model)) for at in {s.at for s in used}}
    found: dict[str, list[dict[str, Any]]] = {system.name: [] for system in used}
    for number, packet in enumerate([packets[0], *packets]):  # the first once more, to warm up
        for system in used:
            with working(f"{1e3 * link.round_trip:g} ms, {system.name}: picture {number}"):
                one = _one(
                    config, system, paces[system.name], remotes[system.at], proxies[system.at], edge, packet
                )
            if number:
                found[system.name].append(one)
    for remote in remotes.values():
        remote.close()
    for system in used:
        yield {"system": system.name, "round_trip_ms": 1e3 * link.round_trip, "answers": found[system.name]}


def _one(
    config: DecodingConfig,
    system: System,
    pace: Pace,
    remote: RemoteEdge,
    proxy: ShapedProxy,
    edge: Edge,
    packet: Packet,
) -> dict[str, Any]:
    opened = 0

    def look(_: Any) -> None:  # called first once the answer is open: what was sent by then is the packet
        nonlocal opened
        opened = opened or proxy.sent

    decoded: Decoded = draft_for(
        remote,
        edge,
        packet,
        config.prompt,
        tiers=system.tiers,
        max_new_tokens=config.max_new_tokens,
        pace=pace,
        parallel=system.parallel,
        watch=look,
    )
    counts = decoded.counts
    return {
        "tokens": list(decoded.answer.tokens),
        "seconds": counts.seconds,
        "rounds": counts.rounds,
        "sent": counts.sent,
        "stood": counts.stood,
        "uplink_bytes": proxy.sent - opened,
        "seconds_by": dict(pace.seconds),
    }


def _summary(
    config: DecodingConfig, edge: Edge, packets: Sequence[Packet], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    alone = {row["round_trip_ms"]: row for row in rows if row["system"] == "edge alone"}
    says, device_rate = _drafter(config, edge, packets, next(iter(alone.values()))["answers"])
    out = []
    for row in rows:
        answers, base = row["answers"], alone[row["round_trip_ms"]]["answers"]
        tokens, seconds = sum(len(a["tokens"]) for a in answers), sum(a["seconds"] for a in answers)
        rounds = sum(a["rounds"] for a in answers)
        out.append(
            {
                "system": row["system"],
                "round_trip_ms": row["round_trip_ms"],
                "tokens_per_second": tokens / seconds,
                "of_edge_alone": sum(a["seconds"] for a in base) / seconds,
                "stood_per_round": sum(a["stood"] for a in answers) / rounds,
                "rounds_per_answer": rounds / len(answers),
                "uplink_bytes_per_token": sum(a["uplink_bytes"] for a in answers) / tokens,
                "equal_to_edge_alone": sum(
                    a["tokens"] == b["tokens"] for a, b in zip(answers, base, strict=True)
                ),
                "answers": len(answers),
            }
        )
    _simulated(out, rows, says)
    agreement = fmean(draft == said for one in says for draft, said in zip(*one, strict=True))
    return {"rows": out, "device_alone_tokens_per_second": device_rate, "agreement": agreement}


def _drafter(
    config: DecodingConfig, edge: Edge, packets: Sequence[Packet], answers: Sequence[dict[str, Any]]
) -> tuple[list[list[list[int]]], float]:
    """What the drafter would say at each position of each answer, beside it; its own tokens a second."""
    says, spent, written = [], 0.0, 0
    for packet, answer in zip(packets, answers, strict=True):
        read = readers(edge.family, prompt_of(edge, packet, config.prompt), [config.draft])[config.draft]
        read([])
        tokens: list[int] = []
        begin = time.perf_counter()
        for _ in answer["tokens"]:
            tokens.append(int(read(tokens)[0].argmax()))
        spent, written = spent + time.perf_counter() - begin, written + len(tokens)
        said = answer["tokens"]
        drafts = read(said, len(said) + 1)[:-1].argmax(-1).tolist()
        says.append([[int(d != s) for d, s in zip(drafts, said, strict=True)], [0] * len(said)])
    return says, written / spent


def _simulated(out: list[dict[str, Any]], rows: list[dict[str, Any]], says: list[list[list[int]]]) -> None:
    """Adds what the simulator expects of two tiers, from what passes took in the very run."""
    for told, row in zip(out, rows, strict=True):
        if "cloud" in row["system"] or not all(answer["tokens"] for answer in row["answers"]):
            continue
        parallel = "parallel" in row["system"]
        pace = _same_pace(row["system"], max(len(one[0]) for one in says))
        expected = measured = 0.0
        for answer, said in zip(row["answers"], says, strict=True):
            by = answer["seconds_by"]
            verify = by.get("verify", by.get("alone", 0.0))
            drafting = Costs(by.get("draft", 0.0))
            one = Costs(verify if pace.drafts is None else by.get("alone", verify), 0.0, by.get("way", 0.0))
            expected += simulate(said, [drafting, one], pace, parallel=parallel).seconds
            measured += answer["seconds"]
        told["simulated_over_measured"] = expected / measured


def _same_pace(system: str, longest: int) -> Pace:
    if system == "edge alone":
        return Pace(0, alone=longest)
    if "every token" in system:
        return Pace(0, alone=1)
    return Pace(parallel="parallel" in system)


def _served(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]
