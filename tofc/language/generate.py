"""Answers to many prompts: what questions about the same pictures share is prefilled once.

The exit that answers may be decided question by question. A question begins at the first exit; while every
token that it says is at least as probable as its threshold, it goes on; at the first that is not, its answer
is dropped, and the next exit starts from the states, keys and values of the prompt that the shared blocks
have already computed. Source: AI Flow (arXiv 2506.12479), sections III-A2 and III-C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tofc.clock import Stopwatch
from tofc.language.batch import Batch, Generation
from tofc.language.model import FULL, Exit, LanguageModel
from tofc.language.prompt import Prompt
from tofc.language.sampling import likeliest
from tofc.language.sequences import Sequences


@dataclass(frozen=True)
class Attempt:
    """An exit that was asked, and how many tokens it computed, with the one at which it stopped."""

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


# With embeddings for a prompt, transformers takes the first new tokens of a padded row for its padding.
_UNPADDED_SETTING = "repetition_penalty"


@dataclass(frozen=True)
class Generated:
    """The ids that follow a prompt, without the one that ends them, and the exit that said them.

    `confidence` is the least probability among them, None where it is not known; `seconds` the prompt's share
    of the time that its batch took.
    """

    ids: tuple[int, ...]
    exit: str
    confidence: float | None
    seconds: float


def generate(
    model: LanguageModel,
    exit: Exit,
    prompts: Sequence[Prompt],
    ends: frozenset[int],
    max_new_tokens: int,
    batch_size: int,
) -> list[Generated]:
    """Greedy answers of one exit, in order.

    Prompts with the same `pictures` share their prefix. At most `batch_size` prefixes and as many sequences
    are held at a time.
    """
    results: dict[int, Generated] = {}
    for wave in _waves(prompts, batch_size):
        watch = Stopwatch(model.device)
        rows = {
            index: Generation(prompts[index], max_new_tokens, prefix_key=number.to_bytes(8, "little"))
            for number, group in enumerate(wave)
            for index in group
        }
        first = [rows[group[0]] for group in wave if len(group) > 1]
        batch = Batch(model, exit, ends, sum(row.prompt.num_shared for row in first))
        batch.prefill(first)
        order = sorted(rows.values(), key=batch.positions)
        for start in range(0, len(order), batch_size):
            batch.join(order[start : start + batch_size])
            batch.run()
        seconds = watch.lap() / len(rows)
        for index, row in rows.items():
            results[index] = Generated(tuple(row.tokens), exit.name, row.confidence, seconds)
    return [results[index] for index in range(len(prompts))]


def generate_by_choice(
    model: LanguageModel,
    stages: Sequence[tuple[Exit, float]],
    prompts: Sequence[Prompt],
    ends: frozenset[int],
    max_new_tokens: int,
    batch_size: int,
) -> list[Generated]:
    """Greedy answers, each of the first exit that is sure of it; see `tofc.language.generate.decide`."""
    results: list[Generated] = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        watch = Stopwatch(model.device)
        found = decide(model, stages, part, ends, max_new_tokens)
        seconds = watch.lap() / len(part)
        results += [Generated(tuple(one.ids), one.exit, one.confidence, seconds) for one in found]
    return results


@torch.inference_mode()
def generate_with_settings(
    model: LanguageModel,
    exit: str,
    prompts: Sequence[Prompt],
    ends: frozenset[int],
    settings: Mapping[str, Any],
    batch_size: int,
) -> list[Generated]:
    """What transformers' own `generate` says with any settings of its own: beams, penalties, its sampling.

    `model` is that exit alone, as a stock model.
    """
    if settings.get(_UNPADDED_SETTING) is not None:
        batch_size = 1
    results: dict[int, Generated] = {}
    # Neighbours are of similar length, so that little padding is computed.
    order = sorted(range(len(prompts)), key=lambda index: prompts[index].length)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        watch = Stopwatch(model.device)
        embeddings, mask = Prompt.batch([prompts[index] for index in part], model.model)
        produced = model.model.generate(inputs_embeds=embeddings, attention_mask=mask, **settings).tolist()
        seconds = watch.lap() / len(part)
        for index, ids in zip(part, produced, strict=True):
            stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
            results[index] = Generated(tuple(ids[:stop]), exit, None, seconds)
    return [results[index] for index in range(len(prompts))]


def _waves(prompts: Sequence[Prompt], most: int) -> Iterator[list[list[int]]]:
    """Groups of prompts (as indices) with a common prefix, at most `most` groups of like length at a time."""
    groups: dict[Any, list[int]] = {}
    for index, prompt in enumerate(prompts):
        prefix, _ = prompt.split()
        key = (id(prompt.pictures), prefix.ids.numpy().tobytes()) if prefix.length else index
        groups.setdefault(key, []).append(index)
    # Neighbours are of similar length, so that little padding is computed.
    alone = sorted((g for g in groups.values() if len(g) == 1), key=lambda g: prompts[g[0]].length)
    shared = sorted((g for g in groups.values() if len(g) > 1), key=lambda g: prompts[g[0]].num_shared)
    for kind in (alone, shared):
        for first in range(0, len(kind), most):
            yield kind[first : first + most]
