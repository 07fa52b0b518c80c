"""The device's side of the wire: an edge far away, with the face of `tofc.Edge`."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tofc.answer import Answer
from tofc.errors import EdgeUnreachable, UserError, needs_edge
from tofc.images import MAX_PIXELS
from tofc.network.connection import Connection
from tofc.network.messages import PACKET_TYPE, chat_answer, chat_request, data_url
from tofc.packet import Packet
from tofc.serving.link import ENVELOPE_BYTES, LinkEstimator

if TYPE_CHECKING:
    from tofc.device import Device
    from tofc.drafting.drafter import Watch
    from tofc.drafting.progress import Progress
    from tofc.drafting.remote import RemoteDrafter
    from tofc.drafting.speculate import Decoded
    from tofc.edge import Edge

KEY_VARIABLE = "TOFC_API_KEY"
_AT_ONCE = 8
_RETRIES = 3  # where there is a fallback
_PROBES = (2_000, 16_000, 64_000)
_KINDS = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"GIF8": "image/gif", b"BM": "image/bmp"}


class RemoteEdge:
    """Answers like `tofc.Edge`, on a server that `tofc serve` runs; may be used by several threads.

    `url` is the server's, `model` a model that it lists, or "default" for its first. `api_key` may come from
    TOFC_API_KEY; `ca` is a file of certificate authorities in place of the system's, `certificate` one with
    this client's own certificate and key, for servers that ask for one. An answer has `timeout` seconds in
    all, over at most `retries` further tries, under one idempotency key; connecting has `connect_timeout`.
    Without `retries` there are as many as there is time for, or 3 where the device can answer itself.
    `fallback` gives an `Edge` that answers on the device itself where the far one cannot be reached: the
    answer says so in its `fallback`. `seed` makes the pauses between tries repeatable.

    With `draft`, the name of a member, answers about packets are drafted here and verified there, and `model`
    is a checkpoint of this machine too (a bundled name, a folder): the words are the server's, sooner.
    `tiers` is how many have to work on them, device and cloud included; None for as many as there are.
    `stream` shows such an answer while it grows. This takes what an edge takes: PyTorch, and a part of the
    model.

    `link` knows what the uplink carries, from what was sent so far.
    """

    def __init__(
        self,
        url: str,
        model: str = "default",
        *,
        api_key: str | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 3.0,
        retries: int | None = None,
        fallback: Callable[[], Edge] | None = None,
        seed: int | None = None,
        draft: str | None = None,
        tiers: int | None = None,
    ) -> None:
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        if retries is None and fallback is not None:
            retries = _RETRIES
        self.connection = Connection(url, key, ca, certificate, timeout, connect_timeout, retries, seed)
        self.drafting = None if draft is None else _drafter(model, draft, tiers)
        self.model = model if self.drafting is None else self.drafting.name
        self.url, self.link = self.connection.url, LinkEstimator()
        self._fallback = fallback
        self._fallen_back: Edge | None = None
        self._down: EdgeUnreachable | None = None  # what `check` found
        self._seconds = {"server": 0.05, "encode": 0.05}  # moving averages of work on either side

    def __enter__(self) -> RemoteEdge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self.connection.close()

    def models(self) -> list[str]:
        """Ids of the models, and of the members of their families, that the server answers with."""
        return [entry["id"] for entry in self.listed()["data"]]

    def listed(self) -> dict[str, Any]:
        """What the server tells of itself: its models, and how many tiers work on what a device drafts."""
        response = self.connection.tried(lambda left: self.connection.send("GET", "/v1/models", left)[0])
        found: dict[str, Any] = response.json()
        return found

    def check(self) -> None:
        """Whether the edge answers, before work is done for it.

        Raises UserError where it refuses this key, certificate or protocol, EdgeUnreachable where nobody
        answers and there is no fallback; with one, the next answer is the device's own, without more tries.
        """
        try:
            self.listed()
        except EdgeUnreachable as error:
            if self._fallback is None:
                raise
            self._down = error

    def answer(
        self, packet: Packet | bytes, question: str, *, exit: str = "full", **generation: Any
    ) -> Answer:
        """Answers a question about a packet's pictures, like `Edge.answer`.

        `timing` is the server's, with "link" for what the way took. Raises UserError for what the server
        finds wrong, PacketError for a packet, EdgeUnreachable where nobody answers and there is no fallback.
        """
        if self.drafting is not None:
            return self._decode(packet, question, exit, generation).answer
        url = data_url(PACKET_TYPE, bytes(packet))
        return self._answer(
            url, question, exit, generation, lambda edge: edge.answer(packet, question, **generation)
        )

    def stream(
        self, packet: Packet | bytes, question: str, *, exit: str = "full", **generation: Any
    ) -> Iterator[Progress]:
        """The answer while it grows, with what is verified and what is not told apart; needs `draft`.

        The last one has the whole answer in `decoded`. Raises what `answer` raises.
        """
        from tofc.drafting.progress import follow_progress

        if self.drafting is None:
            raise UserError('nothing is drafted here; say by which member: RemoteEdge(..., draft="e1")')
        return follow_progress(
            lambda watch: self._decode(packet, question, exit, generation, watch),
            self.drafting.edge.tokenizer,
        )

    def answer_many(
        self, requests: Iterable[tuple[Packet | bytes, str]], *, exit: str = "full", **generation: Any
    ) -> list[Answer]:
        """Answers many (packet, question) pairs, some at a time; in order."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda pair: self.answer(*pair, exit=exit, **generation), requests))

    def answer_image(self, file: bytes, question: str, *, exit: str = "full", **generation: Any) -> Answer:
        """Answers about an ordinary picture, given as the bytes of a JPEG, PNG, WebP, GIF or BMP file.

        What is not encoded here cannot be drafted here: the server writes by itself.
        """
        kind = next((kind for start, kind in _KINDS.items() if file.startswith(start)), "image/jpeg")
        return self._answer(
            data_url(kind, file),
            question,
            exit,
            generation,
            lambda edge: edge.answer_image(file, question, **generation),
        )

    def answer_text(self, question: str, **generation: Any) -> Answer:
        """Answers a question that comes without a picture; errors of `answer`."""
        return self._answer(None, question, "full", generation, None)

    def ask(
        self,
        device: Device,
        image: Any,
        question: str,
        *,
        deadline_ms: float | None = None,
        exit: str = "full",
        max_pixels: int = MAX_PIXELS,
        generation: Mapping[str, Any] | None = None,
        **rate: Any,
    ) -> tuple[Packet, Answer]:
        """Encodes a picture, sends it, and gives the packet that travelled and the answer.

        With `deadline_ms` quality and tokens are chosen so that the answer is there in time, as far as the
        link is known (it is probed first where nothing was sent yet); otherwise `rate` has the arguments of
        `Device.encode`. Where the deadline leaves room for nothing, the smallest packet goes.
        """
        if deadline_ms is not None:
            if rate:
                raise UserError(f"deadline_ms chooses the size of the packet; leave out {', '.join(rate)}")
            rate = self.plan(deadline_ms / 1e3)
        begin = time.monotonic()
        packet = device.encode(image, max_pixels=max_pixels, **rate)
        self._learn("encode", time.monotonic() - begin)
        answer = self.answer(packet, question, exit=exit, **(generation or {}))
        return packet, answer

    def plan(self, seconds: float) -> dict[str, Any]:
        """Arguments of `Device.encode` for an answer within so many seconds from now."""
        if seconds <= 0:
            raise UserError(f"the deadline is {1e3 * seconds:g} ms; give one above 0")
        if self.link.state is None:
            self.probe()
        work = self._seconds["server"] + self._seconds["encode"]
        most = self.link.packet_bytes(seconds - work)
        if most is None:  # nobody answers: what is sent does not matter any more
            return {}
        smallest: dict[str, Any] = {"quality": 1, "tokens": 4}
        return {"max_bytes": most} if most >= _SMALLEST_BYTES else smallest

    def probe(self) -> None:
        """Measures the link with requests of growing size, until one takes long enough to tell the rate.

        Where the server cannot be reached, nothing is learnt.
        """

        def timed(size: int) -> float:
            begin = time.monotonic()
            response, _ = self.connection.send("POST", "/v1/probe", self.connection.timeout, bytes(size))
            response.raise_for_status()
            return time.monotonic() - begin

        try:
            timed(0)  # opens the connection
            self.link.see_round_trip(min(timed(0), timed(0)))
            for size in _PROBES:
                seconds = timed(size)
                self.link.see(size, seconds)
                state = self.link.state
                if state is None or seconds > 1.5 * state.round_trip + 0.02:
                    break
        except (httpx.HTTPError, ConnectionError):
            return

    def _decode(
        self,
        packet: Packet | bytes,
        question: str,
        exit: str,
        generation: Mapping[str, Any],
        watch: Watch | None = None,
    ) -> Decoded:
        """The answer that is drafted here."""
        from tofc.drafting.drafter import DraftCounts
        from tofc.drafting.speculate import Decoded

        assert self.drafting is not None
        if exit != "full":
            raise UserError(f"drafts are verified by the last tier: leave out {exit}, or ask without draft")
        try:
            return self.drafting.decode(self.connection, packet, question, generation, watch)
        except EdgeUnreachable as error:
            answer = self._here(error, lambda edge: edge.answer(packet, question, **generation))
            return Decoded(answer, 0, DraftCounts())

    def _answer(
        self,
        url: str | None,
        question: str,
        exit: str,
        generation: Mapping[str, Any],
        here: Callable[[Edge], Answer] | None,
    ) -> Answer:
        model = self.model if exit == "full" else f"{self.model}:{exit}"
        body = json.dumps(chat_request(model, url, question, generation), separators=(",", ":")).encode()
        try:
            if self._down is not None:
                raise self._down
            return self._send(body)
        except EdgeUnreachable as error:
            if here is None:
                self._down = None
                raise
            return self._here(error, here)

    def _here(self, error: EdgeUnreachable, answer: Callable[[Edge], Answer]) -> Answer:
        """What the device says by itself, if there is a `fallback`."""
        self._down = None
        if self._fallback is None:
            raise error
        try:
            if self._fallen_back is None:
                self._fallen_back = self._fallback()
            return replace(answer(self._fallen_back), fallback=str(error))
        except UserError as fault:
            raise EdgeUnreachable(f"{error}; nor can the device answer: {fault}") from error

    def _send(self, body: bytes) -> Answer:
        headers = {"content-type": "application/json", "idempotency-key": secrets.token_hex(12)}
        opened, spent = False, 0.0

        def post(left: float) -> httpx.Response:
            nonlocal opened, spent
            begin = time.monotonic()
            response, opened = self.connection.send("POST", "/v1/chat/completions", left, body, headers)
            spent = time.monotonic() - begin
            return response

        given = self.connection.tried(post).content
        try:
            answer = chat_answer(given)
        except ValueError as error:
            raise EdgeUnreachable(f"{self.url} sends something else than an answer: {error}") from error
        timing = dict(answer.timing)
        timing["link"] = max(0.0, spent - timing.get("server", 0.0))
        answer = replace(answer, timing=timing, sent=len(body), received=len(given))
        if "server" not in timing:  # none of ours: what the link and what the model took is not told apart
            return answer
        if not opened:  # a new connection takes a round trip more
            self.link.see(len(body) + ENVELOPE_BYTES // 2, timing["link"])
        self._learn("server", timing["server"])
        return answer

    def _learn(self, what: str, seconds: float) -> None:
        self._seconds[what] += 0.3 * (seconds - self._seconds[what])


def _drafter(model: str, draft: str, tiers: int | None) -> RemoteDrafter:
    """What drafts here; MissingLibraryError without PyTorch."""
    with needs_edge("drafting for an edge"):
        from tofc.drafting.remote import RemoteDrafter

        return RemoteDrafter(model, draft, tiers)


_SMALLEST_BYTES = 60  # of a packet that still says something
