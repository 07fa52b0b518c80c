"""Decoder blocks with keys and values of their own, written in place: nothing else runs a decoder block.

At a few tokens a pass the cache objects, masks and hooks of transformers cost small models more than the
arithmetic does. So blocks of the Qwen2 kind are run here, module by module; blocks of another kind are called
as transformers calls them, with `CachedBlock` as their cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_QWEN2 = "Qwen2DecoderLayer"  # by its name: importing it takes a second
_SPARE = 64  # rows at least that memory grows by


class RowBuffer:
    """Rows [B, ..., length, D] that are appended to and cropped in place.

    With `keep` false it holds only what was appended last: positions from `begin` on.
    """

    def __init__(self, rows: Tensor, keep: bool = True, begin: int = 0) -> None:
        self._memory, self._keep = rows, keep
        self.begin, self.length = begin, begin + rows.shape[-2]

    def rows(self, start: int, end: int | None = None) -> Tensor:
        """A view of positions `start` to `end`, good until rows are cropped and others appended."""
        end = self.length if end is None else end
        return self._memory.narrow(-2, start - self.begin, end - start)

    def append(self, rows: Tensor) -> None:
        """Puts more rows behind them; memory grows by a quarter where it is short."""
        end = self.length + rows.shape[-2]
        if not self._keep:
            self._memory, self.begin, self.length = rows, self.length, end
            return
        room = self._memory.shape[-2]
        if end > room:
            spare = max(room // 4, end - room, _SPARE) if room else rows.shape[-2] + _SPARE
            shape = [*rows.shape[:-2], spare, rows.shape[-1]]
            self._memory = torch.cat([self._memory, rows.new_empty(shape)], dim=-2)
        self._memory.narrow(-2, self.length, rows.shape[-2]).copy_(rows)
        self.length = end

    def crop(self, length: int) -> None:
        """Forgets the positions after so many."""
        self.length = min(self.length, length)
        self.begin = min(self.begin, self.length)

    def select(self, chosen: Tensor, first: int = 0) -> None:
        """Keeps these sequences, int64 [b], without their first positions, which all of them lack."""
        begin = max(first, self.begin)
        room = min(self._memory.shape[-2], self.length - self.begin + _SPARE)
        rows = self._memory.narrow(-2, begin - self.begin, room - (begin - self.begin))
        self._memory = rows.index_select(0, chosen)
        self.begin, self.length = begin - first, self.length - first

    @classmethod
    def joined(cls, parts: Sequence[RowBuffer]) -> RowBuffer:
        """The sequences of all parts, which hold all their positions, padded on the left with zeros."""
        longest, like = max(part.length for part in parts), parts[0]._memory
        num = sum(len(part._memory) for part in parts)
        memory = like.new_zeros(num, *like.shape[1:-2], longest + _SPARE, like.shape[-1])
        row = 0
        for part in parts:
            rows = part.rows(0)
            memory[row : row + len(rows)].narrow(-2, longest - part.length, part.length).copy_(rows)
            row += len(rows)
        found = cls(memory)
        found.length = longest
        return found


@dataclass
class Positions:
    """Positions `start` to `end` of the columns of B left-padded sequences, as blocks take them.

    `cosines` and `sines` [B or 1, n, 1, d] turn queries and keys; `shown` bool [B, end] is False where a
    sequence is padded, None where none is.
    """

    start: int
    end: int
    cosines: Tensor
    sines: Tensor
    shown: Tensor | None
    _masks: dict[tuple[int | None, bool], Tensor | None] = field(default_factory=dict)

    def ids(self, start: int) -> Tensor:
        """Numbers of the positions from `start` on without padding, int64 [B or 1, end - start]."""
        if self.shown is None:
            return torch.arange(start, self.end, device=self.cosines.device)[None]
        return (self.shown.cumsum(-1) - 1).clamp(min=0)[:, start:]

    def mask(self, window: int | None, dtype: torch.dtype, always: bool = False) -> Tensor | None:
        """What is added to attention scores, [B or 1, 1, n, end]; None where causality alone says it.

        window: how far back a position sees; always: a mask even for a prompt from its start.
        """
        window = None if window is None or window >= self.end else window
        key = (window, always)
        if key not in self._masks:
            self._masks[key] = self._made(window, dtype, always)
        return self._masks[key]

    def _made(self, window: int | None, dtype: torch.dtype, always: bool) -> Tensor | None:
        new = self.end - self.start
        plain = new == 1 or (self.start == 0 and not always)
        if self.shown is None and window is None and plain:
            return None
        where = self.cosines.device
        seen = torch.ones(new, self.end, dtype=torch.bool, device=where).tril(self.start)[None]  # [1, n, end]
        if self.shown is not None:
            seen = seen & self.shown[:, None]
        if window is not None:
            places = self.ids(0)
            seen = seen & (places[:, self.start :, None] - places[:, None] < window)
        blocked = torch.zeros(seen.shape, dtype=dtype, device=where)
        # The least number and not -inf: a padded position sees nothing, and must not become NaN.
        return blocked.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


class CachedBlock:
    """One decoder block, with the keys and values [B, heads, length, d] of B sequences."""

    def __init__(self, block: Any) -> None:
        self.block, self._attention = block, block.self_attn
        self._window: int | None = getattr(block.self_attn, "sliding_window", None)
        self._is_qwen2 = any(kind.__name__ == _QWEN2 for kind in type(block).__mro__)
        self._held: tuple[RowBuffer, RowBuffer] | None = None

    def crop(self, length: int) -> None:
        """Forgets what comes after so many positions."""
        for buffer in self._held or ():
            buffer.crop(length)

    def select(self, chosen: Tensor, first: int = 0) -> None:
        """Keeps these sequences, without their first positions; see `RowBuffer.select`."""
        for buffer in self._held or ():
            buffer.select(chosen, first)

    def part(self, row: int, first: int, last: int) -> CachedBlock:
        """The block with a copy of some positions of one sequence."""
        found = CachedBlock(self.block)
        if self._held is not None:
            keys, values = (
                RowBuffer(buffer.rows(first, last)[row : row + 1].clone()) for buffer in self._held
            )
            found._held = keys, values
        return found

    @staticmethod
    def joined(parts: Sequence[CachedBlock]) -> CachedBlock:
        """The same block with the sequences of all parts."""
        found = CachedBlock(parts[0].block)
        held = [part._held for part in parts if part._held is not None]
        if held:
            keys, values = (RowBuffer.joined(buffers) for buffers in zip(*held, strict=True))
            found._held = keys, values
        return found

    def __call__(self, states: Tensor, positions: Positions) -> Tensor:
        """States [B n, D] after the block, of the next n positions of each sequence.

        Flat, as linear layers take them fastest where they are few.
        """
        block: Any = self.block
        if not self._is_qwen2:
            return self._called(states, positions)
        states = states + self._attend(block.input_layernorm(states), positions)
        out: Tensor = states + block.mlp(block.post_attention_layernorm(states))
        return out

    def _attend(self, states: Tensor, positions: Positions) -> Tensor:
        attention: Any = self._attention
        new, size = positions.end - positions.start, attention.head_dim
        queries, keys = attention.q_proj(states), attention.k_proj(states)  # [B n, H d]
        heads, shared = queries.shape[-1] // size, keys.shape[-1] // size
        both = torch.cat([queries, keys], dim=-1).view(-1, new, heads + shared, size)
        turned = torch.addcmul(both * positions.cosines, both.roll(size // 2, -1), positions.sines)
        turned = turned.transpose(1, 2)  # [B, n, H, d] to [B, H, n, d]
        values = attention.v_proj(states).view(-1, new, shared, size).transpose(1, 2)
        mask = positions.mask(self._window, states.dtype)
        held_keys, held_values = self.update(turned[:, heads:], values)
        groups: int = attention.num_key_value_groups
        if groups > 1 and mask is not None and not states.is_cpu:
            # Kernels that take a mask on accelerators want as many keys as queries.
            held_keys, held_values = (t.repeat_interleave(groups, 1) for t in (held_keys, held_values))
            groups = 1
        out = functional.scaled_dot_product_attention(
            turned[:, :heads],
            held_keys,
            held_values,
            attn_mask=mask,
            is_causal=mask is None and new > 1,
            scale=attention.scaling,
            enable_gqa=groups > 1,
        )
        found: Tensor = attention.o_proj(out.transpose(1, 2).reshape(len(states), -1))
        return found

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Puts the keys and values of new positions behind the others; gives all, as caches do."""
        if self._held is None:
            self._held = RowBuffer(keys[:, :, :0]), RowBuffer(values[:, :, :0])
        held_keys, held_values = self._held
        held_keys.append(keys)
        held_values.append(values)
        return held_keys.rows(0), held_values.rows(0)

    def _called(self, states: Tensor, positions: Positions) -> Tensor:
        """A block of another kind than Qwen2's, as transformers runs it."""
        cosines, sines = positions.cosines[:, :, 0], positions.sines[:, :, 0].clone()
        sines[..., : sines.shape[-1] // 2].neg_()  # theirs are all positive
        said = self.block(
            states.view(-1, positions.end - positions.start, states.shape[-1]),
            attention_mask=positions.mask(self._window, states.dtype, always=True),
            position_ids=positions.ids(positions.start),
            position_embeddings=(cosines, sines),
            use_cache=True,
            cache=self,
        )
        out: Tensor = said[0] if isinstance(said, tuple) else said
        return out.view_as(states)
