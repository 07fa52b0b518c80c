"""Which exit answers, decided question by question: early where it is sure, deeper where it is not.

A question begins at the first exit. While every token that it says is at least as probable as its
threshold, it goes on; at the first that is not, its answer is dropped, and the next exit starts from the
states, keys and values of the prompt that the shared blocks have already computed.
Source: AI Flow (arXiv 2506.12479), sections III-A2 and III-C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tofc.language.model import FULL, Exit, LanguageModel
from tofc.language.prompt import Prompt
from tofc.language.sampling import likeliest
from tofc.language.sequences import Sequences


@dataclass(frozen=True)
class Attempt:
    """An exit that was asked, and how many tokens it said, the one that ended its answer or that it was not
    sure of included."""

    exit: str
    num_tokens: int


@dataclass
class Decided:
    """One prompt's answer: ids without the one that ends it, who gave it, and who was asked on the way.

    `confidence` is the least probability among its tokens, the one that ends it included.
    """

    ids: list[int] = field(default_factory=list)
    exit: str = FULL
    confidence: float = 1.0
    attempts: list[Attempt] = field(default_factory=list)


def decide(
    model: LanguageModel,
    stages: Sequence[tuple[Exit, float]],
    prompts: Sequence[Prompt],
    ends: frozenset[int],
    max_new_tokens: int,
) -> list[Decided]:
    """Greedy answers to a batch of prompts, each by the first exit all of whose tokens reach its threshold.

    stages: exits with the least probability of each of their tokens, each deeper than the last; the last
    answers whatever is left.
    """
    sequences = Sequences(model, [exit for exit, _ in stages])
    sequences.extend(prompts)
    length = sequences.length
    decided = [Decided() for _ in prompts]
    rows = list(decided)
    for number, (exit, threshold) in enumerate(stages):
        least = threshold if number + 1 < len(stages) else 0.0
        unsure = _answer(sequences, exit, least, rows, ends, max_new_tokens)
        if not unsure:
            break
        sequences.crop(length)
        if len(unsure) < len(rows):
            sequences.select(unsure)
            rows = [rows[place] for place in unsure]
    return decided


def _answer(
    sequences: Sequences,
    exit: Exit,
    threshold: float,
    rows: Sequence[Decided],
    ends: frozenset[int],
    max_new_tokens: int,
) -> list[int]:
    """Has one exit answer; gives the places in `rows` of those that it is not sure of."""
    going = set(range(len(rows)))
    unsure: list[int] = []
    said: list[list[int]] = [[] for _ in rows]
    least, counts = [1.0] * len(rows), [0] * len(rows)
    for step in range(max_new_tokens):
        tokens, shares = likeliest(sequences.logits(exit.name)[:, -1])
        for place in sorted(going):
            counts[place] += 1
            least[place] = min(least[place], shares[place])
            if shares[place] < threshold:
                unsure.append(place)
            elif tokens[place] not in ends:
                said[place].append(tokens[place])
                continue
            going.discard(place)
        if not going or step + 1 == max_new_tokens:
            break
        # Rows that are done go on for nothing: what they say is not looked at.
        sequences.append([[token] for token in tokens])
    for place, row in enumerate(rows):
        row.attempts.append(Attempt(exit.name, counts[place]))
        if place not in unsure:
            row.ids, row.exit, row.confidence = said[place], exit.name, least[place]
    return sorted(unsure)
