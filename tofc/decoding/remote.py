"""A device that drafts for a verifier on another machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from tofc.answer import Answer
from tofc.decoding.carry import Carrier
from tofc.decoding.choice import Choice
from tofc.decoding.drafting import Drafter, Watch
from tofc.decoding.growing import Growing
from tofc.decoding.pace import Pace
from tofc.decoding.reading import readers
from tofc.decoding.tags import drafter_tag, shared_tag, vocabulary_tag
from tofc.decoding.together import Decoded, as_answer, end_ids, prompt_of
from tofc.decoding.wire import RemoteVerifier
from tofc.edge import MAX_NEW_TOKENS, Edge
from tofc.errors import UserError
from tofc.packet import Packet
from tofc.serving.asking import chat_request, data_url
from tofc.serving.client import RemoteEdge


def draft_for(
    remote: RemoteEdge,
    edge: Edge,
    packet: Packet | bytes,
    question: str,
    *,
    draft: str | None = None,
    tiers: int | None = None,
    choice: Choice | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    pace: Pace | None = None,
    parallel: bool = True,
    patience: float = 10.0,
    watch: Watch | None = None,
) -> Decoded:
    """The answer of the server behind `remote`, drafted here by the member `draft` of `edge`.

    The packet travels once; then token ids, positions and a few bytes, and states of the drafts where the
    server takes them and `pace.carry` has them go. With `parallel` drafting goes on while
    a round is under way. Where the link breaks, the device goes on by itself: tokens from `Decoded.final` on
    are its own, and `answer.fallback` says so, where the link did not return within `patience` seconds of the
    end. Raises EdgeUnreachable where the server cannot be reached at the start, UserError where it refuses or
    does not make up so many `tiers` (None: as many as there are).
    """
    choice, member = choice or Choice(), edge.family.named(draft)
    exit, depth = member.name, member.exit_layer
    asked = _question(remote.model, packet, question, choice, max_new_tokens)
    far = RemoteVerifier(remote, asked | drafted_by(edge, exit, choice))
    with ExitStack() as stack:
        stack.callback(far.close)
        pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="tofc-link"))
        stack.callback(far.close)  # before the pool as well, which waits for what is under way
        opening = pool.submit(remote.connection.again, lambda _: far.open())
        read = readers(edge.family, prompt_of(edge, packet, question), [exit])[exit]
        read([])  # both ends read the prompt at the same time
        opening.result()
        if tiers not in (None, far.tiers):
            raise _other_tiers(remote.url, tiers, far.tiers)
        answer = Growing(end_ids(edge), max_new_tokens)
        pace = Pace(parallel=parallel) if pace is None else pace
        if pace.is_new and far.round_trip:
            pace.way(far.round_trip)
        drafter = Drafter(
            read,
            choice.policy(0),
            far,
            pace,
            pack=Carrier(read.shared(depth), lambda: far.takes_states, pace.carry),
            pool=pool if parallel else None,
            patience=patience,
            watch=watch,
        )
        counts = drafter.run(answer)
    said = as_answer(edge, far.exit, answer, counts)
    unverified = len(answer.tokens) - answer.final
    if unverified:
        fault = f"the last {unverified} tokens are {exit}'s own: the edge {remote.url} did not answer"
        said = Answer(said.text, exit, said.tokens, said.timing, fallback=fault)
    return Decoded(said, answer.final, counts)


def _other_tiers(url: str, asked: int | None, there: int) -> UserError:
    advice = (
        "ask with --tiers device,edge,cloud" if there > 2 else "start it with `tofc serve --upstream URL`"
    )
    return UserError(f"{asked} tiers were asked for, {url} makes {there}: {advice}")


def drafted_by(edge: Edge, exit: str, choice: Choice) -> dict[str, Any]:
    """What a verifier is told of its drafter: of its first blocks, whose states may travel, and of all its
    weights, where what it draws from matters."""
    member = edge.family.named(exit)
    return {
        "draft": exit,
        "draft_parameters": member.num_parameters,
        "draft_tag": drafter_tag(edge, exit) if choice.temperature else "",
        "vocabulary": vocabulary_tag(edge),
        "shared": member.exit_layer,
        "shared_tag": shared_tag(edge, member.exit_layer),
    }


def _question(
    model: str, packet: Packet | bytes, question: str, choice: Choice, max_new_tokens: int
) -> dict[str, Any]:
    """What opens the answer, but for who drafts it."""
    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": choice.temperature,
        "top_p": choice.top_p,
        "seed": choice.seed,
    }
    body = chat_request(model, data_url("application/vnd.tofc", bytes(packet)), question, settings)
    return body if choice.top_k is None else {**body, "top_k": choice.top_k}
