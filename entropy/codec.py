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

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entropy.errors import StreamError
from entropy.integer import FixedPointMatrix, IntegerNetwork
from entropy.storage import FILE_NAME, read_tensors, take, write_tensors
from entropy.stream import MAX_LEVELS, MAX_TOKENS, Head, ScaleNetworks, Symbols, TokenStream
from entropy.stream_reference import read_payload
from entropy.tables import NUM_SCALES, RansTables

INPUT_STEPS = 256  # integer networks see compressed coefficients in steps of 1/256 ...
INPUT_LIMIT = 32767  # ... up to 128
INTERPRETED_SYMBOLS = 1 << 16  # that a process reads before numba is loaded, in some 2 microseconds each
MEAN_STEPS = 256  # means are multiples of 1/256 of a quantisation step


def compress_range(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tame heavy tails before a network: 2 sign(x) (sqrt(1 + |x|) - 1), slope one at zero."""
    return np.copysign(2.0 * (np.sqrt(1.0 + np.abs(coefficients)) - 1.0), coefficients)


@dataclass(frozen=True, eq=False)
class FeatureCodec:
    """A trained codec for merged features ``[K, width]``; made by `entropy.TrainableCodec.export`, read with
    `load`.

    center: float64 [C]; forward, inverse: the transform into decorrelated coefficients and back; gains:
    float64 [levels, C], coefficients are multiplied by their row before rounding; router, analysis, trunk,
    scale, mean: integer networks, the last four one for each expert; tables: 64 Laplacian tables, then
    router tables [levels, E + 1], then hyperprior tables [levels, E, D]; offsets: float64 [64], see
    `tables.reconstruction_offsets`; dead_zone: float64 [1].
    """

    center: NDArray[np.float64]
    forward: FixedPointMatrix
    inverse: FixedPointMatrix
    gains: NDArray[np.float64]
    router: IntegerNetwork
    analysis: tuple[IntegerNetwork, ...]
    trunk: tuple[IntegerNetwork, ...]
    scale: tuple[IntegerNetwork, ...]
    mean: tuple[IntegerNetwork, ...]
    tables: RansTables
    offsets: NDArray[np.float64]
    dead_zone: NDArray[np.float64]

    def __post_init__(self) -> None:
        width, experts, levels = self.width, self.num_experts, len(self.gains)
        if self.gains.shape != (levels, width) or not self.gains.min() > 0:
            raise ValueError(f"gains must be positive, [levels, {width}]; they are {self.gains.shape}")
        if not len(self.trunk) == len(self.scale) == len(self.mean) == experts or experts < 1:
            raise ValueError("every expert needs an analysis, a trunk, a scale and a mean network")
        if levels > MAX_LEVELS:
            raise ValueError(f"codec with {levels} quality levels; streams can name {MAX_LEVELS}")
        expected = NUM_SCALES + levels * (experts + 1 + experts * self.hyper_width)
        if self.tables.num_tables != expected:
            raise ValueError(f"codec with {self.tables.num_tables} tables, its shape asks for {expected}")
        if (
            self.offsets.shape != (NUM_SCALES,)
            or self.dead_zone.shape != (1,)
            or not 0 <= self.dead_zone[0] < 0.5
        ):
            raise ValueError("codec with impossible reconstruction offsets or dead zone")
        row_reach = (
            np.abs(self.forward.weight.astype(np.float64)).sum(axis=1)
            * self.forward.scale
            * self.forward.reach
        )
        if float((row_reach * self.gains).max()) > 2.0**31 - 2.0**24:
            raise ValueError("codec whose gains could carry a symbol out of int32")
        if not np.abs(self.center).max() < np.finfo(np.float32).max / 2:
            raise ValueError("codec whose center leaves the range of float32")
        if self.forward.weight.shape != (width, width) or self.inverse.weight.shape != (width, width):
            raise ValueError(f"codec whose transforms are not [{width}, {width}]")
        self.router.check(width, experts, levels, "the router")
        for analysis, trunk, mean in zip(self.analysis, self.trunk, self.mean, strict=True):
            analysis.check(width, self.hyper_width, levels, "an analysis")
            IntegerNetwork((*trunk.layers, *mean.layers)).check(
                self.hyper_width, width, levels, "a trunk with its mean network"
            )
        _ = self._stream  # made now, so that networks which do not fit are refused when the codec is loaded

    # -- what it is --------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Width C of the features it codes."""
        return int(self.center.size)

    @property
    def num_experts(self) -> int:
        """Number of entropy models, E."""
        return len(self.analysis)

    @property
    def hyper_width(self) -> int:
        """Hyperprior values of one token, D."""
        return int(self.analysis[0].layers[-1].weight.shape[0])

    @property
    def qualities(self) -> range:
        """Quality levels, from fewest bytes to best."""
        return range(1, len(self.gains) + 1)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that tell this codec from any other: SHA-256 over names, types, shapes and values, cut."""
        digest = hashlib.sha256()
        for name, value in sorted(self.tensors().items()):
            little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
            digest.update(f"{name}:{value.dtype.kind}{value.dtype.itemsize}:{value.shape};".encode())
            digest.update(little.tobytes())
        return digest.digest()[:8]

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
        stream, ends = self._stream.encode(symbols, head)
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
        if self._is_interpreted(head):
            try:
                return self._interpreted(payload, head)
            except StreamError:  # the compiled reader says more about it
                pass
        symbols, ends = self._stream.decode(stream, head)
        return symbols, head, ends

    def _is_interpreted(self, head: Head) -> bool:
        """Whether to read without numba: what it takes to load pays only where something else has loaded it
        already, or where much is read."""
        if "entropy.kernels" in sys.modules:
            return False
        num_symbols = self.__dict__.get("_num_interpreted", 0) + head.num_tokens * self.width
        self.__dict__["_num_interpreted"] = num_symbols
        return num_symbols <= INTERPRETED_SYMBOLS

    def _interpreted(self, payload: bytes, head: Head) -> tuple[Symbols, Head, NDArray[np.int64]]:
        tokens = read_payload(payload, self)
        experts = np.array([token.expert for token in tokens], dtype=np.int32)
        hyper, residual = (
            np.array([getattr(token, name) for token in tokens], dtype=np.int32).reshape(len(tokens), -1)
            for name in ("hyper", "residual")
        )
        scales = np.array([token.scales for token in tokens], dtype=np.uint16)
        ends = np.array([token.end for token in tokens], dtype=np.int64)
        return Symbols(experts, hyper, residual, scales), head, ends

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
        values = values.astype(np.float32).astype(
            np.float64
        )  # so that wider inputs, rounded alike, code alike
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

    # -- on disk -----------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The codec as named arrays."""
        named: dict[str, NDArray[Any]] = {
            "center": self.center,
            "gains": self.gains,
            "offsets": self.offsets,
            "dead_zone": self.dead_zone,
            "tables.frequencies": self.tables.frequencies,
            "tables.sizes": self.tables.sizes,
            "tables.minimum": self.tables.minimum,
            **self.forward.tensors("forward"),
            **self.inverse.tensors("inverse"),
            **self.router.tensors("router"),
        }
        for kind in ("analysis", "trunk", "scale", "mean"):
            for expert, network in enumerate(getattr(self, kind)):
                named |= network.tensors(f"{kind}.{expert}")
        return named

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> FeatureCodec:
        """The codec that `tensors` gave; KeyError or ValueError where it is not whole."""
        experts = len({name.split(".")[1] for name in tensors if name.startswith("analysis.")})
        networks = {
            kind: tuple(IntegerNetwork.from_tensors(tensors, f"{kind}.{expert}") for expert in range(experts))
            for kind in ("analysis", "trunk", "scale", "mean")
        }
        return cls(
            center=take(tensors, "center", 1, np.float64),
            forward=FixedPointMatrix.from_tensors(tensors, "forward"),
            inverse=FixedPointMatrix.from_tensors(tensors, "inverse"),
            gains=take(tensors, "gains", 2, np.float64),
            router=IntegerNetwork.from_tensors(tensors, "router"),
            tables=RansTables(
                take(tensors, "tables.frequencies", 1, np.uint16),
                take(tensors, "tables.sizes", 1, np.int32),
                take(tensors, "tables.minimum", 1, np.int32),
            ),
            offsets=take(tensors, "offsets", 1, np.float64),
            dead_zone=take(tensors, "dead_zone", 1, np.float64),
            **networks,
        )

    def save(self, folder: str | Path) -> Path:
        """Write the codec into a folder as codec-integer.safetensors; returns the file."""
        return write_tensors(Path(folder) / FILE_NAME, self.tensors())

    @classmethod
    def load(cls, folder: str | Path) -> FeatureCodec:
        """Read a codec from a folder, or from the file itself.

        Raises FileNotFoundError where there is none, ValueError where it is not a whole codec.
        """
        path = Path(folder)
        path = path / FILE_NAME if path.is_dir() else path
        try:
            return cls.from_tensors(read_tensors(path))
        except (KeyError, IndexError) as error:
            raise ValueError(f"{path} is not a whole codec: {error} is missing") from error


def _by_expert(experts: NDArray[np.int32]) -> list[tuple[int, NDArray[np.intp]]]:
    return [(expert, np.flatnonzero(experts == expert)) for expert in np.unique(experts).tolist()]
