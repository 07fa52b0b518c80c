"""Floating-point operations of a call, counted from the shapes that its operators multiply."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Operations:
    """Multiplications and additions, one each: of all matrix products, and of attention's two alone.

    Attention counts whole squares, whether or not a mask leaves half of one out.
    """

    total: float
    attention: float


def count_operations(call: Callable[[], object]) -> Operations:
    """Runs `call` and counts what it multiplies, in backward passes too; its tensors need no values."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        call()
    by_operator = counter.get_flop_counts().get("Global", {})
    # Without values, attention runs as two batched products; nothing else in these models is one.
    attention = [n for op, n in by_operator.items() if "bmm" in str(op) or "scaled_dot_product" in str(op)]
    return Operations(float(sum(by_operator.values())), float(sum(attention)))


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Scores [B, H, Q, K] from width d, and from them values of width v."""
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


def _attention_backward(
    gradient: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Scores again; gradients of the weights and of the values; gradients of the query and of the key."""
    return 2 * math.prod(query[:3]) * key[2] * (3 * query[3] + 2 * value[3])


# torch's own counter knows the CPU's attention in some releases and counts nothing for it in others.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
