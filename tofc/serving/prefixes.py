"""Prompts begin with their pictures: what was prefilled for one question serves the next about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from tofc.serving.kept import Kept

# Keys and values [1, heads, P, d] of the P positions of one prefix, layer by layer.
Prefix = list[tuple[torch.Tensor, torch.Tensor]]


class PrefixCache(Kept[Prefix]):
    """The prefixes that were used last, of at most `most` positions together."""

    def keep(self, key: bytes | None, cache: DynamicCache, row: int, first: int, last: int) -> None:
        """Copies positions `first` to `last` of a row of `cache`; the oldest prefixes make room."""
        if key is None or key in self:
            return
        part = slice(row, row + 1)
        copied = [
            (keys[part, :, first:last].clone(), values[part, :, first:last].clone())
            for keys, values in layers_of(cache)
        ]
        self.put(key, copied, last - first)


def length(prefix: Prefix) -> int:
    """Positions of a prefix."""
    return prefix[0][0].shape[2]


def layers_of(cache: DynamicCache) -> Prefix:
    """Keys and values [B, heads, P, d] of a cache."""
    layers: Any = cache.layers  # their declared type covers layers that hold no keys
    return [(layer.keys, layer.values) for layer in layers]


def stacked(parts: Sequence[Prefix], masks: Sequence[torch.Tensor]) -> tuple[DynamicCache, torch.Tensor]:
    """The rows of all parts in one cache, padded on the left to the same length; masks int64 [B, P] alike."""
    longest = max(mask.shape[1] for mask in masks)
    more = [longest - mask.shape[1] for mask in masks]
    cache = DynamicCache()
    for index in range(len(parts[0])):
        pairs = [
            tuple(functional.pad(tensor, (0, 0, n, 0)) for tensor in part[index])
            for part, n in zip(parts, more, strict=True)
        ]
        keys, values = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
        cache.update(keys, values, index)
    padded = [functional.pad(mask, (n, 0)) for mask, n in zip(masks, more, strict=True)]
    return cache, torch.cat(padded)
