"""The compiled inner loops: range coding in both directions, and reading a stream token by token.

All of them stand in one file because numba's cache on disk notices changes of a kernel's own file alone.
`rans` and `stream` call them with checked arguments; `reference` has the same decoders without speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

STATE_FIRST = 1 << 8  # the encoder's first state: next to free, and a check of the stream's end
STATE_FULL = 1 << 23  # while bytes are left, the decoder fills its state to here

OK, EXHAUSTED, BAD_TABLE, BAD_ESCAPE, BAD_EXPERT, BAD_HYPER = range(6)
NO_TABLE, NO_ROOM = -1, -2


def _compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel, keeping the result on disk where some folder can be written to."""
    try:
        return njit(cache=True, nogil=True)(kernel)
    except RuntimeError:  # numba's word for "no place for a cache": every process compiles for itself
        return njit(nogil=True)(kernel)


@_compiled
def encode(
    symbols: Array,
    indices: Array,
    entries: Array,
    reciprocals: Array,
    layout: Array,
    buffer: Array,
    ends: Array,
) -> int:
    """Encode rows of symbols [K, S], the last symbol first, into the buffer's end.

    Sets `ends` [K] to where the decoder stands after each row. Returns where the bytes begin, NO_TABLE or
    NO_ROOM.
    """
    position: Any = buffer.size  # the next byte goes before it
    state = np.uint64(STATE_FIRST)
    for row in range(symbols.shape[0] - 1, -1, -1):
        ends[row] = position
        values, tables = symbols[row], indices[row]
        for i in range(values.size - 1, -1, -1):
            table = np.int64(tables[i])
            if table >= layout.shape[0]:
                return NO_TABLE
            place = np.int64(values[i]) - layout[table, 0]
            escape = layout[table, 1]
            if np.uint64(place) >= np.uint64(escape):  # below the first value, or beyond the last
                if position < 2 * (row * values.size + i) + 32:
                    return NO_ROOM
                # Exp-Golomb of order 0, one equiprobable bit at a time; backwards, so the lowest goes first
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
            # At most two bytes leave. Both are written in any case and the position alone decides which
            # count: whether a byte leaves is what no branch predictor can know.
            limit = frequency << np.uint64(15)
            leaving = np.int64(state >= limit) + np.int64(state >= (limit << np.uint64(8)))
            buffer[position - 1] = state & np.uint64(255)
            buffer[position - 2] = (state >> np.uint64(8)) & np.uint64(255)
            position -= leaving
            state >>= np.uint64(8 * leaving)
            # (state // frequency) * 65536 + state % frequency + start, the division as a multiplication
            packed = reciprocals[at]
            quotient = (state * (packed & np.uint64(0xFFFFFFFF))) >> (packed >> np.uint64(32))
            state += (entry & np.uint64(0xFFFF)) + quotient * (np.uint64(1 << 16) - frequency)
    while state > 0:  # as few bytes as hold it
        position -= 1
        buffer[position] = state & np.uint64(255)
        state >>= np.uint64(8)
    return position


