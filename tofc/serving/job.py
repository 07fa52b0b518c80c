"""A request on its way through the engine, written to by the model's thread and read by the event loop.

Answers may be sent while they grow, as server-sent events in OpenAI's shape, and are kept for whoever asks
again by the same idempotency key.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
        self._end()

    def fail(self, error: ApiError) -> None:
        """No answer."""
        self.error = error
        self._end()

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

    def _end(self) -> None:
        """An answer may be remembered for long; the pictures need not be."""
        self.asked = replace(self.asked, turns=(), seen=())
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


@dataclass(frozen=True)
class _Entry:
    digest: bytes
    job: Job
    until: float


class AnswerStore:
    """The jobs of recent keys, at most `most` of them, each for `seconds` after it began.

    What failed or was given up is not kept: the same key asks anew.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def find_or_begin(
        self, client: str, key: str, digest: bytes, begin: Callable[[], Job]
    ) -> tuple[Job, bool]:
        """The job of this client's key and whether it was there already; `digest` is that of the body.

        Raises ApiError 409 where the key was used for another body, and whatever `begin` raises.
        """
        now = time.monotonic()
        entry = self._entries.get((client, key))
        if entry is not None and entry.until > now and not self._is_void(entry.job):
            if entry.digest != digest:
                raise ApiError(
                    409,
                    "this idempotency key belongs to another request; use a new key for each request",
                    "idempotency_key_reused",
                    again=False,
                )
            return entry.job, True
        job = begin()
        self._entries[(client, key)] = _Entry(digest, job, now + self._seconds)
        self._entries.move_to_end((client, key))
        while len(self._entries) > self._most or next(iter(self._entries.values())).until <= now:
            self._entries.popitem(last=False)
        return job, False

    @staticmethod
    def _is_void(job: Job) -> bool:
        return job.is_cancelled or job.error is not None


def usage(result: Completion) -> dict[str, int]:
    """Tokens, as OpenAI counts them."""
    new = len(result.tokens)
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": new,
        "total_tokens": result.prompt_tokens + new,
    }


def extras(result: Completion) -> dict[str, Any]:
    """What this server tells beyond that."""
    return {
        "exit": result.exit,
        "tokens": list(result.tokens),
        "confidence": round(result.confidence, 6),
        "visual_tokens": result.visual_tokens,
        "timing": {stage: round(seconds, 6) for stage, seconds in result.timing.items()},
    }


async def events(job: Job, deltas: AsyncIterator[str]) -> AsyncIterator[bytes]:
    """The events of a job whose text comes from `deltas`; an error on the way is an event too."""
    head = {
        "id": f"chatcmpl-{job.request_id}",
        "object": "chat.completion.chunk",
        "created": job.created,
        "model": job.asked.model,
    }

    def chunk(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**head, "choices": [choice], **more})

    yield chunk({"role": "assistant", "content": ""})
    try:
        async for delta in deltas:
            yield chunk({"content": delta})
        result = await job.whole()
    except ApiError as error:
        yield _event(error.body)
        return
    yield chunk({}, result.finish_reason, tofc=extras(result))
    if job.asked.include_usage:
        yield _event({**head, "choices": [], "usage": usage(result)})
    yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
