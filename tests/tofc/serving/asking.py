"""A server in a process of its own, and the bodies of questions."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Server:
    """A running `tofc serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    ca: Path | None = None

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


def url_of(data: bytes, kind: str = "application/vnd.tofc") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def message(question: str, *urls: str) -> list[Any]:
    """The messages of one question about pictures."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}]
