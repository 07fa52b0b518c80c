"""Continuous batching: sequences of any length join a batch, and leave it, between two tokens.

transformers' `generate` keeps a batch together until its last row has ended. Here every step decodes one
token of each row that is there; keys and values are padded on the left, where nothing attends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from tofc.prompt import Prompt
from tofc.serving.prefixes import Prefix, PrefixCache, layers_of, length, stacked


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: the likeliest at temperature 0, else drawn from those that make up `top_p`.

    A `seed` makes what is drawn repeatable, whatever else is in the batch.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(eq=False)
class Row:
    """A sequence: its prompt, and the tokens that followed, without the one that ended it.

    `finish_reason` is "stop" or "length" once it has ended; `leave` ends it early. Rows with the same
    `prefix_key` begin with the same pictures.
    """

    prompt: Prompt
    sampling: Sampling
    prefix_key: bytes | None = None
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    _generator: torch.Generator | None = None

    def leave(self, reason: str) -> None:
        """Ends the sequence before its next token."""
        self.finish_reason = self.finish_reason or reason

    def take(self, logits: torch.Tensor, likeliest: int, ends: frozenset[int]) -> None:
        """The next token from logits [V], of which `likeliest` is the largest."""
        token = likeliest if self.sampling.temperature == 0 else self._draw(logits)
        if token in ends:
            self.leave("stop")
            return
        self.tokens.append(token)
        if len(self.tokens) == self.sampling.max_new_tokens:
            self.leave("length")

    def _draw(self, logits: torch.Tensor) -> int:
        if self._generator is None:
            self._generator = torch.Generator()
            if self.sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.sampling.seed)
        shares = (logits.float().cpu() / self.sampling.temperature).softmax(-1)
        ordered, ids = shares.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.where(before < self.sampling.top_p, 0.0)  # the first always stays
        return int(ids[torch.multinomial(ordered, 1, generator=self._generator)])


class Batch:
    """The rows that one model decodes together; not for use by several threads."""

    def __init__(self, model: Any, ends: frozenset[int], kept_positions: int = 0) -> None:
        self._model, self._ends = model, ends
        self._prefixes = PrefixCache(kept_positions)
        self.rows: list[Row] = []
        self._mask = torch.zeros(0, 0, dtype=torch.int64)  # [B, P], 0 where a shorter row is padded
        self._cache = DynamicCache()

    def positions(self, row: Row) -> int:
        """How many positions `join` has to compute for a row."""
        known = row.prompt.num_shared if row.prefix_key in self._prefixes else 0
        return row.prompt.length - known

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Prefills rows together, gives each its first token and adds them to the batch.

        Of rows whose pictures were asked about before, only what follows the pictures is computed.
        """
        self._drop_ended()
        held = [self._prefixes.get(row.prefix_key) for row in rows]
        known = [(row, prefix) for row, prefix in zip(rows, held, strict=True) if prefix is not None]
        fresh = [row for row, prefix in zip(rows, held, strict=True) if prefix is None]
        parts, masks = ([layers_of(self._cache)], [self._mask]) if self.rows else ([], [])
        for cache, mask in (self._prefill(fresh), self._continue(known)):
            if mask.numel():
                parts.append(layers_of(cache))
                masks.append(mask)
        self._cache, self._mask = stacked(parts, masks)
        self.rows = [*self.rows, *fresh, *(row for row, _ in known)]

    def _prefill(self, rows: Sequence[Row]) -> tuple[DynamicCache, torch.Tensor]:
        """Cache and mask [b, Q] of whole prompts; their beginnings are kept for later ones."""
        cache = DynamicCache()
        if not rows:
            return cache, self._mask[:0, :0]
        embeds, mask = Prompt.batch([row.prompt for row in rows], self._model)  # [b, Q, D], [b, Q]
        self._choose(rows, self._forward(embeds, mask, _positions(mask), cache))
        for index, row in enumerate(rows):
            begin = mask.shape[1] - row.prompt.length
            self._prefixes.keep(row.prefix_key, cache, index, begin, begin + row.prompt.num_shared)
        return cache, mask

    def _continue(self, known: Sequence[tuple[Row, Prefix]]) -> tuple[DynamicCache, torch.Tensor]:
        """Cache and mask of prompts whose beginnings are there."""
        if not known:
            return DynamicCache(), self._mask[:0, :0]
        rows = [row for row, _ in known]
        embeds, rest = Prompt.batch([row.prompt.split()[1] for row in rows], self._model)  # [b, S, D], [b, S]
        ones = [rest.new_ones(1, length(prefix)) for _, prefix in known]
        cache, mask = stacked([prefix for _, prefix in known], ones)  # [b, P]
        mask = torch.cat([mask, rest], dim=1)
        self._choose(rows, self._forward(embeds, mask, _positions(mask)[:, -rest.shape[1] :], cache))
        return cache, mask

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every row; rows that have ended leave first."""
        self._drop_ended()
        if not self.rows:
            return
        embedding: Any = self._model.get_input_embeddings()
        last = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self._mask.device)
        self._mask = functional.pad(self._mask, (0, 1), value=1)
        positions = self._mask.sum(-1, keepdim=True) - 1
        hidden = self._forward(embedding(last), self._mask, positions, self._cache)
        self._choose(self.rows, hidden)

    def _forward(
        self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """The last hidden state [B, D] of each row."""
        out = self._model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
        )
        return out.last_hidden_state[:, -1]

    def _choose(self, rows: Sequence[Row], hidden: torch.Tensor) -> None:
        logits = self._model.lm_head(hidden)  # [B, V]
        for row, scores, likeliest in zip(rows, logits, logits.argmax(-1).tolist(), strict=True):
            row.take(scores, likeliest, self._ends)

    def _drop_ended(self) -> None:
        kept = [index for index, row in enumerate(self.rows) if row.finish_reason is None]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in kept]
        if not kept:
            self._cache, self._mask = DynamicCache(), self._mask[:0, :0]
            return
        mask = self._mask[kept]
        used = int(mask.any(0).to(torch.int8).argmax())  # columns before it pad every row that is left
        cache = DynamicCache()
        for index, (keys, values) in enumerate(layers_of(self._cache)):
            cache.update(keys[kept, :, used:], values[kept, :, used:], index)
        self._cache, self._mask = cache, mask[:, used:]


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions as `generate` numbers them, padding not counted: int64 like the mask."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
