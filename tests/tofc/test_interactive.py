"""What people meet in a notebook: what objects say of themselves, files, streams, and clear refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tofc

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "How many cars are there?"


@pytest.fixture(scope="module")
def device(anyres_folder: Path) -> tofc.Device:
    return tofc.Device.from_pretrained(anyres_folder)


@pytest.fixture(scope="module")
def edge(anyres_folder: Path) -> tofc.Edge:
    return tofc.Edge.from_pretrained(anyres_folder)


def test_objects_say_in_a_line_what_they_are(device, edge, make_picture) -> None:
    packet = device.encode(make_picture(50, 30), quality=2)
    features = device.features(make_picture(50, 30))
    assert repr(packet) == f"Packet({len(packet)} B, {packet.num_tokens} tokens, quality 2, 50x30)"
    assert packet.quality == 2
    for shown, words in ((features, "50x30"), (device, "Device("), (edge, "full")):
        assert words in repr(shown)
        assert len(repr(shown)) < 100
    assert "damaged" in repr(tofc.Packet(b"\xff" * 9, ((1, 1),), b"abc"))
    assert str(tofc.Answer("Two.", "full", (3, 4))) == "Two."


def test_a_packet_is_saved_and_loaded(device, make_picture, tmp_path: Path) -> None:
    packet = device.encode(make_picture(40, 30))
    assert tofc.Packet.load(packet.save(tmp_path / "street.tofc")) == packet
    with pytest.raises(tofc.UserError, match=r"nosuch\.tofc"):
        tofc.Packet.load(tmp_path / "nosuch.tofc")


@pytest.mark.parametrize("rate", [{}, {"quality": 2, "tokens": 3}, {"max_bytes": 120}])
def test_many_pictures_are_packets_of_their_own(device, make_picture, rate: dict[str, Any]) -> None:
    pictures = [make_picture(40 + 9 * i, 60 - 7 * i, seed=i) for i in range(3)]
    assert device.encode_many(iter(pictures), **rate) == [device.encode(p, **rate) for p in pictures]
    assert device.encode_many([]) == []


def test_an_answer_is_streamed(device, edge, make_picture) -> None:
    packet = device.encode(make_picture(40, 30))
    pieces, stream = [], edge.stream(packet, QUESTION, max_new_tokens=12)
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            whole = end.value
            break
    answer = edge.answer(packet, QUESTION, max_new_tokens=12)
    assert (whole.text, whole.tokens, whole.exit) == (answer.text, answer.tokens, answer.exit)
    assert whole.confidence == pytest.approx(answer.confidence)
    assert "".join(pieces) == answer.text


def test_clusters_are_drawn_over_their_picture(device, make_picture) -> None:
    picture = make_picture(50, 30)
    features = device.features(picture, 3)
    assert features.over(picture).size == picture.size
    with pytest.raises(tofc.UserError, match="50"):
        features.over(make_picture(20, 30))


def test_pictures_come_in_every_dress(device, make_picture, tmp_path: Path) -> None:
    picture = make_picture(40, 30)
    file = tmp_path / "a picture.png"
    picture.save(file)
    pixels = torch.from_numpy(np.asarray(picture).copy())
    expected = device.encode(picture)
    for given in (
        file.as_uri(),
        {"bytes": file.read_bytes(), "path": None},
        {"bytes": None, "path": str(file)},
        pixels,
        pixels.permute(2, 0, 1),
        pixels.permute(2, 0, 1).float() / 255,
    ):
        assert device.encode(given) == expected


@pytest.mark.parametrize(
    "given, words",
    [
        (None, "NoneType"),
        ("https://example.org/street.jpg", "download"),
        (torch.randn(3, 8, 8), "0 to 1"),
        ({"bytes": None, "path": None}, "NoneType"),
    ],
)
def test_what_is_no_picture(device, given: Any, words: str) -> None:
    with pytest.raises(tofc.ImageError, match=words):
        device.encode(given)


def test_what_is_no_packet_and_no_question(device, edge, make_picture, tmp_path: Path) -> None:
    packet = device.encode(make_picture(40, 30))
    file = packet.save(tmp_path / "street.tofc")
    with pytest.raises(tofc.ImageError, match="packet"):
        device.encode(file)
    for given, words in ((str(file), "Packet.load"), (file, "Packet.load"), (None, "NoneType")):
        with pytest.raises(tofc.PacketError, match=words):
            edge.answer(given, QUESTION)
        with pytest.raises(tofc.PacketError, match=words):
            edge.decode(given)
    for question in (None, packet):
        with pytest.raises(tofc.UserError, match="question"):
            edge.answer(packet, question)
    with pytest.raises(tofc.PacketError, match=r"Packet\.load"):
        edge.answer(QUESTION, packet)


def test_the_notebook_runs(tmp_path: Path) -> None:
    """Its cells, one after another, in a folder of their own."""
    notebook = json.loads((ROOT / "docs" / "first-steps.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5
    names: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        for cell in cells:
            exec(compile(cell, "first-steps.ipynb", "exec"), names)
    finally:
        os.chdir(before)
    assert names["answer"].text
    assert isinstance(names["clusters"], Image.Image)


def test_type_checkers_see_the_types() -> None:
    assert all((ROOT / room / "py.typed").is_file() for room in ("encoders", "entropy", "tofc"))
