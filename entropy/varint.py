"""Small counts in few bytes: seven bits a byte, lowest first."""

from __future__ import annotations

from entropy.errors import StreamError


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
