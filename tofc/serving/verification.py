"""Collaborative decoding on the server: answers that grow from a device's drafts, round by round.

    PUT  /v1/answers/ID    the question and its packet, as for chat completions, and which member drafts
    POST /v1/answers/ID    a round of drafts; what became of it comes back (`tofc.decoding.rounds`)
    DELETE /v1/answers/ID  the device is done

An answer that is not heard of for a while is forgotten; the device opens it again from its last final token.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from tofc.decoding.choice import Choice
from tofc.decoding.pace import Pace
from tofc.decoding.reading import readers
from tofc.decoding.remote import RemoteVerifier, drafted_by, drafter_tag, vocabulary_tag
from tofc.decoding.rounds import MessageError, Round
from tofc.decoding.verifier import Above, Verifier
from tofc.errors import UserError
from tofc.serving.client import RemoteEdge
from tofc.serving.errors import ApiError, wrong
from tofc.serving.models import ServedModels
from tofc.serving.requests import Asked, understand
from tofc.serving.schema import ChatRequest
from tofc.serving.settings import Limits

ROUTE = "/v1/answers"
_MOST = 64  # answers that grow at a time; the one that was heard of longest ago makes room
_IDLE = 120.0  # seconds
_MOST_DRAFTS = 512
_ID = re.compile(r"[0-9a-f]{16,64}", re.ASCII)


class OpenRequest(ChatRequest):
    """A question whose answer is to be grown from drafts.

    `draft` names the member that drafts, `draft_parameters` says how large it is, `draft_tag` which weights
    it has, `vocabulary` which tokenizer. `tokens` of the answer are final already.
    """

    draft: str = Field(max_length=200)
    draft_parameters: int = Field(ge=0)
    draft_tag: str = Field("", max_length=64)
    vocabulary: str = Field(max_length=64)
    tokens: list[int] = Field(default_factory=list, max_length=4096)
    top_k: int | None = Field(None, ge=1)


class Opened(BaseModel):
    """An open answer: the member that it will be of, and how many tiers work on it, the device included."""

    exit: str
    tiers: int


@dataclass
class _Open:
    verifier: Verifier
    digest: bytes
    vocabulary: int
    heard: float
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Upstream:
    """A tier above; `exit` is the member that verifies here and drafts for it."""

    remote: RemoteEdge
    exit: str

    @classmethod
    def reach(cls, url: str, models: ServedModels, exit: str) -> Upstream:
        """UserError for an exit that is not here, EdgeUnreachable where nobody answers at `url`."""
        models.edge.family.named(exit)
        remote = RemoteEdge(url, models.name)
        if models.name not in (there := remote.models()):
            raise UserError(f"{url} has no model {models.name}; it has: {', '.join(there)}")
        return cls(remote, exit)


class Answers:
    """The answers that grow on this server, each for the client that opened it."""

    def __init__(self, models: ServedModels, limits: Limits, upstream: Upstream | None = None) -> None:
        self._models, self._limits, self._upstream = models, limits, upstream
        self._open: OrderedDict[tuple[str, str], _Open] = OrderedDict()
        self._vocabulary = vocabulary_tag(models.edge.tokenizer)
        self._pool = ThreadPoolExecutor(_MOST, thread_name_prefix="tofc-upstream")
        self._pace = Pace(parallel=True)  # learns from all answers

    @property
    def opened(self) -> Opened:
        """What every answer here will be."""
        if self._upstream is None:
            return Opened(exit=self._models.edge.exit, tiers=2)
        return Opened(exit="full", tiers=3)

    async def open(self, client: str, name: str, digest: bytes, body: OpenRequest) -> None:
        """Takes a question; the same request again changes nothing."""
        if _ID.fullmatch(name) is None:
            raise wrong("an answer's id is 16 to 64 hexadecimal digits", code="invalid_id")
        known = self._open.get((client, name))
        if known is not None and known.digest == digest:
            return
        if body.vocabulary != self._vocabulary:
            raise wrong(
                "the drafter has another tokenizer than this server's model: a draft of one is no text to "
                "the other; draft with a member of the same checkpoint",
                "vocabulary",
                "other_tokenizer",
            )
        asked = await understand(body, self._models, self._limits)
        verifier = await asyncio.to_thread(self._prepare, asked, body)
        text: Any = self._models.edge.model.config.text_config
        self._open[(client, name)] = _Open(verifier, digest, text.vocab_size, time.monotonic())
        self._forget()

    async def check(self, client: str, name: str, data: bytes) -> bytes:
        """A round's verdict; raises ApiError 404 for an answer that is not (or no longer) here."""
        found = self._open.get((client, name))
        if found is None:
            raise ApiError(404, "there is no such answer here; open it again", "answer_not_found")
        self._open.move_to_end((client, name))
        found.heard = time.monotonic()
        try:
            round = Round.from_bytes(data)
        except MessageError as error:
            raise wrong(str(error), code="invalid_round") from error
        if len(round.drafts) > _MOST_DRAFTS:
            raise wrong(
                f"{len(round.drafts)} drafts in a round; at most {_MOST_DRAFTS}", code="invalid_round"
            )
        if any(token >= found.vocabulary for token in round.drafts):
            raise wrong(f"a draft is no token: ids go up to {found.vocabulary - 1}", code="invalid_round")

        def work() -> bytes:
            with found.lock:
                return bytes(found.verifier.check(round))

        try:
            return await asyncio.to_thread(work)
        except UserError as error:
            raise wrong(f"the tier above: {error}", code="upstream_refuses") from error

    def close(self, client: str, name: str) -> None:
        """Forgets an answer, if it is there."""
        self._open.pop((client, name), None)

    def _forget(self) -> None:
        since = time.monotonic() - _IDLE
        while len(self._open) > _MOST or next(iter(self._open.values())).heard < since:
            self._open.popitem(last=False)

    def _prepare(self, asked: Asked, body: OpenRequest) -> Verifier:
        edge, upstream = self._models.edge, self._upstream
        exit = edge.exit if upstream is None else upstream.exit
        choice = _choice(asked, body)
        size = edge.family.named(exit).num_parameters
        if body.draft_parameters >= size:
            raise wrong(
                f"the drafter has {body.draft_parameters:,} parameters, the verifier here ({exit}) has "
                f"{size:,}: a verifier is larger than its drafter; draft with a smaller member",
                "draft",
                "verifier_too_small",
            )
        prompt = self._models.prepare(asked.turns, asked.seen, asked.sampling.max_new_tokens).prompt
        # What the drafter drew from is recomputed here, so that it need not travel: if it is the very same.
        knows = bool(body.draft_tag) and _tag(edge, body.draft) == body.draft_tag
        try:
            reads = readers(edge.family, prompt, [exit, body.draft] if knows else [exit])
        except UserError as error:
            raise wrong(str(error), "model") from error
        reads[exit](body.tokens)  # the prompt is read while the device reads it
        above = None
        if upstream is not None:
            asked_above = body.model_dump(exclude_none=True) | drafted_by(edge, exit, choice)
            far = RemoteVerifier(upstream.remote, asked_above | {"model": upstream.remote.model})
            above = Above(far, self._pace, self._pool)
        return Verifier(
            reads[exit],
            choice.policy(stream=1 if upstream is not None else 2),
            self._models.ends,
            asked.sampling.max_new_tokens,
            drafter=reads.get(body.draft) if knows else None,
            tokens=tuple(body.tokens),
            above=above,
        )


