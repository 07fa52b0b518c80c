"""Real servers on threads of the test's own process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from tofc.serving.models import ServedModels
from tofc.serving.server import build_app
from tofc.serving.verification import Answers, Upstream


class Running:
    """A server on a thread; `stop` takes it down at once."""

    def __init__(self, models: ServedModels, upstream: Upstream | None = None) -> None:
        self.app = build_app(models, upstream=upstream)
        self._server = uvicorn.Server(
            uvicorn.Config(self.app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    @property
    def answers(self) -> Answers:
        answers: Answers = self.app.state.answers
        return answers


@contextmanager
def running(models: ServedModels, upstream: Upstream | None = None) -> Iterator[Running]:
    server = Running(models, upstream)
    try:
        yield server
    finally:
        server.stop()
