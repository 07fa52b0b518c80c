"""Distance search by exact products in float64: all distances of a block of tokens at once, on any device."""

from __future__ import annotations

import math

import torch

# A block of distance rows stays under this many entries (float64: 256 MiB), however many tokens there are.
_MAX_BLOCK_ENTRIES = 1 << 25


class DenseSearch:
    """Nearest tokens by exact distances between integer points.

    features: [B, N, C]; middle: float64 [B, C] and step: float64 [B], which take features to integer points
    whose squared distances are below 2^53, so that sums are exact in any order; mask: bool [B, N], False for
    tokens to leave out.
    """

    def __init__(
        self, features: torch.Tensor, middle: torch.Tensor, step: torch.Tensor, mask: torch.Tensor
    ) -> None:
        points = features.to(torch.float64, copy=True).sub_(middle[:, None]).div_(step[:, None, None])
        points.round_().masked_fill_(~mask[..., None], 0.0)
        norms = points.square().sum(2, keepdim=True)  # [B, N, 1]
        ones = torch.ones_like(norms)
        # Two matrices [B, N, C + 2] whose product, left @ right^T, is all squared distances at once, exactly.
        self._left = torch.cat([points, norms, ones], 2)
        self._right = torch.cat([points * -2.0, ones, norms], 2)
        self._mask = mask

    def neighbours(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
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
        return torch.cat(values, 1), torch.cat(indices, 1)

    def to_denser(self, rank: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Squared distances, one after another, of the wanted tokens (bool [B, N]) to the nearest token of
        lower rank; of the token of rank 0 to the farthest token."""
        num_tokens = rank.shape[1]
        found = [self._left.new_empty(0)]
        for left, right, ranks, mask, chosen in zip(
            self._left, self._right, rank, self._mask, wanted, strict=True
        ):
            tokens = chosen.nonzero()[:, 0]
            for rows in _row_blocks(1, len(tokens), num_tokens):
                row = tokens[rows]
                distances = left[row] @ right.T  # [R, N]
                denser = ranks < ranks[row, None]  # masked tokens rank last: never denser
                nearest_denser = distances.masked_fill(~denser, math.inf).amin(1)
                farthest = distances.masked_fill_(~mask, 0.0).amax(1)
                found.append(torch.where(ranks[row] == 0, farthest, nearest_denser))
        return torch.cat(found)

    def nearest_center(self, centers: torch.Tensor) -> torch.Tensor:
        """The place in centers [B, K] of the nearest centre, the first of equally near ones: [B, N]."""
        token = centers.clamp(min=0)
        to_centers = self._right.gather(1, token[..., None].expand(-1, -1, self._right.shape[2]))
        distances = torch.bmm(self._left, to_centers.transpose(1, 2))  # [B, N, K]
        return distances.masked_fill_((centers < 0)[:, None], math.inf).argmin(2)


def _row_blocks(batch: int, num_rows: int, num_columns: int) -> list[slice]:
    size = max(1, _MAX_BLOCK_ENTRIES // (batch * num_columns))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
