"""The order in which tokens travel, so that the first tokens of a stream stand for the whole picture.

Every prefix is an even sample: token i of a stream stands, among the tokens of the picture, where the
bit-reversed i stands among the bit-reversed numbers of the others (J. G. van der Corput's sequence of 1935).
Both sides know that order, so it costs nothing; and how two tokens lie to each other does not depend on how
many more there are, so the tokens of a cut stream can be put into raster order without knowing what was cut
off. Where some tokens matter most, those lead: first they in that order, then the others in that order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from entropy.errors import StreamError

BITS = 16  # streams carry fewer than 2**16 tokens


def stream_order(num_tokens: int, leading: Sequence[int] = ()) -> NDArray[np.int64]:
    """Place in raster order of each token of a stream: a permutation, int64 [num_tokens].

    leading: places of the tokens that come first, ascending.
    """
    leads = np.zeros(num_tokens, dtype=bool)
    leads[list(leading)] = True
    first, rest = np.flatnonzero(leads), np.flatnonzero(~leads)
    return np.concatenate([first[_spread(first.size)], rest[_spread(rest.size)]])


def _spread(size: int) -> NDArray[np.int64]:
    places = np.empty(size, dtype=np.int64)
    places[np.argsort(_reversed_numbers()[:size])] = np.arange(size)
    return places


@functools.cache
def _reversed_numbers() -> NDArray[np.int64]:
    """Each number of 16 bits with its bits reversed."""
    number = np.arange(1 << BITS)
    reverse = np.zeros_like(number)
    for bit in range(BITS):
        reverse |= (number >> bit & 1) << (BITS - 1 - bit)
    return reverse


def left_neighbours(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The token next on the left among those before it in the stream, -1 where there is none: int64 [K].

    order: from `stream_order`. Without leading tokens it is the token's own number without its highest bit.
    """
    token_at = np.empty_like(order)
    token_at[order] = np.arange(order.size)
    before, after = np.arange(-1, order.size - 1).tolist(), np.arange(1, order.size + 1).tolist()
    left = np.full_like(order, -1)
    for token, place in zip(range(order.size - 1, -1, -1), order[::-1].tolist(), strict=True):
        if before[place] >= 0:
            left[token] = token_at[before[place]]
            after[before[place]] = after[place]
        if after[place] < order.size:
            before[after[place]] = before[place]
    return left


def encode_places(places: Sequence[int]) -> bytes:
    """Ascending places as Rice codes with one low bit, padded with zeros.

    For each the number of places that are skipped: its half in ones and a zero, then its lowest bit. About
    3.3 bits each for a quarter of all.
    """
    bits, before = "", -1
    for place in places:
        skipped, before = place - before - 1, place
        bits += "1" * (skipped // 2) + "0" + str(skipped % 2)
    bits += "0" * (-len(bits) % 8)
    return int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:]


def decode_places(data: bytes, size: int, limit: int) -> tuple[tuple[int, ...], int]:
    """`size` places below `limit` that `encode_places` wrote at the beginning of the data; also their bytes.

    Raises StreamError where they are not there.
    """
    bits = "".join(f"{byte:08b}" for byte in data[: (2 * size + limit // 2) // 8 + 1])
    places: list[int] = []
    at, before = 0, -1
    for _ in range(size):
        zero = bits.find("0", at)
        if zero < 0 or zero + 1 >= len(bits):
            raise StreamError("the stream ends before the places of its leading tokens do: it was cut short")
        before += 1 + 2 * (zero - at) + int(bits[zero + 1])
        at = zero + 2
        places.append(before)
    length = -(-at // 8)
    if (places and places[-1] >= limit) or "1" in bits[at : 8 * length]:
        raise StreamError("the places of the leading tokens are impossible: the stream is damaged")
    return tuple(places), length
