"""Merged features to bytes and back, with an exported codec: no training framework, no randomness, no float
decisions.

Encoding runs left to right: transform (a KLT) -> gain of the quality level -> router -> analysis ->
hyperprior -> integer synthesis (scale indices and means) -> residual symbols -> one range-coded stream, token
by token in an order of which every prefix is an even sample. Whatever decides a symbol or its table is
integer arithmetic or one correctly rounded float64 operation, so every machine makes the same bytes and reads
the same features.
Source: AI Flow (arXiv 2506.12479), section II-B1. The payload is specified in docs/bitstream.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entropy.errors import StreamError
from entropy.integer import IntegerNetwork
from entropy.parameters import CodecParameters
from entropy.reference import read_payload
from entropy.stream import MAX_TOKENS, Head, ScaleNetworks, Symbols, TokenStream, as_symbols

INPUT_STEPS = 256  # integer networks see compressed coefficients in steps of 1/256 ...
INPUT_LIMIT = 32767  # ... up to 128
INTERPRETED_SYMBOLS = 1 << 18  # that a process codes before numba is loaded, in a microsecond each
MEAN_STEPS = 256  # means are multiples of 1/256 of a quantisation step


def compress_range(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tame heavy tails before a network: 2 sign(x) (sqrt(1 + |x|) - 1), slope one at zero."""
    return np.copysign(2.0 * (np.sqrt(1.0 + np.abs(coefficients)) - 1.0), coefficients)


