"""Answers that devices draft: a WebSocket for each, `/v1/answers`.

The first message is the question with its packet (JSON, `OpenRequest`); `Opened` comes back. Then each round
of drafts (binary, `tofc.drafting.rounds`) is answered by its verdict, until the device closes. What goes
wrong is told as JSON, {"status": 400, "error": {...}, "request_id": ...}, before the server closes. A device
whose connection breaks opens another, from the tokens that were final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from tofc.serving.errors import ApiError, invalid, too_busy, wrong
from tofc.serving.metrics import Metrics
from tofc.serving.requests import understand
from tofc.serving.settings import Limits
from tofc.serving.verification import OpenRequest, Verification, Verifiers

ROUTE = "/v1/answers"
T = TypeVar("T")


class DraftedAnswers:
    """The answers that grow on a server, up to `limits.drafted` at a time."""

    def __init__(self, verifiers: Verifiers, limits: Limits, metrics: Metrics) -> None:
        self._verifiers, self._limits, self._metrics = verifiers, limits, metrics
        self._pool = ThreadPoolExecutor(limits.drafted, thread_name_prefix="tofc-drafted")
        self._growing = 0

    async def grow(self, socket: WebSocket) -> None:
        """One answer, from its question to its end; raises ApiError for what is wrong."""
        if self._growing >= self._limits.drafted:
            self._metrics.refused.labels("drafted answers").inc()
            raise too_busy(f"{self._growing} answers are being drafted here; try again later", 1.0)
        self._growing += 1
        self._metrics.drafted.set(self._growing)
        try:
            await socket.accept()
            await self._answer(socket)
        except WebSocketDisconnect:  # while something was on its way to it: it opens another
            socket.state.log["error"] = "client_left"
        finally:
            self._growing -= 1
            self._metrics.drafted.set(self._growing)

    async def _answer(self, socket: WebSocket) -> None:
        asked = await self._heard(socket, "text", self._limits.body_seconds)
        if asked is None:
            return
        verification = await self._opened(socket, asked)
        try:
            await socket.send_text(verification.opened.model_dump_json())
            while (round := await self._heard(socket, "bytes", self._limits.drafted_idle)) is not None:
                await socket.send_bytes(await self._aside(partial(verification.check, round)))
        finally:
            verification.close()
            self._metrics.rounds.inc(verification.rounds)
            self._metrics.drafts.inc(verification.drafts)
            told = {"rounds": verification.rounds, "drafts": verification.drafts}
            socket.state.log.update(told, answer_tokens=len(verification.verifier.answer.tokens))

    async def _opened(self, socket: WebSocket, asked: str) -> Verification:
        try:
            body = OpenRequest.model_validate_json(asked)
        except ValidationError as error:
            raise invalid(error.errors(include_url=False, include_input=False)[0]) from None
        request = await understand(body, self._verifiers.models, self._limits)
        socket.state.log.update(
            model=request.model, pictures=len(request.seen), packet_bytes=request.packet_bytes
        )
        return await self._aside(partial(self._verifiers.open, request, body))

    async def _heard(self, socket: WebSocket, kind: str, seconds: float) -> Any:
        """The next message, "text" or "bytes"; None where the client has closed instead."""
        try:
            message = await asyncio.wait_for(socket.receive(), seconds)
        except TimeoutError:
            self._metrics.refused.labels("idle").inc()
            raise ApiError(408, f"nothing came for {seconds:g} s", "idle") from None
        if message["type"] == "websocket.disconnect":
            return None
        if message.get(kind) is None:
            raise wrong(f"{kind} was due: the question is text, rounds are bytes", code="invalid_round")
        return message[kind]

    async def _aside(self, work: Callable[[], T]) -> T:
        """Does what computes on a thread beside the loop; a thread is kept for each answer that may grow."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def add_drafted(app: FastAPI, answers: DraftedAnswers) -> None:
    """The route."""

    @app.websocket(ROUTE)
    async def drafted_answer(socket: WebSocket) -> None:
        await answers.grow(socket)
