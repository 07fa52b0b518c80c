"""What an agent's card stands for, a member in this process or a model behind OpenAI's protocol; asking many.

Many are asked at the same time: each has its deadline, and who misses it is left out and named.
"""

from __future__ import annotations

import io
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from tofc.agents.cards import AgentCard
from tofc.answer import Answer
from tofc.errors import UserError, needs_edge, needs_extra
from tofc.packet import Packet

if TYPE_CHECKING:
    from tofc.edge import Edge
    from tofc.serving.client import RemoteEdge

JPEG_QUALITY = 90


@dataclass(frozen=True)
class Sight:
    """A picture in the forms in which agents see it; each is made once, for all of them."""

    packet: Packet | None = None
    jpeg: bytes | None = None


class Endpoint(Protocol):
    """Whoever answers prompts about what it sees."""

    def ask(self, sight: Sight, prompt: str) -> Answer:
        """The answer; UserError where there is none."""

    def close(self) -> None:
        """Lets go of connections."""


@dataclass(frozen=True)
class MemberEndpoint:
    """A member of a model in this process; members of one model take turns."""

    edge: Edge
    exit: str
    turn: threading.Lock

    def ask(self, sight: Sight, prompt: str) -> Answer:
        """The answer of this member; errors of `Edge.answer`."""
        assert sight.packet is not None
        with self.turn:
            return self.edge.answer(sight.packet, prompt, exit=self.exit)

    def close(self) -> None:
        """There is nothing to let go of."""


@dataclass(frozen=True)
class RemoteEndpoint:
    """A model on a server, in one try within its deadline."""

    remote: RemoteEdge
    card: AgentCard

    def ask(self, sight: Sight, prompt: str) -> Answer:
        """The answer of the server; EdgeUnreachable for all that is none, UserError where it refuses."""
        exit = self.card.exit
        if self.card.sees == "nothing":
            return self.remote.answer_text(prompt)
        if self.card.sees == "packet":
            assert sight.packet is not None
            return self.remote.answer(sight.packet, prompt, exit=exit)
        assert sight.jpeg is not None
        return self.remote.answer_image(sight.jpeg, prompt, exit=exit)

    def close(self) -> None:
        """Closes its connections."""
        self.remote.close()


def open_endpoints(cards: Iterable[AgentCard]) -> dict[str, Endpoint]:
    """The endpoints of these agents by name; a model in this process is read once for all its members.

    Raises UserError for a key that is not set, CheckpointError and UserError for models that are not there.
    """
    opened: dict[str, Endpoint] = {}
    edges: dict[str, tuple[Edge, threading.Lock]] = {}
    for card in cards:
        if card.url is not None:
            opened[card.name] = _open_remote(card)
            continue
        if card.model not in edges:
            edges[card.model] = _open_edge(card), threading.Lock()
        edge, turn = edges[card.model]
        opened[card.name] = MemberEndpoint(edge, edge.check_exit(card.exit), turn)
    return opened


def _open_edge(card: AgentCard) -> Edge:
    with needs_edge(f"{card.name}, an agent in this process,"):
        from tofc.edge import Edge
    return Edge.from_pretrained(card.model)


def _open_remote(card: AgentCard) -> RemoteEndpoint:
    with needs_extra("serve", "agents on servers need"):
        from tofc.serving.client import RemoteEdge
    assert card.url is not None
    key = "" if card.key is None else os.environ.get(card.key, "")
    if card.key is not None and not key:
        raise UserError(f"{card.name} wants its API key in the environment variable {card.key}: set it")
    remote = RemoteEdge(card.url, card.model, api_key=key, timeout=card.deadline_ms / 1e3, retries=0)
    return RemoteEndpoint(remote, card)


def look(image: Image.Image, packet: Packet | None, cards: Iterable[AgentCard]) -> Sight:
    """What these agents see of a picture whose packet is made."""
    if not any(card.sees == "picture" for card in cards):
        return Sight(packet)
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=JPEG_QUALITY)
    return Sight(packet, file.getvalue())


@dataclass(frozen=True)
class AgentReply:
    """What came of asking one agent: its text, or the `fault` for which it is left out.

    `confidence` is in 0..1, None where it is not told; `seconds` since it was asked; `sent` and `received`
    are bytes of the bodies that travelled, 0 within this process.
    """

    name: str
    text: str = ""
    confidence: float | None = None
    seconds: float = 0.0
    sent: int = 0
    received: int = 0
    fault: str = ""

    @property
    def is_answer(self) -> bool:
        """Whether there is an answer."""
        return not self.fault

    @classmethod
    def of(cls, name: str, answer: Answer, seconds: float) -> AgentReply:
        """The reply that an answer is; one without text is a fault."""
        fault = "" if answer.text.strip() else "it said nothing"
        traffic = (answer.sent, answer.received)
        return cls(name, answer.text.strip(), answer.confidence, seconds, *traffic, fault)


@dataclass(frozen=True)
class AgentRequest:
    """An agent to be asked: what asks it, and the seconds that it has."""

    name: str
    ask: Callable[[], Answer]
    seconds: float


def collect(requests: Sequence[AgentRequest]) -> list[AgentReply]:
    """A reply of everybody, in order, not later than the latest deadline.

    Who hangs goes on hanging in a thread that holds up neither this call nor the end of the process. A fault
    that is no UserError is ours, and is raised.
    """
    begin = time.monotonic()
    arrived: queue.SimpleQueue[tuple[int, Answer | Exception, float]] = queue.SimpleQueue()

    def work(number: int) -> None:
        found: Answer | Exception
        try:
            found = requests[number].ask()
        except Exception as error:  # raised again below, or told
            found = error
        arrived.put((number, found, time.monotonic() - begin))

    for number, request in enumerate(requests):
        threading.Thread(target=work, args=(number,), name=f"agent {request.name}", daemon=True).start()
    replies: dict[int, AgentReply] = {}
    while waiting := [r.seconds for n, r in enumerate(requests) if n not in replies]:
        left = begin + max(waiting) - time.monotonic()
        try:
            number, found, seconds = arrived.get(timeout=max(0.0, left))
        except queue.Empty:
            break
        replies[number] = _reply(requests[number], found, seconds)
    return [replies.get(n) or _late(request) for n, request in enumerate(requests)]


def _reply(request: AgentRequest, found: Answer | Exception, seconds: float) -> AgentReply:
    if seconds > request.seconds:
        return _late(request)
    if isinstance(found, UserError):
        return AgentReply(request.name, seconds=seconds, fault=" ".join(str(found).split()))
    if isinstance(found, Exception):
        raise found
    return AgentReply.of(request.name, found, seconds)


def _late(request: AgentRequest) -> AgentReply:
    return AgentReply(
        request.name, seconds=request.seconds, fault=f"no answer within {1e3 * request.seconds:.0f} ms"
    )
