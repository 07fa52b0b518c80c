"""Real servers on threads of the test's own process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tofc.serving.models import ServedModels
from tofc.serving.server import build_app
from tofc.serving.verification import Upstream


class Running:
    """A server on a thread; `stop` takes it down at once."""

    def __init__(self, models: ServedModels, upstream: Upstream | None = None, **more: Any) -> None:
        self.app = build_app(models, upstream=upstream, **more)
        self._server = uvicorn.Server(
            uvicorn.Config(self.app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve())
        self._loop.close()

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    def cut(self) -> int:
        """Breaks all connections off, as a link does that goes down; gives their number."""

        def abort() -> int:
            found = [one.transport for one in self._server.server_state.connections]
            for transport in found:
                transport.abort()
            return len(found)

        return asyncio.run_coroutine_threadsafe(_soon(abort), self._loop).result(10)


async def _soon(act: Callable[[], int]) -> int:
    return act()


@contextmanager
def running(models: ServedModels, upstream: Upstream | None = None, **more: Any) -> Iterator[Running]:
    """`more` is for `build_app`; `upstream` is closed with the server."""
    server = Running(models, upstream, **more)
    try:
        yield server
    finally:
        server.stop()
        if upstream is not None:
            upstream.remote.close()
