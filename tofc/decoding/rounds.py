"""What travels between tiers: a round of drafts one way, what became of it the other.

Both say where they stand in the answer, so that one that comes twice, late or never does no harm. Numbers are
variable-length (seven bits a byte): token ids and positions take one to three bytes each.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tofc.errors import UserError

VERSION = 1
_MOST = 1 << 16  # of anything that is counted in a message


class MessageError(UserError):
    """Bytes that are no round or verdict of this version."""


@dataclass(frozen=True)
class Round:
    """Drafts for a verifier.

    `start` is the position of the first draft, `prefix` tells what stands before it (see `told`), `known` how
    many tokens the sender has as final: it wants to hear what comes after. `own` tokens of the verifier's
    are to follow where all drafts stand; where one falls, the one in its place always does.
    """

    start: int
    prefix: int
    known: int
    drafts: tuple[int, ...] = ()
    own: int = 1

    def __bytes__(self) -> bytes:
        head = bytes([VERSION]) + self.prefix.to_bytes(4, "little")
        return head + _numbers((self.start, self.known, self.own, len(self.drafts), *self.drafts))

    @classmethod
    def from_bytes(cls, data: bytes) -> Round:
        """Raises MessageError for anything else."""
        if len(data) < 5 or data[0] != VERSION:
            raise MessageError(f"no round of version {VERSION}: install one release of tofc on all tiers")
        start, known, own, count, *drafts = _parsed(data[5:], 4)
        if len(drafts) != count:
            raise MessageError(f"a round announces {count} drafts and has {len(drafts)}")
        return cls(start, int.from_bytes(data[1:5], "little"), known, tuple(drafts), own)


@dataclass(frozen=True)
class Verdict:
    """A verifier's answer from token `since` on: `tokens`, of which those before position `final` stand.

    The rest awaits a higher tier. `is_over` where the answer ends there. The verifier made so many `passes`,
    which took `seconds` in all.
    """

    since: int
    tokens: tuple[int, ...]
    final: int
    is_over: bool
    passes: int = 0
    seconds: float = 0.0

    def __bytes__(self) -> bytes:
        micros = min(round(1e6 * self.seconds), 1 << 40)
        numbers = (
            self.since,
            self.final,
            int(self.is_over),
            self.passes,
            micros,
            len(self.tokens),
            *self.tokens,
        )
        return bytes([VERSION]) + _numbers(numbers)

    @classmethod
    def from_bytes(cls, data: bytes) -> Verdict:
        """Raises MessageError for anything else."""
        if not data or data[0] != VERSION:
            raise MessageError(f"no verdict of version {VERSION}: install one release of tofc on all tiers")
        since, final, over, passes, micros, count, *tokens = _parsed(data[1:], 6)
        if len(tokens) != count:
            raise MessageError(f"a verdict announces {count} tokens and has {len(tokens)}")
        return cls(since, tuple(tokens), final, bool(over), passes, micros / 1e6)


def told(tokens: Sequence[int]) -> int:
    """32 bits that tell these tokens from others."""
    return zlib.crc32(array("q", tokens).tobytes())


def _numbers(values: Iterable[int]) -> bytes:
    out = bytearray()
    for value in values:
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def _parsed(data: bytes, least: int) -> list[int]:
    """The numbers; MessageError where fewer than `least`, too large, or cut short."""
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value = shift = 0
        elif shift > 42:
            raise MessageError("a message holds a number that is too large")
    if shift or len(values) < least or len(values) > _MOST:
        raise MessageError("a message is cut short")
    return values
