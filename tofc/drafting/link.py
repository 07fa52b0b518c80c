"""Rounds of drafts to a verifier on another machine, over one WebSocket an answer."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from tofc.drafting.rounds import LinkDown, LinkOver, Round, Verdict
from tofc.network.connection import Connection
from tofc.network.socket import Socket

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
        except ConnectionError as error:
            raise LinkDown(str(error)) from error
        try:
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
