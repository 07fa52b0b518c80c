"""A WebSocket to a server, asked and answered in turn: the device's side."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tofc.errors import MissingLibraryError, UserError
from tofc.network.connection import Connection, fault_of, unanswered
from tofc.network.proxy import unusable

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_MOST_BYTES = 1 << 20  # of a message from a server
_AT_ONCE = 4096  # bytes that always find room between two messages
_CLOSING_SECONDS = 1.0
_TOO_BIG = 1009  # RFC 6455, section 7.4.1


class Socket:
    """An open WebSocket at `path` of the server that `connection` leads to, with its key and certificates.

    Raises ConnectionError where nobody answers within so many seconds, and what `fault_of` makes of a
    refusal; MissingLibraryError without the library for it.
    """

    def __init__(self, connection: Connection, path: str, seconds: float) -> None:
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
            from websockets.sync.client import connect
        except ModuleNotFoundError as error:
            raise MissingLibraryError(
                f"drafting for an edge needs {error.name}, which is not installed: pip install 'tofc[serve]'"
            ) from error
        self._stack = ExitStack()
        self._broken = (WebSocketException, OSError)
        headers = {name: value for name, value in connection.headers.items() if name != "user-agent"}
        try:
            opening = connect(
                f"ws{connection.url.removeprefix('http')}{path}",
                ssl=connection.tls if connection.url.startswith("https") else None,
                additional_headers=headers,
                user_agent_header=connection.headers["user-agent"],
                compression=None,
                open_timeout=min(seconds, connection.connect_timeout),
                proxy=connection.proxy,
                close_timeout=_CLOSING_SECONDS,
                ping_interval=None,  # a round has its own time limit
                max_size=_MOST_BYTES,
            )
            self._socket: ClientConnection = self._stack.enter_context(opening)
        except InvalidStatus as error:
            status, body = error.response.status_code, error.response.body or b""
            raise fault_of(status, _parsed(body), error.response.headers) from error
        except ImportError:  # of a proxy that speaks SOCKS
            raise unusable(str(connection.proxy), connection.url, "python-socks") from None
        except self._broken as error:
            raise unanswered(error) from error

    def ask(self, message: str | bytes, seconds: float) -> str | bytes:
        """What the server says to a message (text or bytes), within so many seconds.

        After anything raised from here the socket is of no use any more: a late answer to one message would
        be taken for that to the next.
        """
        until = time.monotonic() + seconds
        try:
            self._send(message, seconds)
            said = self._socket.recv(timeout=max(0.0, until - time.monotonic()))
        except self._broken as error:
            if getattr(getattr(error, "rcvd", None), "code", None) == _TOO_BIG:
                raise UserError(
                    f"the edge refuses: a question of {len(message):,} bytes is more than it takes"
                ) from error
            raise unanswered(error) from error
        if isinstance(said, str) and isinstance(told := _parsed(said), dict) and "error" in told:
            later = f"{told.get('retry_after', 0):.0f}"
            raise fault_of(int(told.get("status", 500)), told, {"retry-after": later})
        return said

    def _send(self, message: str | bytes, seconds: float) -> None:
        """Sends; where the server does not read what the system cannot hold, the connection is cut."""
        if len(message) < _AT_ONCE:
            self._socket.send(message)
            return
        cut = threading.Timer(seconds, self._socket.socket.shutdown, (socket.SHUT_RDWR,))
        cut.start()
        try:
            self._socket.send(message)
        finally:
            cut.cancel()

    def ping(self) -> None:
        """Measures `round_trip`; nobody waits for that."""
        try:
            self._socket.ping()
        except self._broken as error:
            raise unanswered(error) from error

    @property
    def round_trip(self) -> float:
        """Seconds of the last ping; 0 until it has come back."""
        return self._socket.latency

    def close(self) -> None:
        """Tells the server; nobody waits for what it says to that."""
        threading.Thread(target=self._stack.close, daemon=True).start()


def _parsed(body: str | bytes | bytearray) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
