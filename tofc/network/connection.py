"""Requests to a server that may be busy, restarting or far away: one deadline, and tries spread over it."""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tofc import __version__
from tofc.errors import EdgeUnreachable, PacketError, UserError
from tofc.network.obstacles import causes, proxy_for, refusal, unusable

# Statuses with which the same request may succeed later.
_AGAIN = (408, 429, 500, 502, 503, 504)
_LONGEST_PAUSE = 2.0  # seconds between two tries
_TRY_SHARE = 1 / 3  # of the deadline, that one try may take: a connection may be dead without a word
_OF_THE_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")
MAX_BODY_BYTES = 4_000_000  # of a response: an answer has a few thousand
T = TypeVar("T")


class Unanswered(ConnectionError):
    """A try of which nothing good came, but another may; not before `pause` seconds, never for infinity."""

    def __init__(self, fault: str, pause: float = 0.0) -> None:
        super().__init__(fault)
        self.pause = pause


class Connection:
    """A pool of connections to the server at `url`; for use by several threads.

    `ca` is a file of authorities in place of the system's, `certificate` one with this client's own
    certificate and its key, for servers that ask for one. A request has `timeout` seconds in all, from the
    first try to the last byte of the answer, over at most `retries` further tries, None for as many as there
    is time for; connecting has `connect_timeout`. `seed` makes the pauses between tries repeatable.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        ca: str | Path | None,
        certificate: str | Path | None,
        timeout: float,
        connect_timeout: float,
        retries: int | None,
        seed: int | None,
    ) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise UserError(f"the edge's address is {url!r}; give one such as https://edge.example:8080")
        if timeout <= 0 or connect_timeout <= 0 or (retries or 0) < 0:
            raise UserError(
                f"timeout {timeout} s, connect_timeout {connect_timeout} s, {retries} retries: give times "
                "above 0 and at least 0 retries"
            )
        self.url = str(address).rstrip("/").removesuffix("/v1")
        self.timeout, self.connect_timeout, self._retries = timeout, connect_timeout, retries
        self._random = random.Random(seed)
        self.headers = {"user-agent": f"tofc/{__version__}"}
        if api_key:
            self.headers["authorization"] = f"Bearer {api_key}"
        self.tls = _tls(ca, certificate)
        self.proxy = proxy_for(address.scheme, address.host)
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=60)
        try:
            self._http = httpx.AsyncClient(
                headers={**self.headers, "accept-encoding": "identity"},
                verify=self.tls,
                limits=limits,
                proxy=self.proxy,
                trust_env=False,  # what the environment says of proxies is read here
            )
        except ImportError:
            raise unusable(str(self.proxy), address.host, "'httpx[socks]'") from None
        self._loop = _network_loop()
        self._has_answered = False

    def close(self) -> None:
        """Closes the connections."""
        asyncio.run_coroutine_threadsafe(self._http.aclose(), self._loop).result(_LONGEST_PAUSE)

    def send(
        self,
        method: str,
        path: str,
        seconds: float,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[httpx.Response, bool]:
        """The answer to one request, and whether a connection had to be opened for it.

        Raises Unanswered where it is not there, to its last byte, within so many seconds.
        """
        opened = False

        async def trace(event: str, _: object) -> None:
            nonlocal opened
            opened = opened or "connect_tcp" in event

        async def sent() -> httpx.Response:
            limits = httpx.Timeout(seconds, connect=min(seconds, self.connect_timeout))
            async with asyncio.timeout(seconds):  # httpx has limits for each read alone
                async with self._http.stream(
                    method,
                    f"{self.url}{path}",
                    content=content,
                    headers=headers,
                    timeout=limits,
                    extensions={"trace": trace},
                ) as response:
                    return await _bounded(response)

        coming = asyncio.run_coroutine_threadsafe(sent(), self._loop)
        try:
            response = coming.result()
            self._has_answered = True
            return response, opened
        except TimeoutError:
            raise Unanswered(f"no whole answer within {seconds:.3g} s") from None
        except httpx.TransportError as error:
            refused = None if self._has_answered else refusal(error, self.url)
            raise refused or unanswered(error) from error
        finally:
            coming.cancel()

    def tried(self, request: Callable[[float], httpx.Response]) -> httpx.Response:
        """The good answer to `request`; see `again`, and UserError for what the server refuses."""

        def once(left: float) -> httpx.Response:
            response = request(left)
            if not response.is_success:
                raise fault_of(response.status_code, _body(response), response.headers)
            return response

        return self.again(once)

    def again(self, attempt: Callable[[float], T]) -> T:
        """What `attempt` gives, which is called with the seconds it may take, again after a ConnectionError.

        Raises EdgeUnreachable where no try succeeded.
        """
        until = time.monotonic() + self.timeout
        number = 0
        while True:
            left = until - time.monotonic()
            try:
                share = 1.0 if number == self._retries else _TRY_SHARE
                return attempt(max(0.05, min(left, share * self.timeout)))
            except ConnectionError as error:
                fault = str(error)
                pause = min(_LONGEST_PAUSE, 0.1 * 2 ** min(number, 6)) * self._random.uniform(0.5, 1.5)
                pause = max(pause, getattr(error, "pause", 0.0))
            number += 1
            last = self._retries is not None and number > self._retries
            if last or time.monotonic() + pause > until:
                break
            time.sleep(pause)
        raise EdgeUnreachable(
            f"the edge {self.url} did not answer in {number} tries ({fault}); see that it runs "
            "(`tofc serve`) and can be reached from here"
        )


async def _bounded(response: httpx.Response) -> httpx.Response:
    """The whole response, as it travelled; httpx.ReadError for more than MAX_BODY_BYTES."""
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise httpx.ReadError(f"more than {MAX_BODY_BYTES} bytes came")
    headers = {name: text for name, text in response.headers.items() if name not in _OF_THE_TRANSFER}
    return httpx.Response(
        response.status_code, headers=headers, content=bytes(body), request=response.request
    )


@cache
def _network_loop() -> asyncio.AbstractEventLoop:
    """An event loop on a thread, for all connections of a process: there requests can be given up whole."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="tofc-network", daemon=True).start()
    return loop


