"""What several commands do with pictures and packets, and say while they do it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tofc.cli.files import STREAM, StandardInput, read_input
from tofc.cli.report import answer_line, print_pieces, working
from tofc.config import DEVICE_CONFIG, resolve
from tofc.errors import UserError
from tofc.language import FULL

if TYPE_CHECKING:
    from PIL.Image import Image

    from tofc.device import Device
    from tofc.edge import Answer, Edge
    from tofc.packet import Packet

# Parameters below which passes are too short for several cores: threads that wait for each other cost more
# than they bring, up to forty times as much beside other work.
_SMALL = 50_000_000


def check_question(question: str) -> None:
    """UserError for a question that asks nothing."""
    if not question.strip():
        raise UserError("the question is empty; put it in quotes, e.g. 'How many cars are there?'")


def open_picture(source: str, max_pixels: int | None) -> Image:
    """The picture of a file or of standard input, upright and in RGB."""
    from tofc.images import MAX_PIXELS, open_image

    if max_pixels is not None and max_pixels < 1:
        raise UserError(
            f"--max-pixels is {max_pixels}; give a number of pixels of at least 1 (default {MAX_PIXELS})"
        )
    origin = StandardInput(read_input(source, "image")) if source == STREAM else source
    return open_image(origin, MAX_PIXELS if max_pixels is None else max_pixels)


def check_model(model: str, exit: str = FULL) -> None:
    """UserError for a model that there is not, or an exit that it has not, before anything heavy is imported.

    A device that was exported is a model to encode with, and has no exits.
    """
    from tofc.familial.index import check_exit

    if not (Path(model) / DEVICE_CONFIG).is_file():
        check_exit(resolve(model), exit)


def load_device(model: str) -> Device:
    """The device side of a model, or an export of it; by ONNX Runtime where it can: torch starts slowly."""
    from tofc.device import Device
    from tofc.ondevice import is_export, runs_here

    with working(f"loading the device side of {model}"):
        if is_export(model):
            return Device.from_pretrained(model)
        if runs_here(model):
            return Device.from_pretrained(model, runtime="onnxruntime")
        quieten_libraries()
        device = Device.from_pretrained(model)
        _suit_threads(device.vision.encoder)  # type: ignore[attr-defined]  # which is torch's
        return device


def load_edge(model: str, exit_: str) -> Edge:
    """The edge side, up to one member."""
    from tofc.edge import Edge

    with working(f"loading the edge side of {model}"):
        edge = Edge.from_pretrained(model, exit_, stock=False)
        if edge.is_stock:
            quieten_libraries()
        _suit_threads(edge.model)
        return edge


def _suit_threads(module: Any) -> None:
    """Lets torch compute on one core for a small model, else on idle ones, unless OMP_NUM_THREADS is set."""
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        return
    threads = 1
    if sum(parameter.numel() for parameter in module.parameters()) >= _SMALL:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, min(cores, cores - int(os.getloadavg()[0])))
    torch.set_num_threads(threads)


def quieten_libraries() -> None:
    """Keeps transformers' progress bars away from a terminal that shows ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def encode_picture(device: Device, picture: Image, rate: dict[str, Any]) -> Packet:
    """The packet of a picture, at the given rate."""
    with working("encoding"):
        return device.encode(picture, max_pixels=picture.width * picture.height, **rate)


def answer_packet(edge: Edge, packet: Packet, question: str, is_json: bool) -> Answer:
    """What an edge here says, printed unless it `is_json`; on a terminal while it grows."""
    if sys.stdout.isatty() and not is_json:
        return print_pieces(edge.stream(packet, question))
    with working("answering"):
        answer = edge.answer(packet, question)
    if not is_json:
        typer.echo(answer_line(answer))
    return answer
