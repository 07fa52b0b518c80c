"""Tiers as processes on cores of their own, with shaped links between them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import httpx

from eval.latency.link import Link
from eval.serving.shaped import ShapedProxy
from tofc.errors import UserError

_READY_SECONDS = 180.0


@contextmanager
def serving(model: str, core: int, *arguments: str) -> Iterator[int]:
    """`tofc serve` on one core until the block ends; gives its port. UserError where it does not come up."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "tofc", "serve", "--model", model, "--port", str(port)]
    command += ["--packets-only", "--threads", "1", *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            pin(core, process.pid)
            until = time.monotonic() + _READY_SECONDS
            while not _is_ready(port):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise UserError(f"a tier did not come up: {log.read().decode(errors='replace')[-500:]}")
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def tiers(
    model: str, cores: tuple[int, ...], middle: Sequence[str], link: Link | None
) -> Iterator[tuple[dict[int, str], list[ShapedProxy]]]:
    """Addresses by the number of tiers, and the proxies in front of them, all of `link`; none for None.

    With two the full model verifies; there are three as well where `middle` names a member that verifies in
    between.
    """
    with ExitStack() as stack:
        proxies: list[ShapedProxy] = []

        def reached(port: int) -> str:
            if link is None:
                return f"http://127.0.0.1:{port}"
            proxies.append(stack.enter_context(ShapedProxy(port, link)))
            return proxies[-1].url

        top = stack.enter_context(serving(model, cores[-1]))
        found = {2: reached(top)}
        for exit in middle:
            core = cores[min(1, len(cores) - 1)]
            port = stack.enter_context(serving(model, core, "--upstream", reached(top), "--exit", exit))
            found[3] = reached(port)
        yield found, proxies


def pin(core: int, process: int = 0) -> None:
    """Keeps a process (this one for 0) on one core, where the system lets one choose."""
    if hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(process, {core})
        except OSError as error:
            raise UserError(
                f"core {core} is not to be had here: {error}; name others under `cores`"
            ) from error


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
