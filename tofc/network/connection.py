"""Requests to a server that may be busy, restarting or far away: connections are kept, tries are few."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tofc import __version__
from tofc.errors import EdgeUnreachable, PacketError, UserError
from tofc.network.refusal import refusal

# Statuses with which the same request may succeed later.
_AGAIN = (408, 429, 500, 502, 503, 504)
T = TypeVar("T")


class Unanswered(ConnectionError):
    """A try of which nothing good came, but another may; not before `pause` seconds."""

    def __init__(self, fault: str, pause: float = 0.0) -> None:
        super().__init__(fault)
        self.pause = pause


class Connection:
    """A pool of connections to the server at `url`; for use by several threads.

    `ca` is a file of authorities in place of the system's, `certificate` one with this client's own
    certificate and its key, for servers that ask for one. A request has `timeout` seconds in all, over at
    most `retries` further tries; connecting has `connect_timeout`. `seed` makes the pauses between tries
    repeatable.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        ca: str | Path | None,
        certificate: str | Path | None,
        timeout: float,
        connect_timeout: float,
        retries: int,
        seed: int | None,
    ) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise UserError(f"the edge's address is {url!r}; give one such as https://edge.example:8080")
        if timeout <= 0 or connect_timeout <= 0 or retries < 0:
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
        try:
            self.tls = ssl.create_default_context(cafile=None if ca is None else str(ca))
        except OSError as error:
            raise UserError(f"{ca} holds no certificate authorities: {error}") from error
        if certificate is not None:
            try:
                self.tls.load_cert_chain(str(certificate))
            except OSError as error:
                raise UserError(
                    f"{certificate} does not hold a certificate and its key, both in PEM: {error}"
                ) from error
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=60)
        headers = {**self.headers, "accept-encoding": "identity"}
        self.http = httpx.Client(
            headers=headers, verify=self.tls, limits=limits, timeout=self.within(timeout)
        )

    def within(self, seconds: float) -> httpx.Timeout:
        """Time limits of one try that has so many seconds."""
        return httpx.Timeout(seconds, connect=min(seconds, self.connect_timeout))

    def tried(self, request: Callable[[float], httpx.Response]) -> httpx.Response:
        """The good answer to `request`; see `again`, and UserError for what the server refuses."""

        def once(left: float) -> httpx.Response:
            try:
                response = request(left)
            except httpx.TransportError as error:
                refused = refusal(error, self.url)
                if refused is not None:
                    raise refused from error
                fault = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise Unanswered(fault) from error
            if not response.is_success:
                raise fault_of(response.status_code, _body(response), response.headers)
            return response

        return self.again(once)

    def again(self, attempt: Callable[[float], T]) -> T:
        """What `attempt` gives, which is called with the seconds left, again after a ConnectionError.

        Raises EdgeUnreachable where no try succeeded.
        """
        until = time.monotonic() + self.timeout
        tries = self._retries + 1
        for number in range(tries):
            pause = 0.1 * 2 ** min(number, 6) * self._random.uniform(0.5, 1.5)
            try:
                return attempt(max(0.05, until - time.monotonic()))
            except ConnectionError as error:
                fault = str(error)
                pause = max(pause, getattr(error, "pause", 0.0))
            if number + 1 == tries or time.monotonic() + pause > until:
                break
            time.sleep(pause)
        raise EdgeUnreachable(
            f"the edge {self.url} did not answer in {number + 1} tries ({fault}); see that it runs "
            "(`tofc serve`) and can be reached from here"
        )


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
    except ValueError:
        return None
