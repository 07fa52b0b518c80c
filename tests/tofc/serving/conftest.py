"""A real server in a process of its own, and what to ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

import tofc
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene
from eval.serving.process import Server, running_server


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`with serve("--batch", "4") as server:` runs one."""
    folder = tmp_path_factory.mktemp("serving")
    return lambda *arguments, **more: running_server(folder, *arguments, **more)


@pytest.fixture(scope="session")
def server(serve: Callable[..., Any]) -> Iterator[Server]:
    """One with the defaults, for all tests that leave it as it is."""
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def device() -> tofc.Device:
    return tofc.Device.from_pretrained("scenes-tiny")


@pytest.fixture(scope="session")
def edge() -> tofc.Edge:
    return tofc.Edge.from_pretrained("scenes-tiny", images=True)


@pytest.fixture(scope="session")
def scenes() -> list[tuple[Image.Image, list[str]]]:
    """Pictures with their questions."""
    made = [make_scene("test", index)[:2] for index in range(6)]
    return [(Image.fromarray(p), [q.prompt for q in benchmark_questions(scene)]) for scene, p in made]


@pytest.fixture(scope="session")
def asked(device: tofc.Device, scenes: list[tuple[Image.Image, list[str]]]) -> list[tuple[bytes, str]]:
    """Packets of many sizes with questions, some with long answers."""
    rates = ((8, 2), (16, 3), (40, 4), (64, 4), (100, 6), ("all", 8))
    out = []
    for (image, prompts), (tokens, quality) in zip(scenes, rates, strict=True):
        packet = bytes(device.encode(image, tokens=tokens, quality=quality))
        out += [(packet, prompt) for prompt in [*prompts[::5], "Describe the picture."]]
    return out