def add_verification(app: FastAPI, answers: Answers) -> None:
    """The routes."""

    @app.put(ROUTE + "/{name}", response_model=Opened, tags=["decoding"])
    async def open_answer(name: str, body: OpenRequest, request: Request) -> Opened:
        """Opens an answer that a device drafts."""
        await answers.open(request.state.client, name, request.state.digest, body)
        return answers.opened

    @app.post(ROUTE + "/{name}", response_class=Response, tags=["decoding"])
    async def check_drafts(name: str, request: Request) -> Response:
        """Verifies a round of drafts; both ways in the binary form of `tofc.decoding.rounds`."""
        verdict = await answers.check(request.state.client, name, await request.body())
        return Response(verdict, media_type="application/octet-stream")

    @app.delete(ROUTE + "/{name}", status_code=204, tags=["decoding"])
    async def close_answer(name: str, request: Request) -> Response:
        """Forgets an answer."""
        answers.close(request.state.client, name)
        return Response(status_code=204)


def _choice(asked: Asked, body: OpenRequest) -> Choice:
    sampling = asked.sampling
    return Choice(sampling.temperature, body.top_k, sampling.top_p, sampling.seed or 0)


def _tag(edge: Any, exit: str) -> str | None:
    """The tag of a member that is here; None where it is not."""
    try:
        return drafter_tag(edge, exit)
    except UserError:
        return None
