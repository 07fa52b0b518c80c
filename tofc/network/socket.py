"""A WebSocket to a server, asked and answered in turn: the device's side."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tofc.errors import MissingLibraryError, UserError
from tofc.network.connection import Connection, Unanswered, fault_of

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_MOST_BYTES = 1 << 20  # of a message from a server
_CLOSING_SECONDS = 1.0
_TOO_BIG = 1009  # RFC 6455, section 7.4.1


class Socket:
    """An open WebSocket at `path` of the server that `connection` leads to, with its key and certificates.

    Raises ConnectionError where nobody answers, and what `fault_of` makes of a refusal; MissingLibraryError
    without the library for it.
    """

    def __init__(self, connection: Connection, path: str) -> None:
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
                open_timeout=connection.connect_timeout,
                close_timeout=_CLOSING_SECONDS,
                ping_interval=None,  # a round has its own time limit
                max_size=_MOST_BYTES,
            )
            self._socket: ClientConnection = self._stack.enter_context(opening)
        except InvalidStatus as error:
            status, body = error.response.status_code, error.response.body or b""
            raise fault_of(status, _parsed(body), error.response.headers) from error
        except self._broken as error:
            raise _unanswered(error) from error

    def ask(self, message: str | bytes, seconds: float) -> str | bytes:
        """What the server says to a message (text or bytes), within so many seconds.

        After anything raised from here the socket is of no use any more: a late answer to one message would
        be taken for that to the next.
        """
        try:
            self._socket.send(message)
            said = self._socket.recv(timeout=seconds)
        except self._broken as error:
            if getattr(getattr(error, "rcvd", None), "code", None) == _TOO_BIG:
                raise UserError(
                    f"the edge refuses: a question of {len(message):,} bytes is more than it takes"
                ) from error
            raise _unanswered(error) from error
        if isinstance(said, str) and isinstance(told := _parsed(said), dict) and "error" in told:
            raise fault_of(int(told.get("status", 500)), told, {})
        return said

    def ping(self) -> None:
        """Measures `round_trip`; nobody waits for that."""
        try:
            self._socket.ping()
        except self._broken as error:
            raise _unanswered(error) from error

    @property
    def round_trip(self) -> float:
        """Seconds of the last ping; 0 until it has come back."""
        return self._socket.latency

    def close(self) -> None:
        """Tells the server; nobody waits for what it says to that."""
        threading.Thread(target=self._stack.close, daemon=True).start()


def _unanswered(error: Exception) -> Unanswered:
    return Unanswered(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _parsed(body: str | bytes | bytearray) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