@_compiled
def decode(
    data: Array,
    end: int,
    least: Any,
    state: Any,
    position: Any,
    indices: Array,
    entries: Array,
    buckets: Array,
    layout: Array,
    out: Array,
) -> tuple[int, Any, int]:
    """Decode `out.size` symbols of a stream that has `end` bytes; returns (status, state, position).

    A state below `least` is one that the encoder did not have: bytes are missing.
    """
    low = np.uint64(0xFFFF)
    for i in range(out.size):
        table = np.int64(indices[i])
        if table >= layout.shape[0]:
            return BAD_TABLE, state, position
        slot = state & low
        at = layout[table, 2] + np.int64(buckets[table, np.int64(slot >> np.uint64(8))])
        entry = np.uint64(entries[at])
        while slot - (entry & low) >= (entry >> np.uint64(16)):
            at += 1
            entry = np.uint64(entries[at])
        state = (entry >> np.uint64(16)) * (state >> np.uint64(16)) + slot - (entry & low)
        if position < end - 1:  # the most that a symbol takes is there; as in `encode`, no branch asks for it
            arriving = np.int64(state < np.uint64(STATE_FULL)) + np.int64(state < np.uint64(STATE_FULL >> 8))
            ahead = (np.uint64(data[position]) << np.uint64(8)) | np.uint64(data[position + 1])
            state = (state << np.uint64(8 * arriving)) | (ahead >> np.uint64(16 - 8 * arriving))
            position += arriving
        else:
            while state < np.uint64(STATE_FULL) and position < end:
                state = (state << np.uint64(8)) | np.uint64(data[position])
                position += 1
            if state < least:
                return EXHAUSTED, state, position
        place = at - layout[table, 2]
        value = layout[table, 0] + place
        if place == layout[table, 1]:
            zeros = 0
            rest = np.uint64(0)
            wanted = -1  # bits of the mantissa still to come; negative while the leading zeros last
            while wanted != 0:
                bit = (state >> np.uint64(15)) & np.uint64(1)
                state = ((state >> np.uint64(16)) << np.uint64(15)) + (state & np.uint64(0x7FFF))
                if state < np.uint64(STATE_FULL) and position < end:
                    state = (state << np.uint64(8)) | np.uint64(data[position])
                    position += 1
                if state < least:
                    return EXHAUSTED, state, position
                rest = (rest << np.uint64(1)) | bit
                if wanted > 0:
                    wanted -= 1
                elif bit == 1:
                    wanted = zeros
                else:
                    zeros += 1
                    if zeros > 33:
                        return BAD_ESCAPE, state, position
            beyond = np.int64(rest) - 1
            value = value + (beyond >> 1) if beyond & 1 == 0 else layout[table, 0] - 1 - (beyond >> 1)
            if value < -2147483648 or value > 2147483647:
                return BAD_ESCAPE, state, position
        out[i] = value
    return OK, state, position


@_compiled
def decode_tokens(
    data: Array,
    end: int,
    least: Any,
    state: Any,
    position: Any,
    entries: Array,
    buckets: Array,
    layout: Array,
    router_table: int,
    hyper_table: int,
    hyper_limit: int,
    weights: Array,
    bias: Array,
    multiplier: Array,
    step: Array,
    bounds: Array,
    shapes: Array,
    chain: Array,
    left: Array,
    experts: Array,
    first: int,
    hyper: Array,
    residual: Array,
    scale_index: Array,
    ends: Array,
) -> tuple[int, Any, int]:
    """Decode the router choice, hyperprior and residuals of one token after the other, from token `first` on.

    For the networks from `weights` to `chain` see `stream.ScaleNetworks`, for `left` `order.left_neighbours`.
    experts: [all tokens], known before `first`; hyper [n, D], residual and scale_index [n, C] and ends [n],
    the position after each token, are written. Returns (status, state, position).
    """
    num_experts = chain.size - 1
    num_hyper, width = hyper.shape[1], residual.shape[1]
    index = np.empty(max(1, num_hyper), dtype=np.uint16)
    values = np.empty(shapes[:, :2].max(), dtype=np.float64)
    total = np.empty_like(values)
    for row in range(hyper.shape[0]):
        token = first + row
        before = experts[left[token]] if left[token] >= 0 else num_experts
        index[0] = router_table + before
        status, state, position = decode(
            data, end, least, state, position, index[:1], entries, buckets, layout, experts[token : token + 1]
        )
        if status != OK:
            return status, state, position
        expert = np.int64(experts[token])
        if expert < 0 or expert >= num_experts:
            return BAD_EXPERT, state, position
        for i in range(num_hyper):
            index[i] = hyper_table + expert * num_hyper + i
        status, state, position = decode(
            data, end, least, state, position, index[:num_hyper], entries, buckets, layout, hyper[row]
        )
        if status != OK:
            return status, state, position
        for i in range(num_hyper):
            if abs(np.int64(hyper[row, i])) > hyper_limit:
                return BAD_HYPER, state, position
            values[i] = hyper[row, i]
        for layer in range(chain[expert], chain[expert + 1]):
            num_in, num_out, matrix, vector = shapes[layer]
            limit, low, high = bounds[layer]
            for o in range(num_out):
                total[o] = bias[vector + o]
            for i in range(num_in):
                value = min(max(values[i], -limit), limit)
                if value != 0:
                    for o in range(num_out):
                        total[o] += weights[matrix + i * num_out + o] * value
            for o in range(num_out):
                scaled = np.floor(total[o] * multiplier[vector + o] * step[vector + o] + 0.5)
                values[o] = min(max(scaled, low), high)
        for i in range(width):
            scale_index[row, i] = np.uint16(values[i])
        status, state, position = decode(
            data, end, least, state, position, scale_index[row], entries, buckets, layout, residual[row]
        )
        if status != OK:
            return status, state, position
        ends[row] = position
    return OK, state, position
