"""The range decoder as a specification: slow, plain Python integers, no array library, nothing clever.

`rans.Decoder` must agree with this on every stream, valid or not; a port to another language can start from
here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from entropy.errors import StreamError

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


def decode(
    data: bytes, indices: Sequence[int], frequencies: Sequence[Sequence[int]], minimum: Sequence[int]
) -> list[int]:
    """Decode a whole stream, one symbol for each table index; StreamError for a stream that is not whole."""
    decoder = ReferenceDecoder(data, frequencies, minimum)
    symbols = [decoder.read_symbol(table) for table in indices]
    decoder.finish()
    return symbols
