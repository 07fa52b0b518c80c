"""What the bundled model says to fixed packets, token by token, however it is asked.

`python tests/tofc/language/recorded.py` writes `recorded.json` anew: after a change of the bundled model, and
never to make a test pass.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from starlette.testclient import TestClient

import tofc
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene
from tofc.network.messages import chat_request, data_url
from tofc.serving.models import ServedModels
from tofc.serving.server import build_app

FILE = Path(__file__).with_name("recorded.json")
EXITS = ("e1", "e2-50", "e2", "e3", "full", "auto")
MOST = 24
DESCRIBE = "Describe the picture."
HOT = {"temperature": 1.2, "top_p": 0.9}
SEED = 5


def make_requests() -> tuple[list[tofc.Packet], list[tuple[int, str]]]:
    """Packets of many sizes, one of two pictures, and questions as (packet, question)."""
    device = tofc.Device.from_pretrained("scenes-tiny")
    made = [make_scene("test", index)[:2] for index in range(4)]
    pictures = [Image.fromarray(pixels) for _, pixels in made]
    rates: tuple[tuple[int | str, int], ...] = ((9, 2), (64, 4), ("all", 8))
    packets = [
        device.encode(picture, tokens=tokens, quality=quality)
        for picture, (tokens, quality) in zip(pictures, rates, strict=False)
    ]
    packets.append(device.encode(pictures[2:], tokens=24))
    asked = []
    for number, (scene, _) in enumerate(made):
        prompts = [question.prompt for question in benchmark_questions(scene)]
        asked += [(number, prompt) for prompt in (*prompts[number::6], DESCRIBE)]
    return packets, asked


def sampled_here(edge: tofc.Edge, pair: tuple[tofc.Packet, str]) -> list[int]:
    """Drawn by transformers, from the global generator that it uses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return list(edge.answer(*pair, do_sample=True, max_new_tokens=MOST, **HOT).tokens)


def served(edge: tofc.Edge, pairs: list[tuple[tofc.Packet, str]], **settings: Any) -> Iterator[list[int]]:
    """What a server says, one question after another."""
    with TestClient(build_app(ServedModels("scenes-tiny", edge, None))) as client:
        for packet, question in pairs:
            url = data_url("application/vnd.tofc", bytes(packet))
            body = chat_request("default", url, question, {"max_new_tokens": MOST, **settings})
            yield client.post("/v1/chat/completions", json=body).json()["tofc"]["tokens"]


def record() -> dict[str, Any]:
    """The content of the file."""
    packets, asked = make_requests()
    edge = tofc.Edge.from_pretrained("scenes-tiny")
    pairs = [(packets[number], question) for number, question in asked]
    answers = {exit: [edge.answer(*pair, exit=exit, max_new_tokens=MOST) for pair in pairs] for exit in EXITS}
    return {
        "packets": [base64.b64encode(bytes(packet)).decode() for packet in packets],
        "asked": asked,
        "tokens": {exit: [list(answer.tokens) for answer in given] for exit, given in answers.items()},
        "auto": [answer.exit for answer in answers["auto"]],
        "text": [answer.text for answer in answers["full"]],
        "sampled": {
            "edge": [sampled_here(edge, pair) for pair in pairs[-3:]],
            "server": list(served(edge, pairs[-3:], seed=SEED, **HOT)),
        },
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(record(), separators=(",", ":")) + "\n")
