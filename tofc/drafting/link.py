"""The device's way to a verifier on a server: rounds over one WebSocket, asked and answered in turn."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tofc.drafting.rounds import LinkDown, LinkOver, Round, Verdict
from tofc.errors import MissingLibraryError, UserError
from tofc.network.connection import Connection, fault_of, unanswered
from tofc.network.obstacles import unusable

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


ROUND_SECONDS = 10.0  # until a round counts as lost


class RemoteVerifier:
    """Carries rounds to a server (`tofc serve`), behind the packet on the same connection.

    The answer is opened with the first round, and again on a new connection where the last one broke. A round
    has `seconds`, and none goes on after the moment `until` of `time.monotonic`. Raises LinkDown where
    nothing came back, LinkOver after that moment, UserError where the server refuses.
    """

    def __init__(
        self,
        connection: Connection,
        body: Mapping[str, Any],
        seconds: float = ROUND_SECONDS,
        until: float = math.inf,
    ) -> None:
        self._connection, self._body, self._seconds, self._until = connection, dict(body), seconds, until
        self._final: list[int] = list(body.get("tokens", ()))
        self._socket: Socket | None = None
        # Once it is open: the member that decides, the number of tiers, and whether states are taken.
        self.exit, self.tiers, self.takes_states = "full", 2, False
        self.round_trip = 0.0  # seconds that a message of no size took, once it is open
        self.num_bytes = 0  # of rounds and verdicts, without what the connection adds

    def open(self, seconds: float | None = None) -> None:
        """Connects and sends question and packet, with the tokens that are final; within so many seconds."""
        self.close()
        until = time.monotonic() + self._left(self._connection.timeout if seconds is None else seconds)
        body = json.dumps({**self._body, "tokens": self._final}, separators=(",", ":"))
        try:
            self._socket = Socket(self._connection, "/v1/answers", until - time.monotonic())
            self._socket.ping()  # on the way while the server reads the question
        except ConnectionError as error:
            raise LinkDown(str(error)) from error
        opened = json.loads(self._asked(body, until - time.monotonic()))
        self.round_trip = self._socket.round_trip
        self.exit, self.tiers, self.takes_states = opened["exit"], opened["tiers"], opened["states"]

    def __call__(self, round: Round) -> Verdict:
        """The verdict of a round."""
        if self._socket is None:
            self.open()
        data = bytes(round)
        said = self._asked(data, self._left(self._seconds))
        verdict = Verdict.from_bytes(said)
        self.num_bytes += len(data) + len(said)
        if verdict.since <= len(self._final) and verdict.final >= len(self._final):
            self._final = [*self._final[: verdict.since], *verdict.tokens][: verdict.final]
        return verdict

    def _left(self, seconds: float) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise LinkOver("the time for the answer is over")
        return min(seconds, left)

    def close(self) -> None:
        """Tells the server that it may forget the answer."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def _asked(self, message: str | bytes, seconds: float) -> Any:
        assert self._socket is not None
        try:
            return self._socket.ask(message, seconds)
        except BaseException as error:
            self.close()  # what still comes on it would be taken for what is asked next
            if isinstance(error, ConnectionError):
                raise LinkDown(str(error)) from error
            raise
