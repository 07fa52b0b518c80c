"""The payload: a head, then one range-coded stream of the tokens, one after the other.

Because every token's symbols stand together, the first bytes of a stream hold its first tokens: `cut` makes a
payload of them. docs/bitstream.md specifies the format; `reference` reads it without speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from entropy.errors import StreamError
from entropy.integer import IntegerNetwork
from entropy.order import decode_places, encode_places, left_neighbours, stream_order
from entropy.reference import SymbolsOfToken, write_stream
from entropy.tables import NUM_SCALES, RansTables


def encode_varint(value: int) -> bytes:
    """Non-negative integer as bytes of 7 bits, lowest first, the top bit set on all but the last."""
    parts = bytearray()
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def decode_varint(data: bytes) -> tuple[int, int]:
    """Value and length of a varint of at most 5 bytes in its shortest form; StreamError for anything else."""
    value = 0
    for position, byte in enumerate(data[:5]):
        value |= (byte & 127) << (7 * position)
        if byte < 128:
            if byte == 0 and position > 0:
                raise StreamError("the stream's counts are not in their shortest form: it is damaged")
            return value, position + 1
    raise StreamError("the stream ends before its counts do, or they are damaged")


MAX_TOKENS = 65535
MAX_LEVELS = 8
HYPER_LIMIT = 127  # hyperprior values are 8-bit inputs of the synthesis network

_CHUNK = 256  # tokens for which memory is taken at once: what is declared may not be there


@dataclass(frozen=True)
class Head:
    """What a payload begins with: all that is known of its tokens before the stream is read.

    num_tokens: 0 to 65535. level: the quality less one, 0 to 7. is_cut: whether more tokens were cut off.
    leading: places, in raster order, of tokens that come first in the stream; see `order`.
    """

    num_tokens: int
    level: int
    is_cut: bool = False
    leading: tuple[int, ...] = ()

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Place in raster order of each token of the stream, int64 [num_tokens]."""
        return stream_order(self.num_tokens, self.leading)

    def __bytes__(self) -> bytes:
        more = 2 * len(self.leading) + self.is_cut
        counts = encode_varint((self.num_tokens * MAX_LEVELS + self.level) * 2 + (more > 0))
        return counts + (encode_varint(more) + encode_places(self.leading) if more else b"")

    @classmethod
    def split(cls, payload: bytes) -> tuple[Head, bytes]:
        """Head and stream of a payload; StreamError where the head is damaged."""
        value, position = decode_varint(payload)
        num_tokens, level, more = value // (2 * MAX_LEVELS), value // 2 % MAX_LEVELS, 0
        if num_tokens > MAX_TOKENS:
            raise StreamError(
                f"the stream declares {num_tokens} tokens, more than {MAX_TOKENS}: it is damaged"
            )
        if value % 2:
            more, length = decode_varint(payload[position:])
            position += length
            if more == 0 or more // 2 >= num_tokens:
                raise StreamError(f"{more // 2} leading tokens of {num_tokens} are impossible: it is damaged")
        leading, length = decode_places(payload[position:], more // 2, num_tokens)
        position += length
        if num_tokens == 0 and len(payload) > position:
            raise StreamError("more than its counts in a stream of no tokens: it is damaged")
        return cls(num_tokens, level, more % 2 == 1, leading), payload[position:]


def cut(payload: bytes, num_tokens: int, end: int) -> bytes:
    """The payload of the first `num_tokens` tokens of another one, whose stream has `end` bytes of them."""
    head, stream = Head.split(payload)
    if not (1 <= num_tokens < head.num_tokens and end < len(stream)):
        raise ValueError(f"cannot cut {head.num_tokens} tokens, {len(stream)} bytes to {num_tokens}, {end}")
    leading = np.zeros(0, dtype=np.int64)
    if num_tokens > len(head.leading):  # else all that are kept are leading ones, in their usual order
        kept = np.sort(head.order[:num_tokens])
        leading = np.searchsorted(kept, head.leading)
    return bytes(Head(num_tokens, head.level, True, tuple(leading.tolist()))) + stream[:end]


@dataclass(frozen=True)
class Symbols:
    """All that a stream codes, in the order of the stream: experts int32 [K], hyper int32 [K, D], residual
    int32 [K, C]; and the residuals' tables, which follow from the others: scale_index uint16 [K, C]."""

    experts: NDArray[np.int32]
    hyper: NDArray[np.int32]
    residual: NDArray[np.int32]
    scale_index: NDArray[np.uint16]


@dataclass(frozen=True)
class ScaleNetworks:
    """The networks from hyperprior to scale indices, one for each expert, as the arrays the kernel reads.

    weights: int16, all matrices one after another, each [in, out]; bias: float64 [levels, rows], multiplier,
    step (2**-shift): float64 [rows]; shapes: int64 [layers, 4], in, out, where its matrix begins, where its
    rows begin; bounds: float64 [layers, 3] as in `IntegerLayer`; chain: int64 [E + 1], first layer of each
    expert.
    """

    weights: NDArray[np.int16]
    bias: NDArray[np.float64]
    multiplier: NDArray[np.float64]
    step: NDArray[np.float64]
    shapes: NDArray[np.int64]
    bounds: NDArray[np.float64]
    chain: NDArray[np.int64]

    @classmethod
    def pack(cls, networks: Sequence[IntegerNetwork], in_width: int, out_width: int) -> ScaleNetworks:
        """The networks [in_width] -> [out_width] as arrays.

        Raises ValueError where layers do not fit each other, or give what is no scale index: the kernel
        would read beyond its arrays.
        """
        layers = [layer for network in networks for layer in network.layers]
        for network in networks:
            network.check(in_width, out_width, len(layers[0].bias), "scale networks")
            _, low, high = network.layers[-1].bounds
            if low < 0 or high >= NUM_SCALES:
                raise ValueError(f"scale networks must give indices of the {NUM_SCALES} scales")
        sizes = np.array([layer.weight.shape[::-1] for layer in layers], dtype=np.int64)
        matrices, rows = np.cumsum(sizes.prod(axis=1)), np.cumsum(sizes[:, 1])
        return cls(
            weights=np.concatenate([layer.weight.T.ravel() for layer in layers]).astype(np.int16),
            bias=np.concatenate([layer.bias for layer in layers], axis=1).astype(np.float64),
            multiplier=np.concatenate([layer.multiplier for layer in layers]).astype(np.float64),
            step=np.ldexp(1.0, -np.concatenate([layer.shift for layer in layers]).astype(np.int64)),
            shapes=np.column_stack([sizes, matrices - sizes.prod(axis=1), rows - sizes[:, 1]]),
            bounds=np.array([layer.bounds for layer in layers], dtype=np.float64),
            chain=np.cumsum([0, *(len(network.layers) for network in networks)]),
        )


@dataclass(frozen=True)
class TokenStream:
    """Codes the symbols of tokens; one for each codec. `levels` quality levels, see `FeatureCodec` for the
    order of the tables."""

    tables: RansTables
    networks: ScaleNetworks
    levels: int
    num_experts: int
    num_hyper: int
    width: int

    def table_indices(self, symbols: Symbols, head: Head) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Tables of the router choices [K] and of the hyperprior [K, D]."""
        experts, level = symbols.experts.astype(np.int64), head.level
        left = left_neighbours(head.order)
        before = np.where(left < 0, self.num_experts, experts[left])
        hyper = self._hyper_table(level) + experts[:, None] * self.num_hyper + np.arange(self.num_hyper)
        return (self._router_table(level) + before).astype(np.uint16), hyper.astype(np.uint16)

    def encode(self, symbols: Symbols, head: Head, kernels: bool) -> tuple[bytes, NDArray[np.int64]]:
        """The stream of all tokens, and for each how many of its bytes go up to its end: int64 [K].

        kernels: whether the compiled coder writes it, or the specification.
        """
        router, hyper = self.table_indices(symbols, head)
        rows = np.concatenate([symbols.experts[:, None], symbols.hyper, symbols.residual], axis=1)
        indices = np.concatenate([router[:, None], hyper, symbols.scale_index], axis=1)
        if not kernels:
            return write_stream(rows, indices, self.tables)
        from entropy import rans  # here, because numba takes half a second to import

        return rans.encode_rows(rows, indices, self.tables)

    def decode(self, stream: bytes, head: Head) -> tuple[Symbols, NDArray[np.int64]]:
        """What `encode` was given and what it gave beside the stream; `head.num_tokens` is at least 1.

        Takes memory as tokens come, so that few bytes that declare many tokens cost nothing. Raises
        StreamError for anything but a whole stream, or a whole prefix where `head.is_cut`.
        """
        from entropy import kernels, rans

        tables, networks, level, num_tokens = self.tables, self.networks, head.level, head.num_tokens
        decoder = rans.Decoder(stream, tables, head.is_cut)
        left, experts = left_neighbours(head.order), np.zeros(num_tokens, dtype=np.int32)
        parts = []
        for first in range(0, num_tokens, _CHUNK):
            size = min(_CHUNK, num_tokens - first)
            hyper = np.empty((size, self.num_hyper), dtype=np.int32)
            residual = np.empty((size, self.width), dtype=np.int32)
            scale_index = np.empty((size, self.width), dtype=np.uint16)
            ends = np.empty(size, dtype=np.int64)
            decoder.run(
                kernels.decode_tokens, tables.entries, tables.buckets, tables.layout,
                self._router_table(level), self._hyper_table(level), HYPER_LIMIT,
                networks.weights, networks.bias[level], networks.multiplier, networks.step, networks.bounds,
                networks.shapes, networks.chain, left, experts, first, hyper, residual, scale_index, ends,
            )  # fmt: skip
            parts.append((hyper, residual, scale_index, ends))
        decoder.finish()
        hypers, residuals, indices, all_ends = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Symbols(experts, hypers, residuals, indices), all_ends

    def _router_table(self, level: int) -> int:
        return NUM_SCALES + level * (self.num_experts + 1)

    def _hyper_table(self, level: int) -> int:
        return NUM_SCALES + self.levels * (self.num_experts + 1) + level * self.num_experts * self.num_hyper


def as_symbols(tokens: Sequence[SymbolsOfToken], head: Head) -> tuple[Symbols, Head, NDArray[np.int64]]:
    """The tokens of a payload as the specification read them, its head, and where they end."""
    hyper, residual = (
        np.array([getattr(token, name) for token in tokens], dtype=np.int32).reshape(len(tokens), -1)
        for name in ("hyper", "residual")
    )
    experts = np.array([token.expert for token in tokens], dtype=np.int32)
    scales = np.array([token.scales for token in tokens], dtype=np.uint16)
    ends = np.array([token.end for token in tokens], dtype=np.int64)
    return Symbols(experts, hyper, residual, scales), head, ends
