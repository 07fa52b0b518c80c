"""Collaborative decoding in one process: two or more members of a family, or models, answer as the last one.

decoded = speculate(edge, packet, "Describe the picture.", ["e2", "full"])
decoded.answer.text, decoded.counts.stood / decoded.counts.sent

Text without pictures: plain language models, separate or of one family, as tiers.

small, large = TextModel.from_pretrained("models/1.5B"), TextModel.from_pretrained("models/7B")
decoded = speculate(small, b"", "What is 7 times 8?", [(small, "full"), (large, "full")])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch

from tofc.answer import Answer
from tofc.drafting.acceptance import rule_of
from tofc.drafting.drafter import DraftCounts, Drafter, Watch
from tofc.drafting.pace import Pace
from tofc.drafting.reader import Read, readers
from tofc.drafting.rounds import PartialAnswer
from tofc.drafting.verifier import UpperTier, Verifier
from tofc.edge import MAX_NEW_TOKENS
from tofc.errors import UserError
from tofc.familial.index import INDEX
from tofc.familial.store import BASE, FAMILY, load_family
from tofc.familial.views import Family
from tofc.language.load import load_causal, load_tokenizer
from tofc.language.model import FULL
from tofc.language.prompt import Prompt, answer_text, end_ids
from tofc.language.sampling import Sampling
from tofc.packet import Packet


class Speaker(Protocol):
    """What has tiers: an `Edge`, or a `TextModel`."""

    @property
    def family(self) -> Family:
        """The members that answer."""

    @property
    def tokenizer(self) -> Any:
        """The same one in all tiers."""

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""

    @property
    def codec(self) -> Any:
        """Of what a packet holds; None without pictures."""

    def prompt(self, seen: Any, question: str) -> Prompt:
        """A question about what arrived."""


@dataclass(frozen=True)
class Decoded:
    """An answer, and what it took; of `answer.tokens` those from `final` on were never verified."""

    answer: Answer
    final: int
    counts: DraftCounts

    @property
    def unverified(self) -> int:
        """Tokens of the answer that no other tier has seen."""
        return max(0, len(self.answer.tokens) - self.final)


def speculate(
    edge: Speaker,
    packet: Packet | bytes,
    question: str,
    tiers: Sequence[str | tuple[Speaker, str]],
    *,
    sampling: Sampling | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    pace: Pace | None = None,
    watch: Watch | None = None,
) -> Decoded:
    """The answer of the last of `tiers`, drafted by the first: two or three exits, the smallest first.

    A tier is an exit of `edge`'s family, or (another edge, its exit). Greedy answers are those of the last
    tier token for token, as far as its logits do not depend on how many tokens it reads at once: on
    processors they differ in the last bits. UserError where tiers do not fit together.
    """
    sampling = sampling or Sampling()
    members = [(edge, tier) if isinstance(tier, str) else tier for tier in tiers]
    check_tiers(members)
    answer = PartialAnswer(members[-1][0].ends, max_new_tokens)
    reads = _reads(members, packet, question)
    counts = grow(answer, reads, sampling, pace or Pace(), watch)
    return Decoded(as_answer(*members[-1], answer, counts), answer.final, counts)


def grow(
    answer: PartialAnswer, reads: Sequence[Read], sampling: Sampling, pace: Pace, watch: Watch | None = None
) -> DraftCounts:
    """Grows an answer to its end with models that have read the prompt, the smallest first.

    A fixed number of drafts in `pace` is that of tiers in the middle, too.
    """
    verifier: Verifier | None = None
    for level in range(len(reads) - 1, 0, -1):
        verifier = Verifier(
            reads[level],
            rule_of(sampling, level),
            answer.ends,
            answer.most,
            drafter=reads[level - 1],
            above=None if verifier is None else UpperTier(verifier.check, Pace(pace.drafts)),
        )
    assert verifier is not None
    return Drafter(reads[0], rule_of(sampling, 0), verifier.check, pace, watch=watch).run(answer)


def check_tiers(members: Sequence[tuple[Speaker, str]]) -> None:
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


def as_answer(edge: Speaker, exit: str, answer: PartialAnswer, counts: DraftCounts) -> Answer:
    """What the tokens say, as `Edge.answer` gives it: without the one that ends the turn."""
    tokens = tuple(answer.tokens[: answer.end])
    return Answer(answer_text(edge.tokenizer, tokens), exit, tokens, {"generate": counts.seconds})


def _reads(members: Sequence[tuple[Speaker, str]], packet: Packet | bytes, question: str) -> list[Read]:
    """A reader for each tier; those of one edge share what they have in common."""
    exits: dict[int, list[str]] = {}
    for edge, exit in members:
        exits.setdefault(id(edge), []).append(exit)
    made = {}
    for edge in {id(edge): edge for edge, _ in members}.values():
        prompt = edge.prompt(packet, question)
        made[id(edge)] = readers(edge.family, prompt, exits[id(edge)])
    return [made[id(edge)][exit] for edge, exit in members]


class TextModel:
    """A plain causal language model, or a family of one (such as `tofc familial import` writes).

    It stands where an edge stands in `speculate`: what it is asked about is the text alone.
    """

    codec = None

    def __init__(self, family: Family, tokenizer: Any) -> None:
        self.family, self.tokenizer = family, tokenizer
        self.ends = end_ids(tokenizer, family.main)

    @classmethod
    def from_pretrained(
        cls, source: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> TextModel:
        """A folder or hub id of a causal language model, or a folder with `base/` and `family/`.

        CheckpointError where it is neither, or not whole.
        """
        is_family = (Path(source) / FAMILY / INDEX).is_file()
        base = Path(source) / BASE if is_family else source
        family = (
            load_family(source, FULL, dtype) if is_family else Family(load_causal(base, None, device, dtype))
        )
        return cls(family, load_tokenizer(base))

    def prompt(self, seen: Any, question: str) -> Prompt:
        """The text in the model's chat template, or as it stands where the tokenizer has none."""
        if not question.strip():
            raise UserError("the prompt is empty; write something")
        text = question
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": question}]
            text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return Prompt(torch.tensor(self.tokenizer(text)["input_ids"]), (), {})
