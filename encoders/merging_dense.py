"""Distance search by exact products in float64: all distances of a block of tokens at once, on any device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

# A block of distance rows stays under this many entries (float64: 256 MiB), however many tokens there are.
_MAX_BLOCK_ENTRIES = 1 << 25


class DenseSearch:
    """Nearest tokens by exact distances between integer points.

    features: tensor [B, N, C]; middle: float64 [B, C] and step: float64 [B], which take features to integer
    points whose squared distances are below 2^53, so that sums are exact in any order; mask: bool [B, N],
    False for tokens to leave out. All but the features are arrays, and so is what the methods take and give.
    """

    def __init__(self, features: torch.Tensor, middle: Array, step: Array, mask: Array) -> None:
        self._device = features.device
        on_grid = self._here(middle)[:, None], self._here(step)[:, None, None]
        valid = self._here(mask)
        points = features.to(torch.float64, copy=True).sub_(on_grid[0]).div_(on_grid[1])
        points.round_().masked_fill_(~valid[..., None], 0.0)
        norms = points.square().sum(2, keepdim=True)  # [B, N, 1]
        ones = torch.ones_like(norms)
        # Two matrices [B, N, C + 2] whose product, left @ right^T, is all squared distances at once, exactly.
        self._left = torch.cat([points, norms, ones], 2)
        self._right = torch.cat([points * -2.0, ones, norms], 2)
        self._mask = valid

    def _here(self, values: Array) -> torch.Tensor:
        return torch.as_tensor(values, device=self._device)

    def neighbours(self, k: int) -> tuple[Array, Array]:
        """The k smallest squared distances of each token, itself included, and to which tokens: [B, N, k]
        each.

        Where there are fewer valid tokens than k, infinite distances fill up.
        """
        batch, num_tokens, _ = self._left.shape
        all_valid = bool(self._mask.all())
        values, indices = [], []
        for rows in _row_blocks(batch, num_tokens, num_tokens):
            distances = torch.bmm(self._left[:, rows], self._right.transpose(1, 2))  # [B, R, N]
            if not all_valid:
                distances.masked_fill_(~self._mask[:, None], math.inf)
            nearest = distances.topk(k, dim=2, largest=False, sorted=False)
            values.append(nearest.values)
            indices.append(nearest.indices)
        return torch.cat(values, 1).cpu().numpy(), torch.cat(indices, 1).cpu().numpy()

    def to_denser(self, rank: Array, wanted: Array) -> Array:
        """Squared distances, one after another, of the wanted tokens (bool [B, N]) to the nearest token of
        lower rank; of the token of rank 0 to the farthest token."""
        num_tokens = rank.shape[1]
        found = [self._left.new_empty(0)]
        for left, right, ranks, mask, chosen in zip(
            self._left, self._right, self._here(rank), self._mask, self._here(wanted), strict=True
        ):
            tokens = chosen.nonzero()[:, 0]
            for rows in _row_blocks(1, len(tokens), num_tokens):
                row = tokens[rows]
                distances = left[row] @ right.T  # [R, N]
                denser = ranks < ranks[row, None]  # masked tokens rank last: never denser
                nearest_denser = distances.masked_fill(~denser, math.inf).amin(1)
                farthest = distances.masked_fill_(~mask, 0.0).amax(1)
                found.append(torch.where(ranks[row] == 0, farthest, nearest_denser))
        return torch.cat(found).cpu().numpy()

    def nearest_center(self, centers: Array, among: Array | None = None) -> Array:
        """The place in centers [B, K] of the nearest centre, the first of equally near ones: [B, N].

        among: int64 [N, M], the places that count for each token, ascending and -1 for none; all if left out.
        """
        chosen = self._here(centers)
        token = chosen.clamp(min=0)
        to_centers = self._right.gather(1, token[..., None].expand(-1, -1, self._right.shape[2]))
        distances = torch.bmm(self._left, to_centers.transpose(1, 2))  # [B, N, K]
        if among is not None:
            counts = torch.zeros(among.shape[0], centers.shape[1] + 1, dtype=torch.bool, device=self._device)
            last = centers.shape[1]  # the column of -1
            places = torch.tensor(np.where(among < 0, last, among), device=self._device)
            counts.scatter_(1, places, True)
            distances.masked_fill_(~counts[:, :-1], math.inf)
        return distances.masked_fill_((chosen < 0)[:, None], math.inf).argmin(2).cpu().numpy()


def _row_blocks(batch: int, num_rows: int, num_columns: int) -> list[slice]:
    size = max(1, _MAX_BLOCK_ENTRIES // (batch * num_columns))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
