"""A language model as it is run here: embedding, decoder blocks, rotary tables, and the exits that speak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tofc.errors import UserError
from tofc.language import FULL as FULL

_TABLE = 256  # positions at least for which cosines and sines are computed at a time


@dataclass(frozen=True, eq=False)
class Exit:
    """Where tokens come out: after `depth` blocks of the model and some of its own, by a norm and a head."""

    name: str
    depth: int
    blocks: Sequence[nn.Module]
    norm: nn.Module
    head: nn.Module

    def logits(self, states: Tensor) -> Tensor:
        """Logits [..., V] of the next token from states [..., D]."""
        found: Tensor = self.head(self.norm(states))
        return found


class LanguageModel:
    """The language side of a stock model (LLaVA-OneVision, or a causal language model); nothing is copied.

    UserError for a model whose decoder blocks are not where these have them.
    """

    def __init__(self, model: Any) -> None:
        self.model, text = model, text_model(model)
        self.embedding: nn.Module = model.get_input_embeddings()
        self.blocks: list[nn.Module] = list(text.layers)
        self.full = Exit(FULL, len(self.blocks), (), text.norm, model.lm_head)
        self._rotary = text.rotary_emb
        self._tables: tuple[Tensor, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._weight.device

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = self.full.norm.weight  # type: ignore[assignment]  # a parameter
        return weight

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [..., D] of token ids."""
        found: Tensor = self.embedding(tokens)
        return found

    def rotary(self, num: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [at least num, 1, d] that turn queries and keys at positions 0, 1, ...

        The sines of the first half are negative: they go with the half that comes after it.
        """
        if self._tables is None or len(self._tables[0]) < num:
            places = torch.arange(max(2 * num, _TABLE), device=self.device)
            like = torch.empty(0, dtype=self._weight.dtype, device=self.device)
            cosines, sines = (table[0].clone() for table in self._rotary(like, places[None]))  # [P, d]
            sines[:, : sines.shape[-1] // 2].neg_()
            self._tables = cosines[:, None], sines[:, None]
        return self._tables


def text_model(model: Any) -> Any:
    """The stack of decoder blocks inside a LLaVA-OneVision model or a causal language model."""
    inner = getattr(model, "model", None)
    text = getattr(inner, "language_model", inner)
    if not hasattr(text, "layers") or not hasattr(text, "norm"):
        raise UserError(
            f"{type(model).__name__} has no family: it needs decoder blocks under model.layers or "
            "model.language_model.layers, as LLaVA-OneVision and Qwen2 have them"
        )
    return text
