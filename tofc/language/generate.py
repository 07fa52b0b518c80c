"""Answers to many prompts: what questions about the same pictures share is prefilled once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tofc.clock import Stopwatch
from tofc.language.batch import Batch, Generation
from tofc.language.exits import decide
from tofc.language.model import Exit, LanguageModel
from tofc.language.prompt import Prompt

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
    """Greedy answers, each of the first exit that is sure of it; see `tofc.language.exits.decide`."""
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
        embeddings, mask = model.embed_prompts([prompts[index] for index in part])
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
