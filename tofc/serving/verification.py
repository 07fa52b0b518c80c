"""What verifies the drafts of a device, on a server: the question that opens an answer, and its verifier."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from tofc.drafting.acceptance import rule_of
from tofc.drafting.link import ROUND_SECONDS, RemoteVerifier
from tofc.drafting.pace import Pace
from tofc.drafting.reader import Read, SharedBlocks, StateSender, readers
from tofc.drafting.remote import drafted_by, drafter_tag, shared_tag, vocabulary_tag
from tofc.drafting.rounds import LinkDown, MessageError, Round
from tofc.drafting.verifier import UpperTier, Verifier
from tofc.errors import UserError
from tofc.familial import FULL, family
from tofc.language.prompt import Prompt
from tofc.language.sampling import Sampling
from tofc.serving.client import RemoteEdge
from tofc.serving.errors import ApiError, wrong
from tofc.serving.models import ServedModels
from tofc.serving.requests import ChatQuestion
from tofc.serving.schema import ChatRequest
from tofc.serving.settings import Limits, PositionBudget

_MOST_DRAFTS = 512


class OpenRequest(ChatRequest):
    """A question whose answer is to be grown from drafts.

    `draft` names the member that drafts, `draft_parameters` says how large it is, `draft_tag` which weights
    it has, `vocabulary` which tokenizer. Its first `shared` blocks have the weights that `shared_tag` says:
    states behind them may travel. `tokens` of the answer are final already.
    """

    draft: str = Field(max_length=200)
    draft_parameters: int = Field(ge=0)
    draft_tag: str = Field("", max_length=64)
    vocabulary: str = Field(max_length=64)
    shared: int = Field(0, ge=0)
    shared_tag: str = Field("", max_length=64)
    tokens: list[int] = Field(default_factory=list, max_length=4096)
    top_k: int | None = Field(None, ge=1)


class Opened(BaseModel):
    """An open answer: the member that it will be of, how many tiers work on it, the device included, and
    whether states may come with its drafts."""

    exit: str
    tiers: int
    states: bool


@dataclass(frozen=True)
class Upstream:
    """A tier above; `exit` is the member that verifies here and drafts for it."""

    remote: RemoteEdge
    exit: str

    @classmethod
    def reach(cls, url: str, model: str, exit: str | None = None) -> Upstream:
        """For the checkpoint `model`, of which only the index is read; `exit` is else its second largest.

        Raises UserError where the tiers do not fit together, EdgeUnreachable where nobody answers at `url`.
        """
        members = family(model)
        if len(members) < 2:
            raise UserError(f"{model} has one member alone: a tier in the middle takes two, one for above it")
        chosen = members.named(exit or members[-2].name)
        if chosen.name == FULL:
            raise UserError(
                f"{url} is to verify what the full model says here: a verifier is larger than its drafter; "
                f"give a smaller one, such as --exit {members[-2].name}"
            )
        name = Path(model).name
        with ExitStack() as unless_it_fits:
            remote = unless_it_fits.enter_context(RemoteEdge(url, name, retries=3))
            listed = remote.listed()
            there = [entry["id"] for entry in listed["data"]]
            if name not in there:
                raise UserError(f"{url} has no model {name}; it has: {', '.join(there)}")
            if listed.get("tiers", 2) > 2:
                raise UserError(
                    f"{url} has an upstream itself, and there are three tiers at most; give the address of "
                    "the uppermost one (`tofc serve --role cloud`)"
                )
            unless_it_fits.pop_all()
        return cls(remote, chosen.name)


@dataclass
class Verification:
    """An answer that a device drafts; `far` leads to the tier above, where there is one; `shared` are the
    blocks whose states may come, where some may."""

    opened: Opened
    verifier: Verifier
    shared: SharedBlocks | None
    far: RemoteVerifier | None
    vocabulary: int
    room: ExitStack  # what it takes of the server's memory
    rounds: int = 0
    drafts: int = 0

    def check(self, data: bytes) -> bytes:
        """A round's verdict; ApiError for bytes that are no round."""
        try:
            round = Round.from_bytes(data)
            if round.states and self.shared is None:
                raise MessageError("states came that this server said it does not take")
            if round.states and self.shared is not None:
                self.shared.parsed(round)
        except MessageError as error:
            raise wrong(str(error), code="invalid_round") from error
        if len(round.drafts) > _MOST_DRAFTS:
            raise wrong(
                f"{len(round.drafts)} drafts in a round; at most {_MOST_DRAFTS}", code="invalid_round"
            )
        if any(token >= self.vocabulary for token in round.drafts):
            raise wrong(f"a draft is no token: ids go up to {self.vocabulary - 1}", code="invalid_round")
        self.rounds += 1
        self.drafts += len(round.drafts)
        try:
            return bytes(self.verifier.check(round))
        except UserError as error:
            raise wrong(f"the tier above: {error}", code="upstream_refuses") from error

    def close(self) -> None:
        """The device is done, or gone."""
        if self.far is not None:
            self.far.close()
        self.room.close()


