"""A request on its way through the engine: written to by the model's thread, read by the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

from tofc.serving.errors import ApiError
from tofc.serving.requests import ChatQuestion


@dataclass(frozen=True)
class Completion:
    """A whole answer; `timing` holds seconds by stage, "server" from the request to here."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    exit: str
    confidence: float
    prompt_tokens: int
    visual_tokens: int
    timing: Mapping[str, float]


class Job:
    """What was asked, and the answer as it grows; anybody may wait for it, any number of times.

    It lives on the event loop that made it. Of the methods only `cancel` may be called from elsewhere. After
    everybody left, it goes on for `patience` seconds: they may ask again by its idempotency key.
    """

    def __init__(
        self, asked: ChatQuestion, request_id: str, began: float | None = None, patience: float = 0.0
    ) -> None:
        self.asked, self.request_id, self._patience = asked, request_id, patience
        self.began = time.monotonic() if began is None else began
        self.created = int(time.time())
        self.due = self.began + asked.deadline
        self._alone = 0.0  # since when nobody waits
        self.waiting = 0  # clients that wait for the answer
        self.is_cancelled = False
        self.result: Completion | None = None
        self.error: ApiError | None = None
        self._deltas: list[str] = []
        self._changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.result is not None or self.error is not None

    def cancel(self) -> None:
        """Nobody waits any more: the engine drops it before its next token."""
        self.is_cancelled = True

    def leave(self) -> None:
        """The last one who waited has left."""
        loop = asyncio.get_running_loop()
        self._alone = alone = loop.time()

        def look() -> None:
            if not self.waiting and self._alone == alone:
                self.cancel()

        if self._patience:
            loop.call_later(self._patience, look)
        else:
            look()

    def push(self, delta: str) -> None:
        """More text."""
        self._deltas.append(delta)
        self._tell()

    def finish(self, result: Completion) -> None:
        """The whole answer."""
        self.result = result
        self._release()
        self._tell()

    def fail(self, error: ApiError) -> None:
        """No answer."""
        self.error = error
        self._release()
        self._tell()

    async def whole(self) -> Completion:
        """Waits for the answer; raises ApiError where there is none."""
        while not self.is_over:
            await self._changed.wait()
        if self.result is None:
            raise self.error or AssertionError
        return self.result

    async def deltas(self) -> AsyncIterator[str]:
        """The text piece by piece, from its beginning; raises ApiError where it breaks off."""
        sent = 0
        while True:
            changed = self._changed
            while sent < len(self._deltas):
                sent += 1
                yield self._deltas[sent - 1]
            if self.error is not None:
                raise self.error
            if self.result is not None:
                return
            await changed.wait()

    def _release(self) -> None:
        """An answer may be remembered for long; the pictures need not be."""
        self.asked = replace(self.asked, turns=(), seen=())

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
