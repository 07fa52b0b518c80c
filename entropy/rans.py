"""Range asymmetric numeral systems: integers to bytes and back, as fast as one core allows.

State in [2**23, 2**31), renormalised by bytes, 16-bit frequency tables. The encoder walks the symbols
backwards and fills its buffer from the end, so that the decoder reads symbols and bytes forwards and can
stop and resume anywhere. `rans_reference` is the same decoder without speed; docs/bitstream.md is the format.
Source of the method: J. Duda, "Asymmetric numeral systems", arXiv 1311.2540.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from entropy.errors import StreamError
from entropy.tables import RansTables

Array = NDArray[Any]

STATE_MIN = 1 << 23
STATE_BYTES = 4
ESCAPED_BYTES = 12  # one symbol with the longest escape takes fewer
PADDING = 2  # the decoder may look two bytes ahead of what it consumes

_OK, _EXHAUSTED, _BAD_TABLE, _BAD_ESCAPE = 0, 1, 2, 3
_MESSAGES = {
    _EXHAUSTED: "the stream ends before its last symbol: it was cut short or damaged",
    _BAD_TABLE: "a decoded symbol names a table that does not exist: the stream is damaged",
    _BAD_ESCAPE: "an escaped symbol lies outside int32: the stream is damaged",
}


def _compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel, keeping the result on disk where some folder can be written to."""
    try:
        return njit(cache=True, nogil=True)(kernel)
    except RuntimeError:  # numba's word for "no place for a cache": every process compiles for itself
        return njit(nogil=True)(kernel)


@_compiled
def _encode(
    symbols: Array, indices: Array, entries: Array, reciprocals: Array, layout: Array, buffer: Array
) -> int:
    """Encode symbols from the last to the first into the buffer's end.

    Returns where the bytes begin, -1 where a table does not exist, -2 where the buffer is too small.
    """
    position: Any = buffer.size  # the next byte goes before it
    state = np.uint64(1 << 23)
    for i in range(symbols.size - 1, -1, -1):
        table = np.int64(indices[i])
        if table >= layout.shape[0]:
            return -1
        place = np.int64(symbols[i]) - layout[table, 0]
        escape = layout[table, 1]
        if np.uint64(place) >= np.uint64(escape):  # below the first value, or beyond the last
            if position < 2 * i + 32:
                return -2
            # Exp-Golomb of order 0, one equiprobable bit at a time; backwards, so the lowest bit goes first
            rest = np.uint64(2 * (place - escape) + 1) if place >= 0 else np.uint64(-2 * place)
            length = 0
            while (rest >> np.uint64(length)) > 1:
                length += 1
            for k in range(2 * length + 1):
                bit = (rest >> np.uint64(k)) & np.uint64(1) if k <= length else np.uint64(0)
                if state >= np.uint64(1 << 30):
                    position -= 1
                    buffer[position] = state & np.uint64(255)
                    state >>= np.uint64(8)
                low = state & np.uint64(0x7FFF)
                state = ((state >> np.uint64(15)) << np.uint64(16)) + low + (bit << np.uint64(15))
            place = escape
        at = layout[table, 2] + place
        entry = np.uint64(entries[at])
        frequency = entry >> np.uint64(16)
        # At most two bytes leave. Both are written in any case and the position alone decides which count:
        # whether a byte leaves is what no branch predictor can know.
        limit = frequency << np.uint64(15)
        leaving = np.int64(state >= limit) + np.int64(state >= (limit << np.uint64(8)))
        buffer[position - 1] = state & np.uint64(255)
        buffer[position - 2] = (state >> np.uint64(8)) & np.uint64(255)
        position -= leaving
        state >>= np.uint64(8 * leaving)
        # (state // frequency) * 65536 + state % frequency + start, with the division as a multiplication
        packed = reciprocals[at]
        quotient = (state * (packed & np.uint64(0xFFFFFFFF))) >> (packed >> np.uint64(32))
        state += (entry & np.uint64(0xFFFF)) + quotient * (np.uint64(1 << 16) - frequency)
    for k in range(4):
        position -= 1
        buffer[position] = (state >> np.uint64(8 * k)) & np.uint64(255)
    return position