class Verifiers:
    """Makes the verifiers of one server; for use by several threads."""

    def __init__(self, models: ServedModels, limits: Limits, upstream: Upstream | None = None) -> None:
        self.models, self._upstream = models, upstream
        self.vocabulary = vocabulary_tag(models.edge)
        self._memory = PositionBudget(limits.drafted_positions)
        self._pool = ThreadPoolExecutor(limits.drafted, thread_name_prefix="tofc-upstream")
        self._pace = Pace(parallel=True)  # learns from all answers

    @property
    def tiers(self) -> int:
        """How many work on each answer."""
        return 2 if self._upstream is None else 3

    def close(self) -> None:
        """Drops what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def open(
        self, asked: ChatQuestion, body: OpenRequest, is_wanted: Callable[[], bool] = lambda: True
    ) -> Verification:
        """Reads the question, as long as `is_wanted`; ApiError for a drafter that cannot be verified here."""
        if body.vocabulary != self.vocabulary:
            raise wrong(
                "the drafter has another tokenizer than this server's model: a draft of one is no text to "
                "the other; draft with a member of the same checkpoint",
                "vocabulary",
                "other_tokenizer",
            )
        edge, upstream = self.models.edge, self._upstream
        exit = edge.exit if upstream is None else upstream.exit
        text: Any = edge.model.config.text_config
        if any(not 0 <= token < text.vocab_size for token in body.tokens):
            raise wrong(f"the answer so far holds no tokens: ids go up to {text.vocab_size - 1}", "tokens")
        sampling = replace(asked.sampling, top_k=body.top_k)
        size = edge.family.named(exit).num_parameters
        if body.draft_parameters >= size:
            raise wrong(
                f"the drafter has {body.draft_parameters:,} parameters, the verifier here ({exit}) has "
                f"{size:,}: a verifier is larger than its drafter; draft with a smaller member",
                "draft",
                "verifier_too_small",
            )
        _check(is_wanted)
        prompt = self.models.prepare(asked.turns, asked.seen, asked.max_new_tokens).prompt
        _check(is_wanted)
        with ExitStack() as room:
            room.enter_context(self._memory.taken(prompt.length + asked.max_new_tokens))
            found = self._opened(asked, body, exit, sampling, prompt)
            found.room.push(room.pop_all())
        return found

    def _opened(
        self, asked: ChatQuestion, body: OpenRequest, exit: str, sampling: Sampling, prompt: Prompt
    ) -> Verification:
        edge, upstream = self.models.edge, self._upstream
        # What the drafter drew from is recomputed here, so that it need not travel: if it is the very same.
        knows = bool(body.draft_tag) and _tag(edge, body.draft) == body.draft_tag
        depth = self._shares(body, exit)
        try:
            reads = readers(edge.family, prompt, [exit, body.draft] if knows else [exit], depth)
        except UserError as error:
            raise wrong(str(error), "model") from error
        read, far, above = reads[exit], None, None
        if upstream is not None:
            asked_above = body.model_dump(exclude_none=True) | drafted_by(edge, exit, sampling)
            asked_above |= {"model": upstream.remote.model}
            # Heard of, or given up, before the device gives up this tier.
            far = link = RemoteVerifier(upstream.remote.connection, asked_above, ROUND_SECONDS / 2)
            own = read.shared(edge.family.named(exit).exit_layer)
            pack = StateSender(own, lambda: link.takes_states, self._pace.states)
            above = UpperTier(link, self._pace, self._pool, pack)
        shared = read.shared(depth) if depth else None
        verifier = Verifier(
            read,
            rule_of(sampling, 1 if upstream is not None else 2),
            self.models.edge.ends,
            asked.max_new_tokens,
            drafter=reads.get(body.draft) if knows else None,
            tokens=tuple(body.tokens),
            above=above,
            shared=shared,
        )
        self._read_everywhere(read, body.tokens, far)
        decides = edge.exit if upstream is None else FULL
        opened = Opened(exit=decides, tiers=self.tiers, states=shared is not None)
        vocabulary: Any = edge.model.config.text_config
        return Verification(opened, verifier, shared, far, vocabulary.vocab_size, ExitStack())

    def _shares(self, body: OpenRequest, exit: str) -> int:
        """The number of first blocks that drafter and verifier have in common, weight for weight, or 0."""
        edge = self.models.edge
        reaches = 0 < body.shared <= edge.family.named(exit).exit_layer
        return body.shared if reaches and shared_tag(edge, body.shared) == body.shared_tag else 0

    def _read_everywhere(self, read: Read, tokens: list[int], far: RemoteVerifier | None) -> None:
        """All tiers read the prompt at the same time."""
        opening = None if far is None else self._pool.submit(far.open)
        read(tokens)
        if opening is None:
            return
        try:
            with suppress(LinkDown):  # the first round opens it
                opening.result()
        except UserError as error:
            raise wrong(f"the tier above: {error}", code="upstream_refuses") from error


def _check(is_wanted: Callable[[], bool]) -> None:
    if not is_wanted():
        raise ApiError(499, "the client left", "client_left")


def _tag(edge: Any, exit: str) -> str | None:
    """The tag of a member that is here; None where it is not."""
    try:
        return drafter_tag(edge, exit)
    except UserError:
        return None
