"""A device that drafts for a verifier on another machine; tags tell weights and vocabularies apart.

Weights are read once for each model that is in memory, and their tags kept as long as it is there.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from tofc.answer import Answer
from tofc.drafting.acceptance import rule_of
from tofc.drafting.drafter import Drafter, Watch
from tofc.drafting.link import RemoteVerifier
from tofc.drafting.pace import Pace
from tofc.drafting.reader import StateSender, readers
from tofc.drafting.rounds import PartialAnswer
from tofc.drafting.speculate import Decoded, as_answer
from tofc.edge import MAX_NEW_TOKENS, Edge
from tofc.errors import UserError
from tofc.familial import family
from tofc.familial.branches import LowRankLinear
from tofc.language.model import text_model
from tofc.language.sampling import GREEDY, Sampling
from tofc.network.connection import Connection
from tofc.network.messages import PACKET_TYPE, chat_request, data_url
from tofc.packet import Packet

_SAMPLING = ("temperature", "top_k", "top_p", "seed")


@dataclass(frozen=True)
class DraftSettings:
    """How an answer is drafted.

    `draft` names the member that does it, the edge's own by default; `tiers` is how many have to work on it,
    None for as many as there are. With `parallel` drafting goes on while a round is under way. `pace` learns
    from one answer for the next. `patience` is how many seconds a link may be down at the end.
    """

    draft: str | None = None
    tiers: int | None = None
    sampling: Sampling = GREEDY
    max_new_tokens: int = MAX_NEW_TOKENS
    parallel: bool = True
    pace: Pace = field(default_factory=lambda: Pace(parallel=True))
    patience: float = 10.0


def draft_for(
    connection: Connection,
    model: str,
    edge: Edge,
    packet: Packet | bytes,
    question: str,
    settings: DraftSettings | None = None,
    watch: Watch | None = None,
) -> Decoded:
    """The answer of `model` on the server that `connection` leads to, drafted here by a member of `edge`.

    The packet travels once; then token ids, positions and a few bytes, and states of the drafts where the
    server takes them and `pace.states` has them go. Where the link breaks, the device goes on by itself:
    tokens from `Decoded.final` on are its own, and `answer.fallback` says so, where the link did not return
    within `patience` seconds of the end, or the connection's `timeout` has passed. Raises EdgeUnreachable
    where the server cannot be reached at the start, UserError where it refuses or does not make up so many
    `tiers`.
    """
    how = settings or DraftSettings()
    sampling, pace, member = how.sampling, how.pace, edge.family.named(how.draft)
    exit, depth = member.name, member.exit_layer
    asked = _question(model, packet, question, sampling, how.max_new_tokens)
    until = time.monotonic() + connection.timeout
    far = RemoteVerifier(connection, asked | drafted_by(edge, exit, sampling), until=until)
    with ExitStack() as stack:
        stack.callback(far.close)
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="tofc-link"))
        stack.callback(far.close)  # before the pool as well, which waits for what is under way
        opening = pool.submit(connection.again, far.open)
        read = readers(edge.family, edge.prompt(packet, question), [exit])[exit]
        read([])  # both ends read the prompt at the same time
        opening.result()
        if how.tiers not in (None, far.tiers):
            raise _other_tiers(connection.url, how.tiers, far.tiers)
        answer = PartialAnswer(edge.ends, how.max_new_tokens)
        if pace.is_new and far.round_trip:
            pace.way(far.round_trip)
        drafter = Drafter(
            read,
            rule_of(sampling),
            far,
            pace,
            pack=StateSender(read.shared(depth), lambda: far.takes_states, pace.states),
            pool=pool if how.parallel else None,
            patience=how.patience,
            watch=watch,
        )
        counts = drafter.run(answer)
    said = as_answer(edge, far.exit, answer, counts)
    unverified = len(answer.tokens) - answer.final
    if unverified:
        fault = f"the last {unverified} tokens are {exit}'s own: the edge {connection.url} did not answer"
        said = Answer(said.text, exit, said.tokens, said.timing, fallback=fault)
    return Decoded(said, answer.final, counts)


class RemoteDrafter:
    """The member `draft` of the checkpoint `model` (a bundled name, a folder, a hub id), loaded on first use.

    `tiers` is how many have to work on an answer, None for as many as there are. Raises UserError for a
    member that is not there.
    """

    def __init__(self, model: str, draft: str, tiers: int | None = None) -> None:
        self._model = model
        self._settings = DraftSettings(family(model).named(draft).name, tiers)
        self._edge: Edge | None = None
        self._loading, self._turn = threading.Lock(), threading.Lock()  # one answer is drafted at a time

    @property
    def name(self) -> str:
        """The model's on the server."""
        return Path(self._model).name

    @property
    def edge(self) -> Edge:
        """The member that drafts."""
        with self._loading:
            if self._edge is None:
                self._edge = Edge.from_pretrained(self._model, str(self._settings.draft))
            return self._edge

    def decode(
        self,
        connection: Connection,
        packet: Packet | bytes,
        question: str,
        generation: Mapping[str, Any],
        watch: Watch | None = None,
    ) -> Decoded:
        """The server's answer, drafted here; see `draft_for` for what is raised."""
        chosen = dict(generation)
        most = chosen.pop("max_new_tokens", MAX_NEW_TOKENS)
        if unknown := chosen.keys() - set(_SAMPLING):
            raise UserError(
                f"generation setting {min(unknown)} does not go with drafts; these do: max_new_tokens, "
                f"{', '.join(_SAMPLING)}"
            )
        settings = replace(self._settings, sampling=Sampling(**chosen), max_new_tokens=most)
        with self._turn:
            return draft_for(connection, self.name, self.edge, packet, question, settings, watch)


def _other_tiers(url: str, asked: int | None, there: int) -> UserError:
    advice = (
        "ask with --tiers device,edge,cloud" if there > 2 else "start it with `tofc serve --upstream URL`"
    )
    return UserError(f"{asked} tiers were asked for, {url} makes {there}: {advice}")


def drafted_by(edge: Edge, exit: str, sampling: Sampling) -> dict[str, Any]:
    """What a verifier is told of its drafter: of its first blocks, whose states may travel, and of all its
    weights, where what it draws from matters."""
    member = edge.family.named(exit)
    return {
        "draft": exit,
        "draft_parameters": member.num_parameters,
        "draft_tag": "" if sampling.is_greedy else drafter_tag(edge, exit),
        "vocabulary": vocabulary_tag(edge),
        "shared": member.exit_layer,
        "shared_tag": shared_tag(edge, member.exit_layer),
    }


def _question(
    model: str, packet: Packet | bytes, question: str, sampling: Sampling, max_new_tokens: int
) -> dict[str, Any]:
    """What opens the answer, but for who drafts it."""
    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed or 0,
    }
    body = chat_request(model, data_url(PACKET_TYPE, bytes(packet)), question, settings)
    return body if sampling.top_k is None else {**body, "top_k": sampling.top_k}


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
