"""A whole run: every model, system and picture; rows, bars and figure into one folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

import tofc
from eval.asking.answering import SweepData, load_data
from eval.lab.figures import require_matplotlib
from eval.lab.rows import write_rows
from eval.lab.terminal import table
from eval.latency.assemble import Picture, assemble
from eval.latency.config import LatencyConfig, Machine, ModelConfig, SystemConfig
from eval.latency.rows import MODELLED, STAGES, StageRow, draw, summarise
from eval.latency.stages import (
    Clock,
    CountedNetworks,
    MeasuredNetworks,
    Processor,
    networks_device,
    networks_name,
    one_thread,
)
from eval.latency.systems import End, PacketBytes, request
from tofc.cli.report import working
from tofc.errors import ImageError, UserError
from tofc.images import open_image
from tofc.writing import write_json

SCENES, PHOTOGRAPHS = "scenes", "photographs"
SKLEARN = ("china.jpg", "flower.jpg")  # 640 x 427 pixels


def run(config: LatencyConfig, folder: Path) -> dict[str, Any]:
    """Times everything, writes latency.csv, latency.json, latency.png and latency.svg, returns the summary.

    The summary has `config`, `machines` (what networks ran on, or on whose rates they were counted) and the
    `bars` of `summarise`. Raises UserError for what the user can put right.
    """
    require_matplotlib()  # before minutes of measuring
    pictures = load_pictures(config.data or config.pictures, config.limit)
    folder.mkdir(parents=True, exist_ok=True)
    with one_thread():
        rows = [row for model in config.models for row in _rows(config, model, pictures)]
    summary = {
        "config": asdict(config),
        "pictures": [[picture.name, *picture.size] for picture in pictures],
        "machines": {end: _described(getattr(config, end)) for end in ("device", "server")},
        "bars": summarise(rows, config.reference),
    }
    write_rows(folder / "latency.csv", rows, StageRow)
    write_json(folder / "latency.json", summary)
    draw(summary, folder)
    return summary


def load_pictures(source: str | SweepData, limit: int) -> list[Picture]:
    """The first `limit` rendered test scenes ("scenes"), of the demo's two "photographs", of the pictures in
    a folder by name, or of a data set, each as often as it is asked about.

    Raises UserError where there is no picture, and for what is none.
    """
    if isinstance(source, SweepData):
        data = load_data(source)
        examples = [data[index] for index in range(min(limit, len(data)))]
        return [
            Picture(f"{example.name}, question {number}", example.image, asked.prompt, asked.truth)
            for example in examples
            for number, asked in enumerate(example.questions, start=1)
        ]
    if source == SCENES:
        from eval.scenes.world import make_scene

        return [Picture(f"scene {i}", Image.fromarray(make_scene("test", i)[1])) for i in range(limit)]
    if source == PHOTOGRAPHS:
        from eval.demo.measure import demo_pictures

        found = [Picture(p.name, p.image) for p in demo_pictures() if p.name in SKLEARN]
        return found[:limit]
    if not Path(source).is_dir():
        raise UserError(f"pictures is {source!r}; give {SCENES}, {PHOTOGRAPHS} or a folder of pictures")
    pictures = []
    for file in sorted(path for path in Path(source).iterdir() if path.is_file()):
        try:
            pictures.append(Picture(file.name, open_image(file)))
        except ImageError as error:
            raise UserError(f"{source} holds something else than pictures: {error}") from error
        if len(pictures) == limit:
            break
    if not pictures:
        raise UserError(f"{source} holds no picture; give a folder that does")
    return pictures


def _rows(config: LatencyConfig, model: ModelConfig, pictures: list[Picture]) -> Iterator[StageRow]:
    device = _end(config, model, config.device)
    server = _end(config, model, config.server, device)
    packet_bytes = _packet_bytes(model, device)
    for system in config.systems:
        for picture in pictures:
            with working(f"{model.name}: {system.name}, {picture.name}"):
                tokens = server.model.answer_tokens(picture, config.answer_tokens)
                made = request(system, picture, device, server, tokens, packet_bytes)
            yield from made.rows(model.name, system.name, picture.name, config.link.links())


def _end(config: LatencyConfig, model: ModelConfig, machine: Machine, other: End | None = None) -> End:
    """A model on a machine; the same weights as at the other end where networks run on the same."""
    runs_on, clock = networks_device(machine), Clock(config.repeats, config.warm_up)
    if other is not None and other.model.runs_on == runs_on:
        assembled = other.model
    else:
        assembled = assemble(model, runs_on, config.question, config.text_tokens, config.seed)
    processor = Processor(assembled, machine, clock)
    if runs_on is not None:
        return End(assembled, processor, MeasuredNetworks(assembled, clock), machine.merging)
    assert machine.rates is not None  # the configuration's own check
    return End(assembled, processor, CountedNetworks(assembled, machine.rates), machine.merging)


def _packet_bytes(model: ModelConfig, device: End) -> PacketBytes:
    """How bytes of packets are counted: as they are, or from a trained codec of another width."""
    if model.bytes_of is None:
        return lambda system, picture, packet: len(bytes(packet))
    trained = tofc.Device.from_pretrained(model.bytes_of)
    widening = device.model.vision.width / trained.vision.width

    def scaled(system: SystemConfig, picture: Picture, packet: tofc.Packet) -> int:
        coded = trained.encode(picture.image, system.quality, system.tokens)
        return round(len(bytes(coded)) * widening * packet.num_tokens / coded.num_tokens)

    return scaled


def _described(machine: Machine) -> str:
    runs_on = networks_device(machine)
    if runs_on is not None:
        return f"{machine.name}: measured on {networks_name(runs_on)}"
    return f"{machine.name}: counted"


_SHORT = {
    "device": ("device preprocess", "device vision", "device merge", "device code"),
    "link": ("link uplink", "link round trip"),
    "server": tuple(stage for stage in STAGES[:-1] if stage.startswith("server")),
}


def tables(summary: Mapping[str, Any]) -> Iterator[Table]:
    """For each model and each rate of the figure: milliseconds by place to the first token, and beyond.

    A star stands at what is modelled in any part.
    """
    config = summary["config"]
    columns = ("bytes", "visual tokens", *_SHORT, "first token", f"of {config['reference']}")
    for model in config["models"]:
        for mbit in config["figure_mbit"]:
            title = f"{model['name']} at {mbit:g} Mbit/s: milliseconds (* modelled, at least in part)"
            bars = [b for b in summary["bars"] if (b["model"], b["mbit"]) == (model["name"], mbit)]
            whole = "whole answer" if config["data"] else f"{config['answer_tokens']} tokens"
            figures = (*columns, whole)
            yield table(title, ["system"], figures, (tuple(_cells(bar)) for bar in bars))


def _cells(bar: Mapping[str, Any]) -> Iterator[str]:
    yield bar["system"]
    yield f"{bar['num_bytes']:,.0f}"
    yield f"{bar['visual_tokens']:.0f}"
    for stages in _SHORT.values():
        parts = [bar["parts"][stage] for stage in stages if stage in bar["parts"]]
        star = "*" if any(part["basis"] == MODELLED for part in parts) else ""
        yield f"{1e3 * sum(part['seconds'] for part in parts):,.1f}{star}"
    yield f"{1e3 * bar['first_token']:,.1f}"
    yield f"{100 * bar['of_reference']:.1f} %"
    yield f"{1e3 * bar['answer']:,.1f}"
