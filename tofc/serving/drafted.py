"""Answers that devices draft: a WebSocket for each, `/v1/answers`.

The first message is the question with its packet (JSON, `OpenRequest`); `Opened` comes back. Then each round
of drafts (binary, `tofc.drafting.rounds`) is answered by its verdict, until the device closes. What goes
wrong is told as JSON, {"status": 400, "error": {...}, "request_id": ...}, before the server closes. A device
whose connection breaks opens another, from the tokens that were final.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from starlette.websockets import WebSocket, WebSocketDisconnect

from tofc.serving.errors import ApiError, too_busy, wrong
from tofc.serving.requests import parsed, understand
from tofc.serving.settings import Limits
from tofc.serving.telemetry import Metrics
from tofc.serving.verification import OpenRequest, Verification, Verifiers

ROUTE = "/v1/answers"
_OPENING = 2  # questions that are read at a time
T = TypeVar("T")


class DraftedAnswers:
    """The answers that grow on a server, up to `limits.drafted` at a time; few questions are read at once."""

    def __init__(self, verifiers: Verifiers, limits: Limits, metrics: Metrics) -> None:
        self._verifiers, self._limits, self._metrics = verifiers, limits, metrics
        self._pool = ThreadPoolExecutor(limits.drafted, thread_name_prefix="tofc-drafted")
        self._opening = asyncio.Semaphore(_OPENING)
        self._growing = 0
        self._giving: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Drops what has not begun."""
        if self._giving is not None:
            self._giving.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._verifiers.close()

    def _give_back(self) -> None:
        self._giving = None
        self._pool.submit(_trim_memory)

    async def grow(self, socket: WebSocket) -> None:
        """One answer, from its question to its end; raises ApiError for what is wrong."""
        if self._growing >= self._limits.drafted:
            self._metrics.refused.labels("drafted answers").inc()
            raise too_busy(f"{self._growing} answers are being drafted here; try again later", 1.0)
        self._growing += 1
        self._metrics.drafted.set(self._growing)
        peer = _Peer(socket)
        try:
            await socket.accept()
            await self._answer(peer)
        except WebSocketDisconnect:  # while something was on its way to it: it opens another
            socket.state.log["error"] = "client_left"
        finally:
            peer.forget()
            self._growing -= 1
            self._metrics.drafted.set(self._growing)
            if self._giving is None:  # a second later what has ended is forgotten
                self._giving = asyncio.get_running_loop().call_later(1, self._give_back)

    async def _answer(self, peer: _Peer) -> None:
        asked = await self._heard(peer, "text", self._limits.body_seconds)
        if asked is None:
            return
        verification = await self._opened(peer, asked)
        try:
            await peer.socket.send_text(verification.opened.model_dump_json())
            while (round := await self._heard(peer, "bytes", self._limits.drafted_idle)) is not None:
                await peer.socket.send_bytes(await self._aside(peer, partial(verification.check, round)))
        finally:
            peer.when_idle(verification.close)
            self._metrics.rounds.inc(verification.rounds)
            self._metrics.drafts.inc(verification.drafts)
            told = {"rounds": verification.rounds, "drafts": verification.drafts}
            peer.socket.state.log.update(told, answer_tokens=len(verification.verifier.answer.tokens))

    async def _opened(self, peer: _Peer, asked: str) -> Verification:
        """Reads the question; who leaves while it waits for its turn is not read."""
        await peer.unless_it_leaves(self._opening.acquire())
        try:
            return await self._aside(peer, partial(self._open, peer, asked))
        except WebSocketDisconnect:
            assert peer.running is not None
            peer.running.add_done_callback(_close_unwanted)
            raise
        except ApiError as error:
            if error.status == 503:
                self._metrics.refused.labels("positions").inc()
            raise
        finally:
            peer.when_idle(self._opening.release)

    def _open(self, peer: _Peer, asked: str) -> Verification:
        body = parsed(OpenRequest, asked, self._limits)
        request = understand(body, self._verifiers.models, self._limits)
        peer.socket.state.log.update(
            model=request.model, pictures=len(request.seen), packet_bytes=request.packet_bytes
        )
        return self._verifiers.open(request, body, lambda: not peer.has_left)

    async def _heard(self, peer: _Peer, kind: str, seconds: float) -> Any:
        """The next message, "text" or "bytes"; None where the client has closed instead."""
        try:
            message = await asyncio.wait_for(peer.message(), seconds)
        except TimeoutError:
            self._metrics.refused.labels("idle").inc()
            raise ApiError(408, f"nothing came for {seconds:g} s", "idle") from None
        if message["type"] == "websocket.disconnect":
            return None
        if message.get(kind) is None:
            raise wrong(f"{kind} was due: the question is text, rounds are bytes", code="invalid_round")
        return message[kind]

    async def _aside(self, peer: _Peer, work: Callable[[], T]) -> T:
        """Does what computes on a thread beside the loop; a thread is kept for each answer that may grow."""
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        peer.running = running
        return await peer.unless_it_leaves(asyncio.shield(running))


class _Peer:
    """A device on its socket, which is listened to while something is computed for it, too.

    `running` is what was last computed; it goes on, up to its next look at `has_left`, where nobody waits.
    """

    def __init__(self, socket: WebSocket) -> None:
        self.socket, self.has_left = socket, False
        self.running: asyncio.Future[Any] | None = None
        self._coming: asyncio.Task[Any] | None = None

    async def message(self) -> Any:
        """The next message, or that it has left."""
        message = await asyncio.shield(self._listen())
        self._coming = None
        return message

    async def unless_it_leaves(self, work: Awaitable[T]) -> T:
        """What `work` gives; it is given up, with WebSocketDisconnect, where the device leaves before."""
        task, coming = asyncio.ensure_future(work), self._listen()
        try:
            await asyncio.wait({task, coming}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and coming.result()["type"] == "websocket.disconnect":
                self.has_left = True
                raise WebSocketDisconnect
            return await task  # a message that came early waits
        finally:
            task.cancel()

    def when_idle(self, act: Callable[[], object]) -> None:
        """Does something when nothing is computed for it any more."""
        if self.running is None or self.running.done():
            act()
        else:
            self.running.add_done_callback(lambda _: act())

    def forget(self) -> None:
        """Listens no more."""
        self.has_left = True
        if self._coming is not None:
            self._coming.cancel()

    def _listen(self) -> asyncio.Task[Any]:
        if self._coming is None:
            self._coming = asyncio.ensure_future(self.socket.receive())
        return self._coming


def _close_unwanted(opening: asyncio.Future[Verification]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _trim_memory() -> None:
    """Returns freed memory to the system, where the C library keeps it (glibc does, for each thread)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def add_drafted(app: FastAPI, answers: DraftedAnswers) -> None:
    """The route."""

    @app.websocket(ROUTE)
    async def drafted_answer(socket: WebSocket) -> None:
        await answers.grow(socket)
