"""The device's side of the wire: an edge far away, with the face of `tofc.Edge`."""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx

from tofc import __version__
from tofc.answer import Answer
from tofc.errors import EdgeUnreachable, PacketError, UserError
from tofc.images import MAX_PIXELS
from tofc.packet import Packet
from tofc.serving.link import ENVELOPE_BYTES, LinkEstimator

if TYPE_CHECKING:
    from tofc.device import Device
    from tofc.edge import Edge

KEY_VARIABLE = "TOFC_API_KEY"
_AGAIN = (429, 500, 502, 503, 504)
_AT_ONCE = 8
# Of the settings of `Edge.answer`, those that travel, and their names on the wire.
_SETTINGS = {"max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
_PROBES = (2_000, 16_000, 64_000)
_KINDS = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"GIF8": "image/gif", b"BM": "image/bmp"}


class RemoteEdge:
    """Answers like `tofc.Edge`, on a server that `tofc serve` runs; may be used by several threads.

    `url` is the server's, `model` a model that it lists, or "default" for its first. `api_key` may come from
    TOFC_API_KEY; `ca` is a file of certificate authorities in place of the system's. An answer has `timeout`
    seconds in all, over at most `retries` further tries, under one idempotency key; connecting has
    `connect_timeout`. `fallback` gives an `Edge` that answers on the device itself where the far one cannot
    be reached: the answer says so in its `fallback`. `seed` makes the pauses between tries repeatable.

    `link` knows what the uplink carries, from what was sent so far.
    """

    def __init__(
        self,
        url: str,
        model: str = "default",
        *,
        api_key: str | None = None,
        ca: str | Path | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 3.0,
        retries: int = 3,
        fallback: Callable[[], Edge] | None = None,
        seed: int | None = None,
    ) -> None:
        address = httpx.URL(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise UserError(f"the edge's address is {url!r}; give one such as https://edge.example:8080")
        if timeout <= 0 or connect_timeout <= 0 or retries < 0:
            raise UserError(
                f"timeout {timeout} s, connect_timeout {connect_timeout} s, {retries} retries: give times "
                "above 0 and at least 0 retries"
            )
        self.url, self.model, self.link = str(address).rstrip("/").removesuffix("/v1"), model, LinkEstimator()
        self._timeout, self._retries, self._fallback = timeout, retries, fallback
        self._fallen_back: Edge | None = None
        self._random = random.Random(seed)
        self._seconds = {"server": 0.05, "encode": 0.05}  # moving averages of work on either side
        key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
        headers = {"user-agent": f"tofc/{__version__}", "accept-encoding": "identity"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        try:
            verify = ssl.create_default_context(cafile=None if ca is None else str(ca))
        except OSError as error:
            raise UserError(f"{ca} holds no certificate authorities: {error}") from error
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=60)
        self._http = httpx.Client(
            headers=headers,
            verify=verify,
            limits=limits,
            timeout=httpx.Timeout(timeout, connect=connect_timeout),
        )

    def __enter__(self) -> RemoteEdge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    @property
    def http(self) -> httpx.Client:
        """The connections, with key and certificates, for what else goes to the same server."""
        return self._http

    def models(self) -> list[str]:
        """Ids of the models, and of the members of their families, that the server answers with."""
        response = self._tried(lambda left: self._http.get(f"{self.url}/v1/models", timeout=left))
        return [entry["id"] for entry in response.json()["data"]]

    def answer(
        self, packet: Packet | bytes, question: str, *, exit: str = "full", **generation: Any
    ) -> Answer:
        """Answers a question about a packet's pictures, like `Edge.answer`.

        `timing` is the server's, with "link" for what the way took. Raises UserError for what the server
        finds wrong, PacketError for a packet, EdgeUnreachable where nobody answers and there is no fallback.
        """
        url = data_url("application/vnd.tofc", bytes(packet))
        return self._answer(
            url, question, exit, generation, lambda edge: edge.answer(packet, question, **generation)
        )

    def answer_many(
        self, requests: Iterable[tuple[Packet | bytes, str]], *, exit: str = "full", **generation: Any
    ) -> list[Answer]:
        """Answers many (packet, question) pairs, some at a time; in order."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda pair: self.answer(*pair, exit=exit, **generation), requests))

    def answer_image(self, file: bytes, question: str, *, exit: str = "full", **generation: Any) -> Answer:
        """Answers about an ordinary picture, given as the bytes of a JPEG, PNG, WebP, GIF or BMP file."""
        kind = next((kind for start, kind in _KINDS.items() if file.startswith(start)), "image/jpeg")
        url = data_url(kind, file)

        def here(edge: Edge) -> Answer:
            return edge.answer_image(file, question, **generation)

        return self._answer(url, question, exit, generation, here)

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
        url = f"{self.url}/v1/probe"

        def timed(size: int) -> float:
            begin = time.monotonic()
            self._http.post(url, content=bytes(size)).raise_for_status()
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
        except httpx.HTTPError:
            return

    def _answer(
        self,
        url: str,
        question: str,
        exit: str,
        generation: Mapping[str, Any],
        here: Callable[[Edge], Answer],
    ) -> Answer:
        body = self._body(url, question, exit, generation)
        try:
            return self._send(body)
        except EdgeUnreachable as error:
            if self._fallback is None:
                raise
            try:
                if self._fallen_back is None:
                    self._fallen_back = self._fallback()
                answer = here(self._fallen_back)
            except UserError as fault:
                raise EdgeUnreachable(f"{error}; nor can the device answer: {fault}") from error
            return Answer(answer.text, answer.exit, answer.tokens, answer.timing, fallback=str(error))

    def _body(self, url: str, question: str, exit: str, generation: Mapping[str, Any]) -> bytes:
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
        body: dict[str, Any] = {
            "model": self.model if exit == "full" else f"{self.model}:{exit}",
            "messages": [{"role": "user", "content": content}],
        }
        for name, value in generation.items():
            if name not in _SETTINGS:
                raise UserError(
                    f"generation setting {name} does not travel to an edge; these do: {', '.join(_SETTINGS)}"
                )
            body[_SETTINGS[name]] = value
        return json.dumps(body, separators=(",", ":")).encode()

    def _send(self, body: bytes) -> Answer:
        headers = {"content-type": "application/json", "idempotency-key": secrets.token_hex(12)}
        opened: list[str] = []
        spent = 0.0

        def post(left: float) -> httpx.Response:
            nonlocal spent
            opened.clear()
            begin = time.monotonic()
            response = self._http.post(
                f"{self.url}/v1/chat/completions",
                content=body,
                headers=headers,
                timeout=httpx.Timeout(left, connect=min(left, self._http.timeout.connect or left)),
                extensions={
                    "trace": lambda event, _: opened.append(event) if "connect_tcp" in event else None
                },
            )
            spent = time.monotonic() - begin
            return response

        given = self._tried(post).json()
        extras = given["tofc"]
        timing = dict(extras["timing"])
        timing["link"] = max(0.0, spent - timing["server"])
        if not any("connect_tcp" in event for event in opened):  # a new connection takes a round trip more
            self.link.see(len(body) + ENVELOPE_BYTES // 2, timing["link"])
        self._learn("server", timing["server"])
        message = given["choices"][0]["message"]
        return Answer(message["content"], extras["exit"], tuple(extras["tokens"]), timing)

    def _tried(self, request: Callable[[float], httpx.Response]) -> httpx.Response:
        """The good answer to a request that is made again where that can help."""
        until = time.monotonic() + self._timeout
        tries = self._retries + 1
        for number in range(tries):
            pause = 0.1 * 2**number * self._random.uniform(0.5, 1.5)
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

    def _learn(self, what: str, seconds: float) -> None:
        self._seconds[what] += 0.3 * (seconds - self._seconds[what])


_SMALLEST_BYTES = 60  # of a packet that still says something


def data_url(kind: str, data: bytes) -> str:
    """The bytes as a URL that carries them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


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
