"""What tells weights and vocabularies apart, so that two machines know whether they have the same ones.

Weights are read once for each model that is in memory, and the tags kept as long as it is there.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from tofc.edge import Edge
from tofc.familial.low_rank import LowRankLinear
from tofc.language.model import text_model

_known: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


def vocabulary_tag(edge: Edge) -> str:
    """Tells the vocabulary of an edge's tokenizer from others."""

    def tag() -> str:
        listed = sorted(edge.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    return _once(edge, "vocabulary", tag)


def drafter_tag(edge: Edge, exit: str) -> str:
    """Tells a member's weights, as they are computed with, from others; UserError where it is not here."""
    found, shared = edge.family.exit(exit), edge.family.language.blocks
    layers = nn.ModuleList([*shared[: found.depth], *found.blocks])
    return _once(edge, f"member {exit}", lambda: _checksum([layers, found.norm]))


def shared_tag(edge: Edge, depth: int) -> str:
    """Tells what leads up to the states after the first `depth` blocks: weights, and their type."""
    main = edge.family.main
    text = text_model(main)
    parts = [*text.layers[:depth], main.get_input_embeddings(), main.model.multi_modal_projector]
    kind = f"{sys.byteorder} {main.dtype} "
    return _once(edge, f"first {depth}", lambda: kind + _checksum(parts))


def _checksum(parts: Iterable[nn.Module]) -> str:
    found = 0
    for part in parts:
        for name, tensor in part.state_dict().items():
            owner, _, own_name = name.rpartition(".")
            layer = part.get_submodule(owner)
            if isinstance(layer, LowRankLinear) and own_name in ("down", "up"):
                tensor = tensor[: layer.rank]  # however many ranks were read
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            found = zlib.crc32(raw.numpy(), zlib.crc32(name.encode(), found))
    return f"{found:08x}"


def _once(edge: Edge, what: str, tag: Callable[[], str]) -> str:
    known = _known.setdefault(edge, {})
    if what not in known:
        known[what] = tag()
    return known[what]
