"""A real server in a process of its own, for tests and measurements, and what is asked of it under load."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

import tofc
from eval.scenes.questions import benchmark_questions
from eval.scenes.world import make_scene
from tofc.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Server:
    """A running `tofc serve`; `ca` is its certificate, where it is its own authority."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    ca: Path | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rsplit(":", 1)[1])

    @property
    def metrics(self) -> dict[str, float]:
        """What it counts, by name with labels."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")
        return {name: float(value) for name, value in pairs}

    @property
    def resident_bytes(self) -> int:
        """Its memory, as Linux counts it; 0 where there is no /proc."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return 0
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return 1024 * int(line.split()[1])

    @property
    def processor_seconds(self) -> float:
        """What it has taken of all cores, as Linux counts it; 0 where there is no /proc."""
        status = Path(f"/proc/{self.process.pid}/stat")
        if not status.exists():
            return 0.0
        fields = status.read_text().rpartition(")")[2].split()  # its name, in brackets, may have spaces
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def start_server(
    folder: Path,
    *arguments: str,
    port: int | None = None,
    patience: float = 300,
    tls: ssl.SSLContext | None = None,
    core: int | None = None,
    output: int | None = None,
    **environment: str,
) -> Server:
    """Starts `tofc serve` with these arguments and variables, its log in `folder`; returns when it is ready.

    It answers with scenes-tiny, where the arguments name no model.
    `tls` has the certificates with which to ask; None for none, and any of the server's. `core` is the one
    that it is kept on. `output` is a descriptor, or subprocess.PIPE, in place of the log's file. UserError
    with the end of its log where it does not come up within `patience` seconds.
    """
    port = free_port() if port is None else port
    model = () if {"--model", "-m"} & set(arguments) else ("--model", "scenes-tiny")
    log = folder / f"server-{port}.log"
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tofc", "serve", "--port", str(port), *model, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stdout=out,
            stderr=out if output is None else output,
        )
    if core is not None:
        pin(core, process.pid)
    scheme = "https" if "--tls-cert" in arguments else "http"
    server = Server(f"{scheme}://127.0.0.1:{port}", process, log)
    until = time.monotonic() + patience
    while True:
        try:
            if httpx.get(f"{server.url}/ready", verify=tls or False).status_code == 200:
                return server
        except httpx.TransportError:
            pass
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            process.wait()
            raise UserError(f"the server did not come up: {log.read_text()[-2000:]}")
        time.sleep(0.1)


@contextmanager
def running_server(folder: Path, *arguments: str, **more: Any) -> Iterator[Server]:
    """`start_server` until the block ends, which asks it to stop."""
    server = start_server(folder, *arguments, **more)
    try:
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(60)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def pin(core: int, process: int = 0) -> None:
    """Keeps a process (this one for 0) on one core, where the system lets one choose."""
    if hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(process, {core})
        except OSError as error:
            raise UserError(
                f"core {core} is not to be had here: {error}; name others under `cores`"
            ) from error


DESCRIBE = "Describe the picture."
_RATES: Sequence[tuple[int | str, int]] = ((8, 2), (16, 3), (32, 4), (64, 4), (64, 6), (100, 5), ("all", 8))


@dataclass(frozen=True)
class LoadQuestion:
    """A packet, what is asked about it, and what `tofc.Edge` says in this process."""

    packet: bytes
    text: str
    expected: str


def scene(index: int) -> tuple[Image.Image, list[str]]:
    """A picture of the test split and its questions with short answers."""
    made, pixels, *_ = make_scene("test", index)
    return Image.fromarray(pixels), [question.prompt for question in benchmark_questions(made)]


def questions(
    num_scenes: int,
    per_scene: int = 4,
    describe: bool = True,
    rates: Sequence[tuple[int | str, int]] = _RATES,
    model: str = "scenes-tiny",
) -> list[LoadQuestion]:
    """Short questions about scenes, and with `describe` one long answer each; tokens and quality in turn."""
    device, edge = tofc.Device.from_pretrained(model), tofc.Edge.from_pretrained(model)
    pairs: list[tuple[bytes, str]] = []
    for index in range(num_scenes):
        image, prompts = scene(index)
        tokens, quality = rates[index % len(rates)]
        packet = bytes(device.encode(image, tokens=tokens, quality=quality))
        step = max(1, len(prompts) // max(1, per_scene))
        asked = [*prompts[::step][:per_scene], *([DESCRIBE] if describe else [])]
        pairs += [(packet, prompt) for prompt in asked]
    answers = edge.answer_many(pairs)
    return [LoadQuestion(*pair, answer.text) for pair, answer in zip(pairs, answers, strict=True)]