@dataclass(frozen=True, eq=False)
class FeatureCodec(CodecParameters):
    """A trained codec for merged features ``[K, width]``; made by `entropy.TrainableCodec.export`, read with
    `load`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._stream  # made now, so that networks which do not fit are refused when the codec is loaded

    # -- coding ------------------------------------------------------------------------------------------

    def encode(self, features: ArrayLike, quality: int, leading: Sequence[int] = ()) -> bytes:
        """Code features into bytes.

        features: [K, width], array or tensor of any float type, 0 <= K <= 65535. quality: one of `qualities`.
        leading: tokens that are to come first in the stream, ascending, fewer than K; for each of them about
        3 bits travel. Raises ValueError for a wrong shape, NaN or infinity, values far outside what the
        codec was made for, and qualities and tokens it does not have.
        """
        return self.encode_with_ends(features, quality, leading)[0]

    def encode_with_ends(
        self, features: ArrayLike, quality: int, leading: Sequence[int] = ()
    ) -> tuple[bytes, NDArray[np.int64]]:
        """`encode`, and where the tokens end, see `token_ends`."""
        values, level = self._check(features), self._level(quality)
        head = Head(len(values), level, leading=tuple(leading))
        steps = np.diff([-1, *leading, len(values)])
        if leading and (len(leading) >= len(values) or min(steps) < 1):
            raise ValueError(f"leading tokens must be ascending, below {len(values)} and not all of them")
        if len(values) == 0:
            return bytes(head), np.zeros(0, dtype=np.int64)
        symbols, _ = self._analyse(values[head.order], level)
        stream, ends = self._stream.encode(symbols, head, kernels=self._count(head.num_tokens))
        return bytes(head) + stream, ends

    def decode(self, payload: bytes) -> NDArray[np.float32]:
        """Features [K, width] float32 of a payload: exactly what `reconstruct` gave the encoder.

        Of a payload that was cut, those tokens that it still has, in raster order. Raises StreamError for
        anything that `encode` did not write, or `stream.cut` cut.
        """
        symbols, head, _ = self._read(bytes(payload))
        mean = self._means(symbols, head.level)
        features = np.empty((head.num_tokens, self.width), dtype=np.float32)
        features[head.order] = self._synthesise(symbols, mean, head.level)
        return features

    def token_ends(self, payload: bytes) -> NDArray[np.int64]:
        """How many bytes of a payload's stream, which begins behind its head, go up to each token's end.

        int64 [K], in the order of the stream; what `stream.cut` needs. Raises StreamError like `decode`.
        """
        return self._read(bytes(payload))[2]

    def reconstruct(self, features: ArrayLike, quality: int) -> NDArray[np.float32]:
        """What the other side will decode, without coding; arguments and errors of `encode`."""
        values, level = self._check(features), self._level(quality)
        return self._synthesise(*self._analyse(values, level), level)

    def estimate(self, features: ArrayLike, quality: int) -> float:
        """Ideal size in bits of what `encode` codes: -log2 of each symbol's probability, summed."""
        values, level = self._check(features), self._level(quality)
        head = Head(len(values), level)
        symbols, _ = self._analyse(values[head.order], level)
        return 8 * sum(self._ideal_bytes(symbols, head).values())

    def sections(self, payload: bytes) -> dict[str, float]:
        """Bytes by part: head, router, hyperprior, features, coder (state and rounding); they sum to the
        payload.

        Raises StreamError like `decode`.
        """
        symbols, head, _ = self._read(bytes(payload))
        sizes = {"head": float(len(bytes(head))), **self._ideal_bytes(symbols, head)}
        return {**sizes, "coder": len(payload) - sum(sizes.values())}

    def quality_of(self, payload: bytes) -> int:
        """Quality level that a payload was coded at; StreamError where its head is damaged."""
        return Head.split(payload)[0].level + 1

    def num_tokens_of(self, payload: bytes) -> int:
        """Number of tokens K that a payload declares; StreamError where its head is damaged."""
        return Head.split(payload)[0].num_tokens

    def scale_indices(self, features: ArrayLike, quality: int) -> NDArray[np.uint16]:
        """Laplacian table of every coefficient, [K, width]; what must agree bit for bit on both sides."""
        values, level = self._check(features), self._level(quality)
        return self._analyse(values, level)[0].scale_index

    # -- one side ----------------------------------------------------------------------------------------

    @cached_property
    def _stream(self) -> TokenStream:
        networks = [
            IntegerNetwork((*trunk.layers, *scale.layers))
            for trunk, scale in zip(self.trunk, self.scale, strict=True)
        ]
        packed = ScaleNetworks.pack(networks, self.hyper_width, self.width)
        return TokenStream(
            self.tables, packed, len(self.gains), self.num_experts, self.hyper_width, self.width
        )

    def _analyse(self, values: NDArray[np.float64], level: int) -> tuple[Symbols, NDArray[np.float64]]:
        """Symbols and means [K, C] of values, in their order."""
        scaled = self.forward(values - self.center) * self.gains[level]  # [K, C]
        inputs = np.rint(compress_range(scaled) * INPUT_STEPS)
        experts = np.argmax(self.router(inputs, level), axis=1).astype(np.int32)  # first of equals
        hyper = np.zeros((len(values), self.hyper_width), dtype=np.int32)
        scale_index = np.zeros((len(values), self.width), dtype=np.uint16)
        mean = np.zeros((len(values), self.width))
        for expert, rows in _by_expert(experts):
            hyper[rows] = self.analysis[expert](inputs[rows], level)
            hidden = self.trunk[expert](hyper[rows].astype(np.float64), level)
            scale_index[rows] = self.scale[expert](hidden, level)
            mean[rows] = self.mean[expert](hidden, level) / MEAN_STEPS
        deviation = scaled - mean
        magnitude = np.floor(np.abs(deviation) + (0.5 - self.dead_zone[0]))
        residual = np.copysign(magnitude, deviation).astype(np.int32)
        return Symbols(experts, hyper, residual, scale_index), mean

    def _means(self, symbols: Symbols, level: int) -> NDArray[np.float64]:
        mean = np.zeros((len(symbols.experts), self.width))
        for expert, rows in _by_expert(symbols.experts):
            hidden = self.trunk[expert](symbols.hyper[rows].astype(np.float64), level)
            mean[rows] = self.mean[expert](hidden, level) / MEAN_STEPS
        return mean

    def _synthesise(self, symbols: Symbols, mean: NDArray[np.float64], level: int) -> NDArray[np.float32]:
        residual = symbols.residual.astype(np.float64)
        scaled = residual + np.sign(residual) * self.offsets[symbols.scale_index] + mean
        return (self.inverse(scaled / self.gains[level]) + self.center).astype(np.float32)

    def _ideal_bytes(self, symbols: Symbols, head: Head) -> dict[str, float]:
        """-log2 of the probability of all symbols by part, in bytes."""
        router, hyper = self._stream.table_indices(symbols, head)
        parts = {
            "router": (symbols.experts, router),
            "hyperprior": (symbols.hyper.ravel(), hyper.ravel()),
            "features": (symbols.residual.ravel(), symbols.scale_index.ravel()),
        }
        return {name: float(self.tables.cost(part, index).sum()) / 8 for name, (part, index) in parts.items()}

    def _read(self, payload: bytes) -> tuple[Symbols, Head, NDArray[np.int64]]:
        """Symbols, head and token ends of a payload."""
        head, stream = Head.split(payload)
        if head.level >= len(self.gains):
            raise StreamError(f"the stream is of quality {head.level + 1}, this codec has {len(self.gains)}")
        if head.num_tokens == 0:
            nothing, _ = self._analyse(np.zeros((0, self.width)), head.level)
            return nothing, head, np.zeros(0, dtype=np.int64)
        if not self._count(head.num_tokens):
            try:
                return as_symbols(read_payload(payload, self), head)
            except StreamError:  # the compiled reader says more about it
                pass
        symbols, ends = self._stream.decode(stream, head)
        return symbols, head, ends

    def takes_kernels(self, num_tokens: int) -> bool:
        """Whether the next so many tokens are coded by compiled kernels: loading numba pays only where
        something else has done so already, or where much is coded."""
        return "entropy.kernels" in sys.modules or self._interpreted_with(num_tokens) > INTERPRETED_SYMBOLS

    def _count(self, num_tokens: int) -> bool:
        """`takes_kernels` of tokens that are coded now."""
        kernels = self.takes_kernels(num_tokens)
        if not kernels:
            self.__dict__["_num_interpreted"] = self._interpreted_with(num_tokens)
        return kernels

    def _interpreted_with(self, num_tokens: int) -> int:
        """Symbols coded without kernels so far, and those of so many more tokens."""
        return int(self.__dict__.get("_num_interpreted", 0)) + num_tokens * self.width

    # -- checks ------------------------------------------------------------------------------------------

    def _check(self, features: Any) -> NDArray[np.float64]:
        if hasattr(features, "detach"):  # a tensor, without importing its library
            features = features.detach().cpu().double().numpy()
        values = np.asarray(features)
        if values.ndim != 2 or values.shape[1] != self.width:
            raise ValueError(f"features must be [tokens, {self.width}], got {list(values.shape)}")
        if len(values) > MAX_TOKENS:
            raise ValueError(f"features have {len(values)} tokens, a stream carries at most {MAX_TOKENS}")
        if values.dtype.kind not in "fiu":
            raise ValueError(f"features must be real numbers, not {values.dtype}")
        # Through float32 first: float64 features that round to the same float32 give the same bytes.
        values = values.astype(np.float32).astype(np.float64)
        if not np.isfinite(values).all():
            bad = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(f"features hold NaN or infinity, first at token {bad[0]}, channel {bad[1]}")
        if values.size and float(np.abs(values - self.center).max()) > self.forward.reach:
            raise ValueError(
                f"features reach {float(np.abs(values).max()):.3g}; this codec was made for features within "
                f"{self.forward.reach:.3g} of their mean: are they of the model it was trained on?"
            )
        return values

    def _level(self, quality: int) -> int:
        if isinstance(quality, bool) or quality not in self.qualities:
            raise ValueError(f"quality must be a whole number from 1 to {len(self.gains)}, got {quality!r}")
        return int(quality) - 1


def _by_expert(experts: NDArray[np.int32]) -> list[tuple[int, NDArray[np.intp]]]:
    return [(expert, np.flatnonzero(experts == expert)) for expert in np.unique(experts).tolist()]
