"""Hierarchical principal component decomposition: a language model as a sum of low-rank components.

Every linear layer of every block becomes K components of one rank. The first is the whitened decomposition of
the weight; each further one that of what the components before it leave over, once these are trained and
frozen. The first k of them are a model: leading ranks, so that the whole is a `Branch` behind block 0 whose
members are its shares k / K. Source: AI Flow (arXiv 2506.12479), section III-B1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tofc.errors import UserError
from tofc.familial.branches import Branch, LowRankLinear, decomposed_block, member_model
from tofc.familial.decomposition import Covariance, Whitening, decompose, linears, rank_for_ratio
from tofc.language.model import text_model

BETAS = (0.9, 0.95)

Covariances = Mapping[int, Mapping[str, Covariance]]


class Components:
    """The components of a language model while they are fitted; `branch` is what comes of them.

    `covariances` are those of every block's inputs (`watch_inputs` over all of them); `ratio` is the size of
    all `count` components together over that of the layers that they replace.
    """

    def __init__(
        self, model: Any, covariances: Covariances, count: int, ratio: float = 1.0, name: str = "h"
    ) -> None:
        self.model, self.count = model, count
        text = text_model(model)
        blocks, self._layers = [], []
        for number, block in enumerate(text.layers):
            whitening = {n: Whitening.of(covariances[number][n]) for n in linears(block)}
            ranks = {n: count * _component_rank(layer, count, ratio) for n, layer in linears(block).items()}
            spectra = {n: decompose(layer.weight, whitening[n]) for n, layer in linears(block).items()}
            new = decomposed_block(block, spectra, ranks)
            blocks.append(new)
            for n, layer in linears(block).items():
                low_rank: Any = new.get_submodule(n)
                self._layers.append((layer.weight.detach(), whitening[n], low_rank))
        shares = [number / count for number in range(1, count + 1)]
        self.branch = Branch(name, 0, blocks, shares).requires_grad_(False)
        for _, _, low_rank in self._layers:
            # Later components come from what is left over then; until they are begun they are nothing.
            low_rank.down.data[low_rank.rank // count :] = 0
            low_rank.up.data[low_rank.rank // count :] = 0

    def member(self, number: int) -> Any:
        """The first `number` components as a stock model that generates."""
        return member_model(self.model, self.branch, self._share(number))

    @torch.no_grad()
    def begin(self, number: int) -> None:
        """Starts component `number` (from 1) as the whitened decomposition of what is left over."""
        self._share(number)
        for weight, whitening, layer in self._layers:
            rows = self._rows(layer, number)
            before = layer.up[: rows.start].double().T @ layer.down[: rows.start].double()  # [m, n]
            left_over = decompose(weight.double().cpu() - before.cpu(), whitening)
            up, down = left_over.factors(rows.stop - rows.start)
            layer.up[rows], layer.down[rows] = up.to(layer.up), down.to(layer.down)

    def parameters(self) -> list[nn.Parameter]:
        """What is learned of all components: two matrices a layer."""
        return [p for _, _, layer in self._layers for p in (layer.down, layer.up)]

    def rows_of(self, number: int) -> list[tuple[nn.Parameter, slice]]:
        """Each of `parameters` with the rows that belong to a component."""
        return [
            (p, self._rows(layer, number)) for _, _, layer in self._layers for p in (layer.down, layer.up)
        ]

    def _share(self, number: int) -> float:
        if not 1 <= number <= self.count:
            raise UserError(f"there is no component {number}; there are 1 to {self.count}")
        return number / self.count

    def _rows(self, layer: LowRankLinear, number: int) -> slice:
        """The ranks that belong to a component."""
        size = layer.rank // self.count
        return slice((number - 1) * size, number * size)


def _component_rank(layer: nn.Linear, count: int, ratio: float) -> int:
    whole = rank_for_ratio(layer.out_features, layer.in_features, ratio)
    if whole < count:
        raise UserError(f"{count} components are too many: a layer has room for rank {whole} in all")
    return whole // count
