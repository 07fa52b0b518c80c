"""Distance search on a CPU: a product of bytes says which pairs matter, integers decide among them.

A matrix product of tokens rounded to bytes bounds every squared distance from below. A pair whose bound is
already too large is done with; the others, a few for each token, are computed exactly from the integers. So
the answers are those of `merging_dense`, to the bit, however the product is computed: it decides only how
many pairs are computed twice.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from llvmlite import binding  # type: ignore[import-untyped]  # has no stubs

from encoders import merging_kernels as kernels

_MAX_BLOCK_ENTRIES = 1 << 22  # a block of products, 16 MiB, however many tokens there are
_MAX_KEPT_ENTRIES = 1 << 24  # products of all images, 64 MiB, are kept where they fit
_SYMMETRIC_ROWS = 192  # of the products of all tokens with all, half are computed, this many rows at once
_MAX_WIDTH = 1 << 15  # a wider sum of products of bytes might not fit into 32 bits


class Tokens(NamedTuple):
    """The tokens of one image, and what bounds their distances.

    points: int32 [N, C]. For the bounds they are moved by their mean, which leaves distances as they are and
    makes lengths short: rounded, int8 [N, C], is what they are then divided by scales, float64 [N]. lengths,
    float64 [N], are theirs; norms, float64 [N], the squares, infinite for tokens to leave out; errors,
    float64 [N], upper bounds of the lengths of what rounding takes away.
    """

    scales: torch.Tensor
    norms: torch.Tensor
    lengths: torch.Tensor
    errors: torch.Tensor
    points: torch.Tensor
    rounded: torch.Tensor

    def select(self, index: torch.Tensor | slice) -> Tokens:
        """Some of the tokens, [R] or a slice of rows."""
        return Tokens(*(part[index] for part in self))

    def arrays(self) -> tuple[Any, ...]:
        """All but the bytes as numpy arrays, for `merging_kernels.nearest`."""
        return tuple(part.numpy() for part in self[:5])


class ScreenedSearch:
    """Nearest tokens by exact distances between integer points.

    features: [B, N, C] on the CPU; middle: float64 [B, C] and step: float64 [B], which take features to
    integer points of absolute value up to 2^26, whose squared distances are below 2^53; mask: bool [B, N],
    False for tokens to leave out.
    """

    def __init__(
        self, features: torch.Tensor, middle: torch.Tensor, step: torch.Tensor, mask: torch.Tensor
    ) -> None:
        features = (features if features.dtype == torch.float64 else features.float()).contiguous()
        self._images = [_tokens(*image) for image in zip(features, middle, step, mask, strict=True)]
        batch, num_tokens, _ = features.shape
        kept = batch * num_tokens**2 <= _MAX_KEPT_ENTRIES and num_tokens**2 <= _MAX_BLOCK_ENTRIES
        self._products = _products([t.rounded for t in self._images]) if kept else [None] * batch

    def neighbours(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k smallest squared distances of each token, itself included, and to which tokens: [B, N, k]
        each.

        Where there are fewer valid tokens than k, infinite distances fill up.
        """
        images = zip(self._images, self._products, strict=True)
        found = [_nearest(tokens, tokens, k, products) for tokens, products in images]
        return torch.stack([f[0] for f in found]), torch.stack([f[1] for f in found])

    def to_denser(self, rank: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Squared distances, one after another, of the wanted tokens (bool [B, N]) to the nearest token of
        lower rank; of the token of rank 0 to the farthest token."""
        found = []
        for tokens, products, ranks, chosen in zip(
            self._images, self._products, rank.to(torch.int32), wanted, strict=True
        ):
            index = chosen.nonzero()[:, 0]
            products = None if products is None else products[index]
            own = ranks[index]
            distance = _nearest(tokens.select(index), tokens, 1, products, (own, ranks))[0][:, 0]
            for first in (own == 0).nonzero()[:, 0].tolist():
                densest = int(index[first])
                distance[first] = kernels.farthest(tokens.points.numpy(), tokens.norms.numpy(), densest)
            found.append(distance)
        return torch.cat(found)

    def nearest_center(self, centers: torch.Tensor) -> torch.Tensor:
        """The place in centers [B, K] of the nearest centre, the first of equally near ones: [B, N]."""
        found = []
        for tokens, products, center in zip(self._images, self._products, centers, strict=True):
            center = center[center >= 0]
            products = None if products is None else products[center].T.contiguous()
            found.append(_nearest(tokens, tokens.select(center), 1, products)[1][:, 0])
        return torch.stack(found)


def _tokens(features: torch.Tensor, middle: torch.Tensor, step: torch.Tensor, mask: torch.Tensor) -> Tokens:
    points = torch.empty(features.shape, dtype=torch.int32)
    sums = torch.zeros(features.shape[1], dtype=torch.int64)
    kernels.to_grid(
        features.numpy(), middle.numpy(), 1.0 / step.item(), mask.numpy(), points.numpy(), sums.numpy()
    )
    offset = (sums // len(points)).int()
    rounded = torch.empty(features.shape, dtype=torch.int8)
    scales, norms, lengths, errors = torch.empty(4, len(points), dtype=torch.float64)
    tokens = Tokens(scales, norms, lengths, errors, points, rounded)
    kernels.to_bytes(offset.numpy(), rounded.numpy(), *tokens.arrays())
    norms.masked_fill_(~mask, torch.inf)
    return tokens


def _nearest(
    queries: Tokens,
    tokens: Tokens,
    k: int,
    products: torch.Tensor | None,
    both_ranks: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances float64 [Q, k] of each query to its k nearest tokens, and their places [Q, k].

    Equal distances in order of place; infinite distances where there are fewer than k. products: of their
    bytes, [Q, N], where they are at hand. both_ranks: int32 [Q] and [N]; where given, only tokens of lower
    rank than the query count.
    """
    num_queries, num_tokens = len(queries.norms), len(tokens.norms)
    distances = torch.full((num_queries, k), torch.inf, dtype=torch.float64)
    places = torch.zeros(num_queries, k, dtype=torch.int64)
    if num_tokens == 0:
        return distances, places
    if both_ranks is None:
        both_ranks = torch.ones(num_queries, dtype=torch.int32), torch.zeros(num_tokens, dtype=torch.int32)
    own_ranks, ranks = both_ranks
    size = max(1, _MAX_BLOCK_ENTRIES // num_tokens if products is None else num_queries)
    for start in range(0, num_queries, size):
        rows = slice(start, start + size)
        block = _product(queries.rounded[rows], tokens.rounded) if products is None else products
        kernels.nearest(
            queries.select(rows).arrays(), own_ranks[rows].numpy(), tokens.arrays(), ranks.numpy(),
            block.numpy(), distances[rows].numpy(), places[rows].numpy(),
        )  # fmt: skip
    return distances, places


@cache
def _multiplies_bytes() -> bool:
    """Whether products of bytes are fast and right here.

    Without these instructions they are slower than float32, and oneDNN lets them saturate at 16 bits. Its
    environment variables can forbid the instructions, so what comes out is looked at as well.
    """
    features = binding.get_host_cpu_features()
    if not any(features.get(name) for name in ("avx512vnni", "avxvnni", "amx-int8")):
        return False
    most = torch.full((32, 64), 127, dtype=torch.int8)
    most[::2] *= -1
    return torch.equal(torch._int_mm(most, most.T).double(), most.double() @ most.double().T)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ right^T of bytes: int32 [R, N], or float32 with what sums lose in it."""
    if _multiplies_bytes() and left.shape[1] <= _MAX_WIDTH:
        return torch._int_mm(left, right.T)
    return left.float() @ right.float().T


def _products(rounded: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """The products [N, N] of all tokens of each image with all."""
    if len(rounded) == 1 or len(rounded[0]) > 2 * _SYMMETRIC_ROWS:
        return [_symmetric_product(image) for image in rounded]
    # Many small products are worth less than the threads' waiting for each other after each of them.
    together = torch.stack(rounded).float()
    return list(torch.bmm(together, together.mT))


def _symmetric_product(rounded: torch.Tensor) -> torch.Tensor:
    """rounded @ rounded^T, [N, N], for little more than half its cost."""
    num_tokens = len(rounded)
    if num_tokens <= 2 * _SYMMETRIC_ROWS:
        return _product(rounded, rounded)
    dtype = _product(rounded[:1], rounded[:1]).dtype
    products = torch.empty(num_tokens, num_tokens, dtype=dtype)
    entries = products.numpy()  # numpy turns over blocks twice as fast
    for start in range(0, num_tokens, _SYMMETRIC_ROWS):
        stop = min(start + _SYMMETRIC_ROWS, num_tokens)
        products[start:stop, start:] = _product(rounded[start:stop], rounded[start:])
        entries[stop:, start:stop] = entries[start:stop, stop:].T
    return products
