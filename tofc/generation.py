"""Generation for many prompts: what questions about the same pictures share is prefilled once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache, LlavaOnevisionForConditionalGeneration

from tofc.clock import Stopwatch
from tofc.prompt import Prompt

# Settings with which `generate` insists on a cache of its own.
_OWN_CACHE_SETTINGS = ("cache_implementation", "prefill_chunk_size")
# With embeddings for a prompt, transformers takes the first new tokens of a padded row for its padding.
_UNPADDED_SETTING = "repetition_penalty"


@dataclass(frozen=True)
class Prefixes:
    """The language model's keys and values [G, heads, P, d] of G left-padded prefixes, layer by layer.

    `mask` int64 [G, P] is 0 where a shorter prefix is padded.
    """

    layers: Sequence[tuple[torch.Tensor, torch.Tensor]]
    mask: torch.Tensor

    @classmethod
    def prefill(cls, model: LlavaOnevisionForConditionalGeneration, prefixes: Sequence[Prompt]) -> Prefixes:
        """One pass of the language model, without its head."""
        embeds, mask = Prompt.batch(prefixes, model)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)  # as `generate` numbers them
        cache = DynamicCache()
        model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
        )
        layers: Any = cache.layers  # their declared type covers layers that hold no keys
        return cls([(layer.keys, layer.values) for layer in layers], mask)

    def cache(self, rows: torch.Tensor) -> DynamicCache:
        """A new cache that starts with these rows of the prefixes, int64 [B]; `generate` may write to it."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.layers):
            cache.update(keys[rows], values[rows], index)
        return cache


@torch.inference_mode()
def generate(
    model: LlavaOnevisionForConditionalGeneration,
    prompts: Sequence[Prompt],
    batch_size: int,
    settings: Mapping[str, Any],
) -> list[tuple[list[int], float]]:
    """The ids that follow each prompt, in order, and each prompt's share of the seconds that it took.

    Prompts with the same `pictures` share their prefix. At most `batch_size` prefixes and as many sequences
    are held at a time. Rows that end early are filled with whatever `generate` fills them with.
    """
    results: dict[int, tuple[list[int], float]] = {}
    share = _can_share(model, settings)
    if settings.get(_UNPADDED_SETTING) is not None:
        batch_size, share = 1, False
    for wave in _waves(prompts, batch_size, share):
        watch = Stopwatch(model.device)
        produced = dict(_generate_wave(model, prompts, wave, batch_size, settings))
        seconds = watch.lap() / len(produced)
        results |= {index: (ids, seconds) for index, ids in produced.items()}
    return [results[index] for index in range(len(prompts))]


def _can_share(model: LlavaOnevisionForConditionalGeneration, settings: Mapping[str, Any]) -> bool:
    """Padding between prefix and question would shift the window of layers that see only their neighbours."""
    kinds = set(getattr(model.config.text_config, "layer_types", None) or ())
    own_cache = any(settings.get(name) is not None for name in _OWN_CACHE_SETTINGS)
    return kinds <= {"full_attention"} and not own_cache


def _waves(prompts: Sequence[Prompt], most: int, share: bool) -> Iterator[list[list[int]]]:
    """Groups of prompts (as indices) with a common prefix, at most `most` groups of like length at a time."""
    groups: dict[Any, list[int]] = {}
    for index, prompt in enumerate(prompts):
        prefix, _ = prompt.split()
        key = (id(prompt.pictures), prefix.ids.numpy().tobytes()) if share and prefix.length else index
        groups.setdefault(key, []).append(index)
    # Neighbours are of similar length, so that little padding is computed.
    alone = sorted((g for g in groups.values() if len(g) == 1), key=lambda g: prompts[g[0]].length)
    shared = sorted((g for g in groups.values() if len(g) > 1), key=lambda g: prompts[g[0]].num_shared)
    for kind in (alone, shared):
        for first in range(0, len(kind), most):
            yield kind[first : first + most]


def _generate_wave(
    model: LlavaOnevisionForConditionalGeneration,
    prompts: Sequence[Prompt],
    wave: list[list[int]],
    batch_size: int,
    settings: Mapping[str, Any],
) -> Iterator[tuple[int, list[int]]]:
    """Indices of prompts with the ids that follow them."""
    if all(len(group) == 1 for group in wave):
        indices = [group[0] for group in wave]
        embeds, mask = Prompt.batch([prompts[i] for i in indices], model)
        yield from zip(indices, _generate(model, embeds, mask, settings), strict=True)
        return
    prefixes = Prefixes.prefill(model, [prompts[group[0]].split()[0] for group in wave])
    rows = {index: row for row, group in enumerate(wave) for index in group}
    order = sorted(rows, key=lambda index: prompts[index].length - prompts[index].num_shared)
    beams = settings.get("num_beams") or 1
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        embeds, mask = Prompt.batch([prompts[i].split()[1] for i in batch], model)
        chosen = torch.tensor([rows[i] for i in batch], device=mask.device)
        mask = torch.cat([prefixes.mask[chosen], mask], dim=1)  # [B, P + S]
        # `generate` wants embeddings of the whole prompt and skips as many as the cache holds.
        embeds = functional.pad(embeds, (0, 0, prefixes.mask.shape[1], 0))  # [B, P + S, D]
        # It repeats its tensors for the beams, but not a cache.
        cache = prefixes.cache(chosen.repeat_interleave(beams))
        produced = _generate(model, embeds, mask, {**settings, "cache": cache})
        yield from zip(batch, produced, strict=True)


def _generate(
    model: LlavaOnevisionForConditionalGeneration,
    embeds: torch.Tensor,
    mask: torch.Tensor,
    settings: Mapping[str, Any],
) -> list[list[int]]:
    untyped: Any = model  # the declared type of `generate` asks for another class
    produced: torch.Tensor = untyped.generate(inputs_embeds=embeds, attention_mask=mask, **settings)
    return produced.tolist()  # [B][new]
