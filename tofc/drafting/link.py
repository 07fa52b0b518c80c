"""Two machines for one answer: rounds over one WebSocket, and tags that tell weights and vocabularies apart.

Weights are read once for each model that is in memory, and their tags kept as long as it is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from tofc.drafting.rounds import LinkDown, LinkOver, Round, Verdict
from tofc.edge import Edge
from tofc.familial.branches import LowRankLinear
from tofc.language.model import text_model
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


_known: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def vocabulary_tag(edge: Edge) -> str:
    """Tells the vocabulary of an edge's tokenizer from others."""

    def tag() -> str:
        listed = sorted(edge.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    return _once(edge, "vocabulary", tag)


def drafter_tag(edge: Edge, exit: str) -> str:
    """Tells a member's weights, as they are computed with, from others; UserError where it is not here."""
    found, shared = edge.family.exit(exit), edge.family.language.blocks
    layers = nn.ModuleList([*shared[: found.depth], *found.blocks])
    return _once(edge, f"member {exit}", lambda: _checksum([layers, found.norm]))


def shared_tag(edge: Edge, depth: int) -> str:
    """Tells what leads up to the states after the first `depth` blocks: weights, and their type."""
    main = edge.family.main
    text = text_model(main)
    parts = [*text.layers[:depth], main.get_input_embeddings(), main.model.multi_modal_projector]
    kind = f"{sys.byteorder} {main.dtype} "
    return _once(edge, f"first {depth}", lambda: kind + _checksum(parts))


def _checksum(parts: Iterable[nn.Module]) -> str:
    found = 0
    for part in parts:
        for name, tensor in part.state_dict().items():
            owner, _, own_name = name.rpartition(".")
            layer = part.get_submodule(owner)
            if isinstance(layer, LowRankLinear) and own_name in ("down", "up"):
                tensor = tensor[: layer.rank]  # however many ranks were read
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            found = zlib.crc32(raw.numpy(), zlib.crc32(name.encode(), found))
    return f"{found:08x}"


def _once(edge: Edge, what: str, tag: Callable[[], str]) -> str:
    known = _known.setdefault(edge, {})
    if what not in known:
        known[what] = tag()
    return known[what]
