"""Requests to a server that may be busy, restarting or far away: connections are kept, tries are few."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tofc import __version__
from tofc.errors import EdgeUnreachable, PacketError, UserError

# Statuses with which the same request may succeed later.
_AGAIN = (429, 500, 502, 503, 504)


class Connection:
    """A pool of connections to the server at `url`; for use by several threads.

    A request has `timeout` seconds in all, over at most `retries` further tries; connecting has
    `connect_timeout`. `seed` makes the pauses between tries repeatable.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        ca: str | Path | None,
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
        self._timeout, self._connect, self._retries = timeout, connect_timeout, retries
        self._random = random.Random(seed)
        headers = {"user-agent": f"tofc/{__version__}", "accept-encoding": "identity"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        try:
            verify = ssl.create_default_context(cafile=None if ca is None else str(ca))
        except OSError as error:
            raise UserError(f"{ca} holds no certificate authorities: {error}") from error
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=60)
        self.http = httpx.Client(headers=headers, verify=verify, limits=limits, timeout=self.within(timeout))

    def within(self, seconds: float) -> httpx.Timeout:
        """Time limits of one try that has so many seconds."""
        return httpx.Timeout(seconds, connect=min(seconds, self._connect))

    def tried(self, request: Callable[[float], httpx.Response]) -> httpx.Response:
        """The good answer to `request`, which is called with the seconds left, again where that can help.

        Raises UserError for what the server refuses, EdgeUnreachable where no try succeeded.
        """
        until = time.monotonic() + self._timeout
        tries = self._retries + 1
        for number in range(tries):
            pause = 0.1 * 2 ** min(number, 6) * self._random.uniform(0.5, 1.5)
            try:
                response = request(max(0.05, until - time.monotonic()))
            except httpx.TransportError as error:
                fault = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            else:
                if response.is_success:
                    return response
                if response.status_code not in _AGAIN or response.headers.get("x-should-retry") == "false":
                    raise _refused(response)
                fault = f"{response.status_code}: {_message(response)}"
                pause = max(pause, _retry_after(response))
            if number + 1 == tries or time.monotonic() + pause > until:
                break
            time.sleep(pause)
        raise EdgeUnreachable(
            f"the edge {self.url} did not answer in {number + 1} tries ({fault}); see that it runs "
            "(`tofc serve`) and can be reached from here"
        )


def _retry_after(response: httpx.Response) -> float:
    given = response.headers.get("retry-after", "")
    return float(given) if given.isdecimal() else 0.0


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase


def _refused(response: httpx.Response) -> UserError:
    """What the server finds wrong, as the error that `Edge` would have raised."""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = None
    kind = PacketError if code == "invalid_packet" else UserError
    return kind(f"the edge refuses: {_message(response)} ({response.status_code})")