@_compiled
def _decode(
    data: Array,
    end: int,
    state: Any,
    position: Any,
    indices: Array,
    chained: bool,
    previous: Any,
    entries: Array,
    buckets: Array,
    layout: Array,
    out: Array,
) -> tuple[int, Any, int]:
    """Decode `out.size` symbols; returns (status, state, position). See `Decoder` for the arguments."""
    low = np.uint64(0xFFFF)
    for i in range(out.size):
        table = np.int64(indices[i])
        if chained:
            table += np.int64(previous)
        if table < 0 or table >= layout.shape[0]:
            return 2, state, position
        slot = state & low
        at = layout[table, 2] + np.int64(buckets[table, np.int64(slot >> np.uint64(8))])
        entry = np.uint64(entries[at])
        while slot - (entry & low) >= (entry >> np.uint64(16)):
            at += 1
            entry = np.uint64(entries[at])
        state = (entry >> np.uint64(16)) * (state >> np.uint64(16)) + slot - (entry & low)
        arriving = np.int64(state < np.uint64(1 << 23)) + np.int64(state < np.uint64(1 << 15))
        ahead = (np.uint64(data[position]) << np.uint64(8)) | np.uint64(data[position + 1])
        state = (state << np.uint64(8 * arriving)) | (ahead >> np.uint64(16 - 8 * arriving))
        position += arriving
        if position > end:
            return 1, state, position
        place = at - layout[table, 2]
        value = layout[table, 0] + place
        if place == layout[table, 1]:
            zeros = 0
            rest = np.uint64(0)
            wanted = -1  # bits of the mantissa still to come; negative while the leading zeros last
            while wanted != 0:
                bit = (state >> np.uint64(15)) & np.uint64(1)
                state = ((state >> np.uint64(16)) << np.uint64(15)) + (state & np.uint64(0x7FFF))
                if state < np.uint64(1 << 23):
                    state = (state << np.uint64(8)) | np.uint64(data[position])
                    position += 1
                    if position > end:
                        return 1, state, position
                rest = (rest << np.uint64(1)) | bit
                if wanted > 0:
                    wanted -= 1
                elif bit == 1:
                    wanted = zeros
                else:
                    zeros += 1
                    if zeros > 33:
                        return 3, state, position
            beyond = np.int64(rest) - 1
            value = value + (beyond >> 1) if beyond & 1 == 0 else layout[table, 0] - 1 - (beyond >> 1)
            if value < -2147483648 or value > 2147483647:
                return 3, state, position
        out[i] = value
        previous = value
    return 0, state, position


class Decoder:
    """Reads one stream part by part: each call to `read` goes on where the last one stopped.

    data: the bytes that `encode` gave; tables: those it was given. Raises StreamError for a stream shorter
    than a state.
    """

    def __init__(self, data: bytes, tables: RansTables) -> None:
        if len(data) < STATE_BYTES:
            raise StreamError(f"the stream has {len(data)} bytes, its coder state alone takes {STATE_BYTES}")
        self._state = np.uint64(int.from_bytes(data[:STATE_BYTES], "big"))
        if not STATE_MIN <= self._state < STATE_MIN << 8:
            raise StreamError(
                "the stream begins with an impossible coder state: it is damaged or no such stream"
            )
        self._data = np.frombuffer(data + bytes(PADDING), dtype=np.uint8)
        self._end = len(data)
        self._position = STATE_BYTES
        self._tables = tables

    def read(self, indices: ArrayLike, chain_from: int | None = None) -> NDArray[np.int32]:
        """Decode one symbol for each table index.

        indices: [n] integers, the table of each symbol. chain_from: where given, the symbol before is added
        to each index (`chain_from` stands before the first): a context of one symbol. Returns int32 [n].
        Raises StreamError where the stream ends too early or holds what no encoder writes.
        """
        tables, index = self._tables, _as_indices(indices)
        symbols = np.empty(index.size, dtype=np.int32)
        chained, before = chain_from is not None, np.int64(chain_from or 0)
        status, state, position = _decode(
            self._data, self._end, self._state, self._position, index, chained, before,
            tables.entries, tables.buckets, tables.layout, symbols,
        )  # fmt: skip
        if status != _OK:
            raise StreamError(_MESSAGES[status])
        self._state, self._position = np.uint64(state), int(position)
        return symbols

    def finish(self) -> None:
        """Check that the stream ends here, in the state the encoder began with; else StreamError."""
        if self._position != self._end:
            raise StreamError(
                f"{self._end - self._position} bytes follow the last symbol: appended to or damaged"
            )
        if self._state != STATE_MIN:
            raise StreamError(
                "the coder does not end in its initial state: the stream is damaged or of other tables"
            )


def encode(symbols: ArrayLike, indices: ArrayLike, tables: RansTables) -> bytes:
    """Code integers into bytes, each under its own table.

    symbols: [n] integers of int32; indices: [n], the table of each; tables: from `entropy.tables`.
    Returns at least 4 bytes; about 3.5 bytes more than the ideal size. Raises ValueError for symbols outside
    int32, indices without a table, and arrays that do not match.
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
    if values.ndim != 1 or values.shape != index.shape:
        raise ValueError(
            f"symbols {values.shape} and table indices {index.shape} must be two vectors of one length"
        )
    start, buffer = -2, np.empty(0, dtype=np.uint8)
    for room in (2, ESCAPED_BYTES):  # bytes a symbol: few are escaped, as a rule, and then two are enough
        if start == -2:
            buffer = np.empty(room * values.size + 64 + values.size // 8, dtype=np.uint8)
            start = _encode(values, index, tables.entries, tables.reciprocals, tables.layout, buffer)
    if start < 0:
        raise ValueError(f"a table index lies outside the {tables.num_tables} tables")
    return bytes(buffer[start:])


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
