"""What every request passes first: an id, a key, bounds on size, time and number; and a line in the log."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
import secrets
import time
from typing import Any

from tofc.serving.errors import ApiError, not_now, our_fault
from tofc.serving.settings import Keys, Limits
from tofc.serving.telemetry import Metrics, log

_OPEN = ("/", "/health", "/ready", "/openapi.json")  # no key is asked for
ROUTES = ("/v1/chat/completions", "/v1/answers", "/v1/models", "/v1/probe", "/metrics", *_OPEN)
_MOST_BODIES = 16  # of the largest size, that are held at a time
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Gate:
    """An ASGI application around another: no request reaches that one unless it may be answered.

    Bodies are read here, whole, so that a client that is slow or breaks off costs no more than memory. What
    the inner application adds to `scope["state"]["log"]` stands in the request's line of the log.
    """

    def __init__(self, app: Any, *, limits: Limits, keys: Keys, metrics: Metrics) -> None:
        self._app, self._limits, self._keys, self._metrics = app, limits, keys, metrics
        # With a key, and without one: strangers take the place of nobody who has one.
        self._under_way = {True: 0, False: 0}
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection's request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
        fields: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=request_id, log=fields)
        answer = _Answer(send, request_id) if scope["type"] == "http" else _Socket(send, request_id)
        client = self._keys.name_of(headers.get("authorization"))
        known = client is not None and scope["path"] not in _OPEN
        self._count(known, 1)
        try:
            self._let_in(scope, client, known)
            fields["client"] = scope["state"]["client"] = client or "anyone"
            await self._pass(scope, headers, receive, answer, known)
        except ApiError as error:
            fields["error"] = error.code
            await answer.fail(error)
        except Exception as error:
            log("a request failed", logging.ERROR, error, request_id=request_id)
            await answer.fail(our_fault())
        finally:
            self._count(known, -1)
            self._note(scope, answer, request_id, began, fields)

    def _count(self, known: bool, change: int) -> None:
        self._under_way[known] += change
        self._metrics.connections.set(sum(self._under_way.values()))

    def _let_in(self, scope: Any, client: str | None, known: bool) -> None:
        if client is None and scope["path"] not in _OPEN:
            raise ApiError(
                401,
                "no valid API key came with the request; send Authorization: Bearer KEY",
                "invalid_api_key",
            )
        if self._under_way[known] > self._limits.connections:
            self._metrics.refused.labels("connections").inc()
            raise not_now("too many requests are under way; try again later", 1.0)

    async def _pass(
        self, scope: Any, headers: dict[str, str], receive: Any, answer: _Answer, known: bool
    ) -> None:
        state = scope["state"]
        if scope["type"] == "websocket":  # its messages are bounded where they are read
            if "origin" in headers:
                raise ApiError(403, "pages in a browser open no answers here", "origin_not_allowed")
            await self._app(scope, receive, answer.send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # what sends the answer leaves out its body
        if not known:  # nothing that is open takes a body: none is read
            await self._app(scope, _replay(b"", receive), answer.send)
            return
        parts: list[bytes] = []
        try:
            if not await self._body(headers, receive, parts):  # the client broke off
                state["log"]["error"] = "cut_off"
                self._metrics.refused.labels("cut off").inc()
                return
            body = b"".join(parts)
            state["arrived"] = time.monotonic()
            state["digest"] = hashlib.sha256(scope["path"].encode() + b"\0" + body).digest()
            state["log"]["bytes_in"] = len(body)
            await self._app(scope, _replay(body, receive), answer.send)
        finally:
            self._held -= sum(map(len, parts))

    async def _body(self, headers: dict[str, str], receive: Any, parts: list[bytes]) -> bool:
        """Reads all of it into `parts`; False where the client left before it was there."""
        declared, seconds = headers.get("content-length", ""), self._limits.body_seconds
        if declared.isdecimal() and int(declared) > self._limits.body_bytes:
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._collect(receive, parts), seconds)
        except TimeoutError:
            self._metrics.refused.labels("slow body").inc()
            raise ApiError(408, f"the request was not there within {seconds:g} s", "slow_request") from None

    async def _collect(self, receive: Any, parts: list[bytes]) -> bool:
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            self._held += len(part)
            if size > self._limits.body_bytes:
                raise self._too_large()
            if self._held > _MOST_BODIES * self._limits.body_bytes:
                self._metrics.refused.labels("bodies").inc()
                raise not_now("too much is being sent here at the moment; try again later", 1.0)
            if not message.get("more_body", False):
                return True

    def _too_large(self) -> ApiError:
        self._metrics.refused.labels("size").inc()
        message = f"a request has at most {self._limits.body_bytes} bytes here"
        return ApiError(413, message, "request_too_large", again=False)

    def _note(
        self, scope: Any, answer: _Answer, request_id: str, began: float, fields: dict[str, Any]
    ) -> None:
        path = scope["path"]
        route = next((route for route in ROUTES if path == route or path.startswith(f"{route}/")), "other")
        seconds = time.monotonic() - began
        status = answer.status or 499  # nothing was sent: the client had left
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if path in ("/health", "/ready", "/metrics") and status == 200:
            return  # asked every few seconds
        told = {
            "request_id": request_id,
            "route": route,
            "method": scope.get("method", "GET"),
            "status": status,
        }
        log(
            "request",
            logging.WARNING if status >= 500 else logging.INFO,
            **told,
            seconds=round(seconds, 4),
            **fields,
        )


class _Answer:
    """Sends on, with the request's id, and remembers what was sent."""

    _start, _body = "http.response.start", "http.response.body"

    def __init__(self, send: Any, request_id: str) -> None:
        self._send, self._request_id = send, request_id
        self.status = 0

    async def send(self, message: Any) -> None:
        if message["type"] == self._start:
            self.status = message["status"]
            message = self._with_id(message)
        await self._send(message)

    def _with_id(self, message: Any) -> Any:
        more = [(b"x-request-id", self._request_id.encode()), (b"cache-control", b"no-store")]
        return {**message, "headers": [*message.get("headers", []), *more]}

    async def fail(self, error: ApiError) -> None:
        """The error as an answer, unless one has begun."""
        if self.status:
            return
        body = json.dumps(error.body).encode()
        headers = {**error.headers, "content-type": "application/json", "content-length": str(len(body))}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": self._start, "status": error.status, "headers": pairs})
        await self.send({"type": self._body, "body": body})


class _Socket(_Answer):
    """The same for a WebSocket: what fails once it is open is told as a message, then the socket closes."""

    _start, _body = "websocket.http.response.start", "websocket.http.response.body"

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.accept":
            self.status = 101
            message = self._with_id(message)
        await super().send(message)

    async def fail(self, error: ApiError) -> None:
        if self.status != 101:
            await super().fail(error)
            return
        self.status = error.status
        told = json.dumps({**error.as_json, "request_id": self._request_id})
        with contextlib.suppress(OSError):  # the client has left
            await self._send({"type": "websocket.send", "text": told})
            await self._send({"type": "websocket.close", "code": error.close_code})


def _replay(body: bytes, receive: Any) -> Any:
    """The body once, and then whatever comes: in time, that the client has left."""
    given = False

    async def replay() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
