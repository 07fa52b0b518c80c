"""A real server in a process of its own, and what to ask it."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import tofc
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Server:
    """A running `tofc serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def metrics(self) -> dict[str, float]:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")
        return {name: float(value) for name, value in pairs}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def serving(folder: Path, *arguments: str, port: int | None = None, **environment: str) -> Iterator[Server]:
    """`tofc serve` until the block ends; it must be ready within a minute."""
    port = port or free_port()
    log = folder / f"server-{port}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tofc", "serve", "--port", str(port), *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=out,
            stderr=out,
        )
    try:
        scheme = "https" if "--tls-cert" in arguments else "http"
        url = f"{scheme}://127.0.0.1:{port}"
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            try:
                if httpx.get(f"{url}/ready", verify=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield Server(url, process, log)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`with serve("--batch", "4") as server:` runs one."""
    folder = tmp_path_factory.mktemp("serving")
    return lambda *arguments, **more: serving(folder, *arguments, **more)


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


def url_of(data: bytes, kind: str = "application/vnd.tofc") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def message(question: str, *urls: str) -> list[Any]:
    """The messages of one question about pictures."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}]
