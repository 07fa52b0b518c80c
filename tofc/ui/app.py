"""The page's server: static files, what can be chosen, and one question at a time.

Nothing is loaded from elsewhere, nothing is stored, and pictures are in no log. A page of another origin can
neither ask nor read: questions are JSON, which browsers let no stranger send, and on a loopback address only
its own names are answered.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Iterable
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tofc.errors import UserError
from tofc.serving.settings import is_loopback
from tofc.ui.studio import Studio

STATIC = Path(__file__).resolve().parent / "static"
MAX_BODY = 40 << 20  # a picture of 30 MB in base64
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class PageRequest(BaseModel):
    """A picture (a file in base64), a question, the tokens it is answered from, and who answers."""

    image: str
    question: Annotated[str, Field(min_length=1, max_length=2000)]
    tokens: Annotated[int, Field(ge=1, le=65535)]
    exit: Annotated[str, Field(max_length=100)]

    def picture(self) -> bytes:
        """The file; UserError where it is not base64, or the question is blank."""
        if not self.question.strip():
            raise UserError("the question is empty; ask one, such as: How many people are there?")
        try:
            return base64.b64decode(self.image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError("the picture is not base64; send the bytes of its file that way") from error


class PageQuestion(PageRequest):
    """The same through a packet of this quality.

    With `draft`, a member, `exit` verifies what that one drafts, over a link of this round trip: the answer
    comes as lines of JSON while it grows.
    """

    quality: int
    draft: Annotated[str | None, Field(max_length=100)] = None
    round_trip_ms: Annotated[int, Field(ge=0, le=1000)] = 0


class SameAnswer(PageRequest):
    """The same through the smallest packet, or file of an image codec, that leads to `answer`."""

    answer: Annotated[str, Field(max_length=2000)]
    codec: Annotated[str, Field(max_length=100)]


def create_app(studio: Studio, host: str = "127.0.0.1") -> FastAPI:
    """The application around one model, as it is served at `host`."""
    app = FastAPI(title="TOFC", openapi_url=None)
    if is_loopback(host):  # a name that is made to lead here must not work
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])

    app.add_middleware(_Guard)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> JSONResponse:
        return _refusal(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def wrong_shape(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _refusal(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.get("/api/options")
    def options() -> dict[str, Any]:
        return studio.options(is_loopback(host))

    @app.get("/examples/{name}")
    def example(name: str) -> Response:
        if name not in studio.examples:
            return _refusal(404, f"there is no example {name!r}")
        return FileResponse(studio.examples[name][1])

    lock = asyncio.Lock()  # device and edge are there once

    @app.post("/api/ask", response_model=None)
    async def ask(asked: PageQuestion, request: Request) -> dict[str, Any] | Response:
        settings = (asked.picture(), asked.question, asked.quality, asked.tokens, asked.exit)
        async with AsyncExitStack() as stack:
            turn = await stack.enter_async_context(_Turn(lock))
            if await request.is_disconnected():  # a dial has moved on since
                return _nobody_waits()
            if asked.draft is None:
                return await run_in_threadpool(studio.ask, *settings)
            growing = studio.draft(*settings, asked.draft, asked.round_trip_ms / 1e3, turn.step_aside)
            stack.callback(growing.close)
            first = await run_in_threadpool(next, growing)  # what is wrong is told with a status
            return _Lines(chain([first], growing), stack.pop_all())

    @app.post("/api/smallest", response_model=None)
    async def smallest(asked: SameAnswer, request: Request) -> dict[str, Any] | Response:
        settings = (asked.picture(), asked.question, asked.tokens, asked.exit, asked.answer, asked.codec)
        async with lock:
            if await request.is_disconnected():
                return _nobody_waits()
            return {"bytes": await run_in_threadpool(studio.smallest, *settings)}

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


class _Turn:
    """A turn with device and edge, first come, first served; others have theirs while it waits."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock, self._loop = lock, asyncio.get_running_loop()
        self._is_held = self._is_over = False

    async def __aenter__(self) -> _Turn:
        await self._lock.acquire()
        self._is_held = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        self._end()

    def step_aside(self, seconds: float) -> None:
        """Waits so long, on a thread, and until it has the turn again."""
        asyncio.run_coroutine_threadsafe(self._aside(seconds), self._loop).result()

    async def _aside(self, seconds: float) -> None:
        self._let_go()
        await asyncio.sleep(seconds)
        if not self._is_over:
            await self.__aenter__()
        self._end()

    def _end(self) -> None:
        """Where it ended meanwhile, nobody else would let go of it."""
        if self._is_over:
            self._let_go()

    def _let_go(self) -> None:
        if self._is_held:
            self._is_held = False
            self._lock.release()


class _Lines(StreamingResponse):
    """Objects as lines of JSON; `held` is let go at their end, or when nobody reads them any more."""

    def __init__(self, objects: Iterable[dict[str, Any]], held: AsyncExitStack) -> None:
        lines = (f"{json.dumps(one)}\n" for one in objects)
        super().__init__(lines, media_type="application/x-ndjson")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


class _Guard:
    """Refuses requests that are too long before they are read, and says what a page may load."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; lengths that are not told count as too long."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        length = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else "0"
        too_long = not (length.isdecimal() and int(length) <= MAX_BODY)
        if too_long and scope.get("method") == "POST":
            refusal = _refusal(413, f"a request has at most {MAX_BODY >> 20} MB, and says how many")
            return await refusal(scope, receive, send_with_headers)
        return await self.app(scope, receive, send_with_headers)


def _nobody_waits() -> JSONResponse:
    return _refusal(503, "nobody waits for this answer any more")


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status_code=status)
