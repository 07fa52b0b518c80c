"""Range asymmetric numeral systems: integers to bytes and back, as fast as one core allows.

One state, renormalised by bytes, 16-bit frequency tables. The encoder walks the symbols backwards and fills
its buffer from the end, so that the decoder reads symbols and bytes forwards and can stop and resume
anywhere. It begins with a small state and writes the last one in as few bytes as hold it: about two bytes
over the ideal, at most three. `reference` is the same decoder without speed; docs/bitstream.md is the
format. Source of the method: J. Duda, "Asymmetric numeral systems", arXiv 1311.2540.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entropy import kernels
from entropy.errors import StreamError
from entropy.kernels import STATE_FIRST, STATE_FULL
from entropy.tables import RansTables

STATE_BYTES = 4  # what the largest state takes
ESCAPED_BYTES = 12  # one symbol with the longest escape takes fewer

_MESSAGES = {
    kernels.EXHAUSTED: "the stream ends before its last symbol: it was cut short or damaged",
    kernels.BAD_TABLE: "a decoded symbol names a table that does not exist: the stream is damaged",
    kernels.BAD_EXPERT: "a token names an entropy model that there is not: the stream is damaged",
    kernels.BAD_HYPER: "a hyperprior value lies out of range: the stream is damaged",
    kernels.BAD_ESCAPE: "an escaped symbol lies outside int32: the stream is damaged",
}


class Decoder:
    """Reads one stream part by part: each call to `read` goes on where the last one stopped.

    data: the bytes that `encode` gave; tables: those it was given; is_cut: whether the bytes are only those
    up to the end of a row (see `encode_rows`). Raises StreamError for bytes that cannot begin a stream.
    """

    def __init__(self, data: bytes, tables: RansTables, is_cut: bool = False) -> None:
        if data[:1] == b"\0":
            raise StreamError("the stream begins with a zero byte: it is damaged or no such stream")
        self._end = len(data)
        self._is_cut = is_cut
        self._least = np.uint64(STATE_FULL if is_cut else STATE_FIRST)
        state, position = 0, 0
        while state < STATE_FULL and position < self._end:
            state, position = state << 8 | data[position], position + 1
        if state < self._least:
            raise StreamError(
                f"the stream has {self._end} bytes, too few for a coder state: it was cut short"
            )
        self._data = np.frombuffer(data, dtype=np.uint8)
        self._state, self._position = np.uint64(state), position
        self._tables = tables

    def read(self, indices: ArrayLike) -> NDArray[np.int32]:
        """Decode one symbol for each table index.

        indices: [n] integers, the table of each symbol. Returns int32 [n]. Raises StreamError where the
        stream ends too early or holds what no encoder writes.
        """
        index = _as_indices(indices)
        symbols = np.empty(index.size, dtype=np.int32)
        tables = self._tables
        self.run(kernels.decode, index, tables.entries, tables.buckets, tables.layout, symbols)
        return symbols

    def run(self, kernel: Callable[..., tuple[int, Any, int]], *arguments: Any) -> None:
        """Go on with a decoding kernel, which takes the stream before its own arguments; errors of `read`."""
        status, state, position = kernel(
            self._data, self._end, self._least, self._state, self._position, *arguments
        )
        if status != kernels.OK:
            raise StreamError(_MESSAGES[status])
        self._state, self._position = np.uint64(state), int(position)

    def finish(self) -> None:
        """Check that the stream ends here, in the state the encoder began with; else StreamError."""
        if self._position != self._end:
            raise StreamError(
                f"{self._end - self._position} bytes follow the last symbol: appended to or damaged"
            )
        if not self._is_cut and self._state != STATE_FIRST:
            raise StreamError(
                "the coder does not end in its initial state: the stream is damaged or of other tables"
            )


def encode(symbols: ArrayLike, indices: ArrayLike, tables: RansTables) -> bytes:
    """Code integers into bytes, each under its own table.

    symbols: [n] integers of int32; indices: [n], the table of each; tables: from `entropy.tables`.
    Returns at least 2 bytes; about 2 bytes more than the ideal size. Raises ValueError for symbols outside
    int32, indices without a table, and arrays that do not match.
    """
    values = np.asarray(symbols)
    if values.ndim != 1:
        raise ValueError(f"symbols {values.shape} must be a vector")
    return encode_rows(values[None], np.asarray(indices)[None], tables)[0]


def encode_rows(
    symbols: ArrayLike, indices: ArrayLike, tables: RansTables
) -> tuple[bytes, NDArray[np.int64]]:
    """`encode` for symbols [K, S], row after row; returns also int64 [K], the bytes up to each row's end.

    A decoder of the first k rows needs no more than that many bytes, and a stream cut there can be read with
    `Decoder(..., is_cut=True)`, if it is shorter than the whole.
    """
    values = np.asarray(symbols)
    if values.size and (
        values.dtype.kind not in "iub" or values.dtype.itemsize > 4 or values.dtype == np.uint32
    ):
        if values.dtype.kind not in "iu":
            raise ValueError(f"symbols must be integers, not {values.dtype}")
        if int(values.min()) < -(2**31) or int(values.max()) >= 2**31:
            raise ValueError("symbols must lie in int32")
    values = np.ascontiguousarray(values, dtype=np.int32)
    index = _as_indices(indices)
    if values.ndim != 2 or values.shape != index.shape:
        raise ValueError(f"symbols {values.shape} and table indices {index.shape} must be of one shape")
    ends = np.zeros(len(values), dtype=np.int64)
    start, buffer = kernels.NO_ROOM, np.empty(0, dtype=np.uint8)
    for room in (2, ESCAPED_BYTES):  # bytes a symbol: few are escaped, as a rule, and then two are enough
        if start == kernels.NO_ROOM:
            buffer = np.empty(room * values.size + 64 + values.size // 8, dtype=np.uint8)
            start = kernels.encode(
                values, index, tables.entries, tables.reciprocals, tables.layout, buffer, ends
            )
    if start < 0:
        raise ValueError(f"a table index lies outside the {tables.num_tables} tables")
    return bytes(buffer[start:]), ends - start


def decode(data: bytes, indices: ArrayLike, tables: RansTables) -> NDArray[np.int32]:
    """Decode a whole stream of `encode`, one symbol for each table index: int32 [n].

    Raises StreamError for streams that are cut, appended to, or end in another state than the encoder began
    with.
    """
    decoder = Decoder(data, tables)
    symbols = decoder.read(indices)
    decoder.finish()
    return symbols


def _as_indices(indices: ArrayLike) -> NDArray[np.uint16]:
    """Table indices as the one type that the kernels are compiled for."""
    index = np.asarray(indices)
    if index.dtype != np.uint16:
        if index.size and index.dtype.kind not in "iu":
            raise ValueError(f"table indices must be integers, not {index.dtype}")
        if index.size and (int(index.min()) < 0 or int(index.max()) > 0xFFFF):
            raise ValueError("table indices must lie in 0 .. 65535")
    return np.ascontiguousarray(index, dtype=np.uint16)
