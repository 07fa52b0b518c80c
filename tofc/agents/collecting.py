"""Asking many agents at the same time: each has its deadline, and who misses it is left out and named."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tofc.answer import Answer
from tofc.errors import UserError


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
