"""Decoder blocks of the Qwen2 kind on few new positions, with keys and values written in place.

The very modules of transformers are called, and what stands between them is done here: at a few tokens a pass
its cache objects, masks and hooks cost small models more than the arithmetic does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from tofc.errors import UserError

_SPARE = 64  # rows at least that memory grows by


class Grown:
    """Rows [..., length, D] that are appended to and cropped in place."""

    def __init__(self, rows: Tensor) -> None:
        self._memory, self.length = rows, rows.shape[-2]

    @property
    def rows(self) -> Tensor:
        """A view of them, good until rows are cropped and others appended."""
        return self._memory.narrow(-2, 0, self.length)

    def append(self, rows: Tensor) -> None:
        """Puts more rows behind them; memory doubles where it is short."""
        end = self.length + rows.shape[-2]
        room = self._memory.shape[-2]
        if end > room:
            spare = max(room, end - room, _SPARE)
            shape = [*rows.shape[:-2], spare, rows.shape[-1]]
            self._memory = torch.cat([self._memory, rows.new_empty(shape)], dim=-2)
        self._memory.narrow(-2, self.length, rows.shape[-2]).copy_(rows)
        self.length = end

    def crop(self, length: int) -> None:
        """Forgets the rows after so many."""
        self.length = min(self.length, length)


class Layer:
    """One block of a model, with the keys and values of one sequence.

    UserError for blocks of another kind than Qwen2's.
    """

    def __init__(self, block: Any) -> None:
        if not isinstance(block, Qwen2DecoderLayer):
            raise UserError(
                "collaborative decoding takes models of the Qwen2 kind; this one has "
                f"{type(block).__name__}: answer without drafts"
            )
        self._block, self._attention = block, block.self_attn
        empty = block.input_layernorm.weight.new_empty
        kv_heads: Any = self._attention.config.num_key_value_heads  # typed as possibly absent
        self._keys, self._values = (Grown(empty(1, kv_heads, 0, self._attention.head_dim)) for _ in "kv")

    def crop(self, positions: int) -> None:
        """Forgets what comes after so many positions."""
        self._keys.crop(positions)
        self._values.crop(positions)

    def __call__(self, states: Tensor, cosines: Tensor, sines: Tensor, mask: Tensor | None) -> Tensor:
        """States [n, D] of the next n positions after the block.

        cosines and sines: of these positions, see `turns`; mask: added to scores, [n, positions in all], None
        for one position and for the first ones.
        """
        block = self._block
        states = states + self._attend(block.input_layernorm(states), cosines, sines, mask)
        out: Tensor = states + block.mlp(block.post_attention_layernorm(states))
        return out

    def _attend(self, states: Tensor, cosines: Tensor, sines: Tensor, mask: Tensor | None) -> Tensor:
        attention = self._attention
        num, size = len(states), attention.head_dim
        queries, keys = attention.q_proj(states), attention.k_proj(states)  # [n, H d]
        both = torch.cat([queries, keys], dim=-1).view(num, -1, size)
        turned = torch.addcmul(both * cosines, both.roll(size // 2, -1), sines)  # [n, H, d]
        turned = turned.transpose(0, 1)[None]  # [1, H, n, d]
        heads = queries.shape[-1] // size
        self._keys.append(turned[:, heads:])
        self._values.append(attention.v_proj(states).view(1, num, -1, size).transpose(1, 2))
        out = functional.scaled_dot_product_attention(
            turned[:, :heads],
            self._keys.rows,
            self._values.rows,
            attn_mask=mask,
            is_causal=mask is None and num > 1,
            scale=attention.scaling,
            enable_gqa=attention.num_key_value_groups > 1,
        )
        found: Tensor = attention.o_proj(out.transpose(1, 2).reshape(num, -1))
        return found


def turns(rotary: Any, states: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [n, 1, d] that turn queries and keys at positions from `start` on.

    states: [1, n, D], for its length, type and device. The sines of the first half are negative: they go with
    the half that comes after it.
    """
    places = torch.arange(start, start + states.shape[1], device=states.device)
    cosines, sines = (table[0].clone() for table in rotary(states, places[None]))  # [n, d]
    sines[:, : sines.shape[-1] // 2].neg_()
    return cosines[:, None], sines[:, None]