def _tls(ca: str | Path | None, certificate: str | Path | None) -> ssl.SSLContext:
    key_log = os.environ.get("SSLKEYLOGFILE")
    try:
        tls = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:
        if key_log and not isinstance(error, ssl.SSLError) and (ca is None or Path(ca).is_file()):
            raise UserError(
                f"SSLKEYLOGFILE is {key_log!r}, where nothing can be written: {error.strerror}; unset it"
            ) from None
        raise UserError(f"{ca} holds no certificate authorities: {error}") from error
    if certificate is not None:
        try:
            tls.load_cert_chain(str(certificate))
        except OSError as error:
            raise UserError(
                f"{certificate} does not hold a certificate and its key, both in PEM: {error}"
            ) from error
    return tls


def unanswered(error: BaseException) -> Unanswered:
    """What a library for the network raised; there is no use in trying a host again that has no address, or a
    certificate that is not trusted."""
    in_vain = any(
        isinstance(cause, ssl.SSLCertVerificationError)
        or (isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME)
        for cause in causes(error)
    )
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Unanswered(said, math.inf if in_vain else 0.0)


def fault_of(status: int, body: Any, headers: Mapping[str, str]) -> UserError | Unanswered:
    """What went wrong on the server: the error that `Edge` would have raised, or one that may pass."""
    error = body.get("error") if isinstance(body, Mapping) else None
    told = error if isinstance(error, Mapping) else {}
    message = str(told.get("message") or _phrase(status))
    if status in _AGAIN and headers.get("x-should-retry") != "false":
        given = headers.get("retry-after", "")
        return Unanswered(f"{status}: {message}", float(given) if given.isdecimal() else 0.0)
    if status in (401, 403):
        message += "; its key goes into TOFC_API_KEY (api_key= in Python)"
    kind = PacketError if told.get("code") == "invalid_packet" else UserError
    return kind(f"the edge refuses: {message} ({status})")


def _phrase(status: int) -> str:
    return next((known.phrase for known in HTTPStatus if known == status), "for no reason that it gives")


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None
