"""The payload's coder as a specification: slow, plain Python integers, one symbol after the other.

`rans` and the compiled coder must write the same bytes, and read the same symbols, or refuse, on any bytes;
docs/bitstream.md says the same in words, and a port to another language can start from here. A process that
codes some packets is faster with this one, which needs no numba.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from entropy.errors import StreamError
from entropy.integer import IntegerNetwork
from entropy.tables import RansTables

if TYPE_CHECKING:
    from entropy.codec import FeatureCodec

INT32 = range(-(2**31), 2**31)


class ReferenceDecoder:
    """Reads one stream symbol by symbol.

    data: the stream's bytes; frequencies: one list a table, the escape last, each summing to 65536; minimum:
    the value of each table's first symbol; is_cut: whether the bytes are those up to the end of a row alone.
    Raises StreamError for bytes that cannot begin a stream.
    """

    def __init__(
        self,
        data: bytes,
        frequencies: Sequence[Sequence[int]],
        minimum: Sequence[int],
        is_cut: bool = False,
    ) -> None:
        self.data = data
        self.frequencies = frequencies
        self.minimum = minimum
        self.least = 2**23 if is_cut else 2**8
        self.is_cut = is_cut
        self.starts: dict[int, list[int]] = {}
        if data[:1] == b"\0":
            raise StreamError("the stream begins with a zero byte")
        self.state = 0
        self.position = 0
        self._renormalise()

    def read_symbol(self, table: int) -> int:
        """Decode the next symbol under a table; StreamError where the stream cannot go on."""
        frequencies = self.frequencies[table]
        if table not in self.starts:  # sums of the frequencies before each symbol
            self.starts[table] = [0, *accumulate(frequencies)]
        slot = self.state % 65536
        place = bisect_right(self.starts[table], slot) - 1
        start = self.starts[table][place]
        self.state = frequencies[place] * (self.state // 65536) + slot - start
        self._renormalise()
        first = self.minimum[table]
        escape = len(frequencies) - 1
        if place < escape:
            return first + place
        beyond = self._read_golomb()
        value = first - 1 - beyond // 2 if beyond % 2 else first + escape + beyond // 2
        if value not in INT32:
            raise StreamError("an escaped symbol lies outside int32")
        return value

    def finish(self) -> None:
        """Check that every byte was used and that the coder is back in the encoder's first state."""
        if self.position != len(self.data):
            raise StreamError("bytes follow the last symbol")
        if not self.is_cut and self.state != 2**8:
            raise StreamError("wrong final state")

    def _read_golomb(self) -> int:
        """An Exp-Golomb number of order 0: n zeros, a one, n more bits; one less than 1 and those."""
        zeros = 0
        while self._read_bit() == 0:
            zeros += 1
            if zeros > 33:
                raise StreamError("an escaped symbol lies outside int32")
        number = 1
        for _ in range(zeros):
            number = 2 * number + self._read_bit()
        return number - 1

    def _read_bit(self) -> int:
        """One bit with probability one half: a symbol of frequency 32768."""
        slot = self.state % 65536
        bit = slot // 32768
        self.state = 32768 * (self.state // 65536) + slot % 32768
        self._renormalise()
        return bit

    def _renormalise(self) -> None:
        """Fill the state; at the stream's end it runs low, but never below the encoder's first one."""
        while self.state < 2**23 and self.position < len(self.data):
            self.state = self.state * 256 + self.data[self.position]
            self.position += 1
        if self.state < self.least:
            raise StreamError("the stream ends before its last symbol")


def encode_rows(
    symbols: Sequence[Sequence[int]],
    indices: Sequence[Sequence[int]],
    frequencies: Sequence[Sequence[int]],
    minimum: Sequence[int],
) -> tuple[bytes, list[int]]:
    """Encode rows of symbols, the last one first; also the bytes up to each row's end."""
    starts: dict[int, list[int]] = {}
    backwards, state, after = bytearray(), 2**8, []  # after: bytes behind each row's end, last row first
    for row, tables in zip(reversed(symbols), reversed(indices), strict=True):
        after.append(len(backwards))
        for symbol, table in zip(reversed(row), reversed(tables), strict=True):
            if table not in starts:
                starts[table] = [0, *accumulate(frequencies[table])]
            place, escape = symbol - minimum[table], len(frequencies[table]) - 1
            if not 0 <= place < escape:
                rest = 2 * (place - escape) + 1 if place >= 0 else -2 * place
                for bit in reversed("0" * (rest.bit_length() - 1) + f"{rest:b}"):
                    state = _push(state, 32768 * int(bit), 32768, backwards)
                place = escape
            state = _push(state, starts[table][place], frequencies[table][place], backwards)
    while state > 0:  # as few bytes as hold it
        backwards.append(state % 256)
        state //= 256
    return bytes(reversed(backwards)), [len(backwards) - behind for behind in reversed(after)]


def _push(state: int, start: int, frequency: int, backwards: bytearray) -> int:
    """The state with one more symbol; bytes that it has no room for leave it."""
    while state >= 32768 * frequency:
        backwards.append(state % 256)
        state //= 256
    return state // frequency * 65536 + state % frequency + start


def decode(
    data: bytes, indices: Sequence[int], frequencies: Sequence[Sequence[int]], minimum: Sequence[int]
) -> list[int]:
    """Decode a whole stream, one symbol for each table index; StreamError for a stream that is not whole."""
    decoder = ReferenceDecoder(data, frequencies, minimum)
    symbols = [decoder.read_symbol(table) for table in indices]
    decoder.finish()
    return symbols


class SymbolsOfToken(NamedTuple):
    """What the stream says of one token; `scales` are the residuals' tables, `end` the bytes up to here."""

    expert: int
    hyper: list[int]
    residual: list[int]
    scales: list[int]
    end: int


def write_stream(
    symbols: NDArray[np.int32], indices: NDArray[np.uint16], tables: RansTables
) -> tuple[bytes, NDArray[np.int64]]:
    """The stream of tokens' symbols [K, S] under their tables, and the bytes up to each token's end."""
    stream, ends = encode_rows(symbols.tolist(), indices.tolist(), tables.rows, tables.minimum.tolist())
    return stream, np.array(ends, dtype=np.int64)


def read_payload(payload: bytes, codec: FeatureCodec) -> list[SymbolsOfToken]:
    """The symbols of each token, in the order of the stream; StreamError for what is no whole payload."""
    counts, position = _read_varint(payload)
    num_tokens, level, is_cut = counts // 16, counts // 2 % 8, False
    leading: list[int] = []
    if num_tokens > 65535 or level >= len(codec.gains):
        raise StreamError("impossible counts")
    if counts % 2 == 1:
        more, length = _read_varint(payload[position:])
        position += length
        is_cut = more % 2 == 1
        if more == 0 or more // 2 >= num_tokens:
            raise StreamError("impossible number of leading tokens")
        leading, length = _read_places(payload[position:], more // 2, num_tokens)
        position += length
    if num_tokens == 0:
        if position < len(payload):
            raise StreamError("bytes after a stream of no tokens")
        return []
    stream = ReferenceDecoder(payload[position:], codec.tables.rows, codec.tables.minimum.tolist(), is_cut)
    places = read_order(num_tokens, leading)
    tokens: list[SymbolsOfToken] = []
    for number, place in enumerate(places):
        on_left = [other for other in places[:number] if other < place]
        left = tokens[places.index(max(on_left))].expert if on_left else codec.num_experts
        tokens.append(_read_token(left, stream, codec, level))
    stream.finish()
    return tokens


def read_order(num_tokens: int, leading: list[int]) -> list[int]:
    """Place in raster order of each token of the stream."""
    places: list[int] = []
    for group in (leading, sorted(set(range(num_tokens)) - set(leading))):
        reverse = [int(f"{number:016b}"[::-1], 2) for number in range(len(group))]
        place_of = dict(zip(sorted(reverse), group, strict=True))
        places += [place_of[value] for value in reverse]
    return places


def _read_places(data: bytes, size: int, limit: int) -> tuple[list[int], int]:
    """Places of the leading tokens, and how many bytes they take."""
    bits = iter("".join(f"{byte:08b}" for byte in data))
    places: list[int] = []
    used = 0
    for _ in range(size):
        ones = 0
        while (bit := next(bits, "")) == "1":
            ones += 1
        low = next(bits, "")
        if bit == "" or low == "":
            raise StreamError("the stream ends inside of its leading places")
        used += ones + 2
        places.append((places[-1] if places else -1) + 1 + 2 * ones + int(low))
        if places[-1] >= limit:
            raise StreamError("a leading token beyond the last")
    if any(next(bits, "") == "1" for _ in range(-used % 8)):
        raise StreamError("padding that is not zero")
    return places, -(-used // 8)


def _read_token(left: int, stream: ReferenceDecoder, codec: FeatureCodec, level: int) -> SymbolsOfToken:
    experts, levels, num_hyper = codec.num_experts, len(codec.gains), codec.hyper_width
    expert = stream.read_symbol(64 + level * (experts + 1) + left)
    if not 0 <= expert < experts:
        raise StreamError("no such entropy model")
    first = 64 + levels * (experts + 1) + (level * experts + expert) * num_hyper
    hyper = [stream.read_symbol(first + i) for i in range(num_hyper)]
    if not all(-127 <= value <= 127 for value in hyper):
        raise StreamError("hyperprior out of range")
    scales = _run(codec.scale[expert], _run(codec.trunk[expert], hyper, level), level)
    residual = [stream.read_symbol(scale) for scale in scales]
    return SymbolsOfToken(expert, hyper, residual, scales, stream.position)


def _run(network: IntegerNetwork, values: list[int], level: int) -> list[int]:
    """An integer network on one token, in integers of 64 bits."""
    vector = np.array(values, dtype=np.int64)
    for layer in network.layers:
        limit, low, high = layer.bounds.tolist()
        total = layer.weight.astype(np.int64) @ np.clip(vector, -limit, limit) + layer.bias[level]
        shift = layer.shift.astype(np.int64)
        vector = np.clip((total * layer.multiplier + (1 << shift - 1)) >> shift, low, high)
    return vector.tolist()


def _read_varint(data: bytes) -> tuple[int, int]:
    """Seven bits a byte, lowest first, in the shortest form of at most five bytes; value and length."""
    value = 0
    for position, byte in enumerate(data[:5]):
        value += (byte % 128) << (7 * position)
        if byte < 128:
            if byte == 0 and position > 0:
                raise StreamError("counts that are not in their shortest form")
            return value, position + 1
    raise StreamError("counts without an end")
