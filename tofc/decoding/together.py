"""Collaborative decoding in one process: two or more members of a family, or models, answer as the last one.

decoded = speculate(edge, packet, "Describe the picture.", ["e2", "full"])
decoded.answer.text, decoded.counts.stood / decoded.counts.sent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tofc.answer import Answer
from tofc.decoding.choice import Choice
from tofc.decoding.drafting import Counts, Drafter, Watch
from tofc.decoding.growing import Growing
from tofc.decoding.pace import Pace
from tofc.decoding.reading import Read, readers
from tofc.decoding.verifier import Above, Verifier
from tofc.edge import MAX_NEW_TOKENS, Edge
from tofc.errors import UserError
from tofc.language.prompt import Prompt
from tofc.model import visual_embeddings
from tofc.packet import Packet


@dataclass(frozen=True)
class Decoded:
    """An answer, and what it took; of `answer.tokens` those from `final` on were never verified."""

    answer: Answer
    final: int
    counts: Counts

    @property
    def unverified(self) -> int:
        """Tokens of the answer that no other tier has seen."""
        return max(0, len(self.answer.tokens) - self.final)


def speculate(
    edge: Edge,
    packet: Packet | bytes,
    question: str,
    tiers: Sequence[str | tuple[Edge, str]],
    *,
    choice: Choice | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    pace: Pace | None = None,
    watch: Watch | None = None,
) -> Decoded:
    """The answer of the last of `tiers`, drafted by the first: two or three exits, the smallest first.

    A tier is an exit of `edge`'s family, or (another edge, its exit). Greedy answers are those of the last
    tier token for token, as far as its logits do not depend on how many tokens it reads at once: on
    processors they differ in the last bits. UserError where tiers do not fit together.
    """
    choice = choice or Choice()
    members = [(edge, tier) if isinstance(tier, str) else tier for tier in tiers]
    check_tiers(members)
    answer = Growing(end_ids(members[-1][0]), max_new_tokens)
    reads = _reads(members, packet, question)
    counts = grow(answer, reads, choice, pace or Pace(), watch)
    return Decoded(as_answer(*members[-1], answer, counts), answer.final, counts)


def grow(
    answer: Growing, reads: Sequence[Read], choice: Choice, pace: Pace, watch: Watch | None = None
) -> Counts:
    """Grows an answer to its end with models that have read the prompt, the smallest first.

    A fixed number of drafts in `pace` is that of tiers in the middle, too.
    """
    verifier: Verifier | None = None
    for level in range(len(reads) - 1, 0, -1):
        verifier = Verifier(
            reads[level],
            choice.policy(level),
            answer.ends,
            answer.most,
            drafter=reads[level - 1],
            above=None if verifier is None else Above(verifier.check, Pace(pace.drafts)),
        )
    assert verifier is not None
    return Drafter(reads[0], choice.policy(0), verifier.check, pace, watch=watch).run(answer)


def check_tiers(members: Sequence[tuple[Edge, str]]) -> None:
    """UserError where a tier cannot verify the one before it."""
    if len(members) < 2:
        raise UserError(
            "collaborative decoding takes two tiers or three, the smallest first, e.g. e2 and full"
        )
    for (below, small), (above, large) in pairwise(members):
        least, most = below.family.named(small), above.family.named(large)
        if most.num_parameters <= least.num_parameters:
            raise UserError(
                f"{large} ({most.num_parameters:,} parameters) is to verify {small} "
                f"({least.num_parameters:,}): a verifier is larger than its drafter; name the smallest first"
            )
        if below is above:
            continue
        if below.tokenizer.get_vocab() != above.tokenizer.get_vocab():
            raise UserError(
                f"{small} and {large} have different tokenizers: a draft of one is no text to the other; "
                "take two models with the same one"
            )
        codecs = [edge.codec and edge.codec.fingerprint for edge in (below, above)]
        if codecs[0] != codecs[1]:
            raise UserError(
                f"{small} and {large} belong to different families: their codecs differ, and with them what "
                "they see in a packet; take two members of one checkpoint"
            )


def prompt_of(edge: Edge, packet: Packet | bytes, question: str) -> Prompt:
    """The question with the packet's pictures, decoded and projected."""
    pictures = edge.decode_features(packet)
    embeddings = visual_embeddings(edge.model, pictures)
    return Prompt.build(edge.tokenizer, edge.template, edge.model.config, question, embeddings)


def end_ids(edge: Edge) -> frozenset[int]:
    """Tokens that end an answer."""
    named: Any = edge.model.generation_config.eos_token_id
    return frozenset([named] if isinstance(named, int) else named)


def as_answer(
    edge: Edge, exit: str, answer: Growing, counts: Counts, timing: Mapping[str, float] | None = None
) -> Answer:
    """What the tokens say, as `Edge.answer` gives it: without the one that ends the turn."""
    tokens = answer.tokens
    stop = next((i for i, token in enumerate(tokens) if token in answer.ends), len(tokens))
    text = str(edge.tokenizer.decode(tokens[:stop], skip_special_tokens=True)).strip()
    return Answer(text, exit, tuple(tokens[:stop]), {**(timing or {}), "generate": counts.seconds})


def _reads(members: Sequence[tuple[Edge, str]], packet: Packet | bytes, question: str) -> list[Read]:
    """A reader for each tier; those of one edge share what they have in common."""
    exits: dict[int, list[str]] = {}
    for edge, exit in members:
        exits.setdefault(id(edge), []).append(exit)
    made = {}
    for edge in {id(edge): edge for edge, _ in members}.values():
        prompt = prompt_of(edge, packet, question)
        made[id(edge)] = readers(edge.family, prompt, exits[id(edge)])
    return [made[id(edge)][exit] for edge, exit in members]
