"""What travels between tiers, a round of drafts and what became of it, and the answer that it is part of.

Both say where they stand in the answer, so that one that comes twice, late or never does no harm. Numbers are
variable-length (seven bits a byte): token ids and positions take one to three bytes each. States are raw rows
of numbers, little-endian, in the type and the width of the model.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from tofc.errors import UserError

VERSION = 2
_MOST = 1 << 16  # of anything that is counted in a message
_LARGEST = (1 << 49) - 1  # number: one of seven bytes


class MessageError(UserError):
    """Bytes that are no round or verdict of this version."""


@dataclass(frozen=True)
class Round:
    """Drafts for a verifier.

    `start` is the position of the first draft, `prefix` tells what stands before it (see `checksum`), `known`
    how many tokens the sender has as final: it wants to hear what comes after. `own` tokens of the verifier's
    are to follow where all drafts stand; where one falls, the one in its place always does. `states`, where
    they travel, are those of the tokens from position `begin` to the last draft, after the blocks that both
    sides share.
    """

    start: int
    prefix: int
    known: int
    drafts: tuple[int, ...] = ()
    own: int = 1
    begin: int = 0
    states: bytes = b""

    @property
    def num_states(self) -> int:
        """Rows that `states` has to hold."""
        return self.start + len(self.drafts) - self.begin

    def __bytes__(self) -> bytes:
        head = bytes([VERSION]) + self.prefix.to_bytes(4, "little")
        said = head + _numbers((self.start, self.known, self.own, len(self.drafts), *self.drafts))
        return said + _numbers([self.begin]) + self.states if self.states else said

    @classmethod
    def from_bytes(cls, data: bytes) -> Round:
        """Raises MessageError for anything else; states are checked by those who know the model."""
        if len(data) < 5 or data[0] != VERSION:
            raise MessageError(f"no round of version {VERSION}: install one release of tofc on all tiers")
        (start, known, own, count), at = _parsed(data, 5, 4)
        drafts, at = _parsed(data, at, count)
        found = cls(start, int.from_bytes(data[1:5], "little"), known, tuple(drafts), own)
        if at == len(data):
            return found
        (begin,), at = _parsed(data, at, 1)
        found = replace(found, begin=begin, states=data[at:])
        if not found.states or found.num_states < 1:
            raise MessageError("a round announces states and has none")
        return found


@dataclass(frozen=True)
class Verdict:
    """A verifier's answer from token `since` on: `tokens`, of which those before position `final` stand.

    The rest awaits a higher tier. `is_over` where the answer ends there. It took `seconds`, with so
    many `passes` of the verifier, waiting for a higher tier, and `shared` in blocks whose states may travel.
    """

    since: int
    tokens: tuple[int, ...]
    final: int
    is_over: bool
    passes: int = 0
    seconds: float = 0.0
    shared: float = 0.0

    def __bytes__(self) -> bytes:
        numbers = (
            self.since,
            self.final,
            int(self.is_over),
            self.passes,
            _micros(self.seconds),
            _micros(self.shared),
            len(self.tokens),
            *self.tokens,
        )
        return bytes([VERSION]) + _numbers(numbers)

    @classmethod
    def from_bytes(cls, data: bytes) -> Verdict:
        """Raises MessageError for anything else."""
        if not data or data[0] != VERSION:
            raise MessageError(f"no verdict of version {VERSION}: install one release of tofc on all tiers")
        (since, final, over, passes, seconds, shared, count), at = _parsed(data, 1, 7)
        tokens, at = _parsed(data, at, count)
        if at < len(data):
            raise MessageError(f"a verdict announces {count} tokens and has more")
        return cls(since, tuple(tokens), final, bool(over), passes, seconds / 1e6, shared / 1e6)


def checksum(tokens: Sequence[int]) -> int:
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


def _micros(seconds: float) -> int:
    return min(round(1e6 * seconds), _LARGEST)


def _parsed(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """So many numbers from byte `at` on, and where they end; MessageError where they are too many, too large,
    or cut short."""
    if count > min(_MOST, len(data) - at):  # each takes a byte at least
        raise MessageError("a message is cut short, or holds too much")
    values: list[int] = []
    value = shift = 0
    while len(values) < count:
        if at == len(data):
            raise MessageError("a message is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value = shift = 0
        elif shift > 42:
            raise MessageError("a message holds a number that is too large")
    return values, at


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = enumerate(zip(first, second))  # noqa: B905 - the shorter one ends it
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


Exchange = Callable[[Round], Verdict]
Pack = Callable[[Round, Sequence[int]], Round]  # a round about the last of these tokens, with what goes along


class LinkDown(ConnectionError):
    """A round of which nothing was heard; it may be sent again at any time."""


class LinkOver(LinkDown):
    """There is no time left for another round."""


def bare(round: Round, tokens: Sequence[int]) -> Round:
    """Nothing goes along."""
    return round


@dataclass
class PartialAnswer:
    """Tokens in three states: the first `final` stand for good, those up to `checked` stand as far as the
    tier above can tell, the rest are this tier's own drafts.

    An answer ends behind a token of `ends`, or at `most` tokens.
    """

    ends: frozenset[int]
    most: int
    tokens: list[int] = field(default_factory=list)
    final: int = 0
    checked: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing may follow the tokens as they are."""
        return len(self.tokens) >= self.most or bool(self.tokens and self.tokens[-1] in self.ends)

    @property
    def end(self) -> int:
        """Tokens before the first that ends it."""
        return next((i for i, token in enumerate(self.tokens) if token in self.ends), len(self.tokens))

    @property
    def is_over(self) -> bool:
        """Whether all of it stands."""
        return self.has_ended and self.final == len(self.tokens)

    def append(self, token: int) -> None:
        """One more draft."""
        self.tokens.append(token)

    def round(self, own: int = 1) -> Round:
        """All drafts, for the tier above."""
        checked = self.checked
        prefix = checksum(self.tokens[:checked])
        return Round(checked, prefix, self.final, tuple(self.tokens[checked:]), own)

    def take(self, verdict: Verdict) -> int:
        """Puts what the tier above says in the place of the drafts that it contradicts.

        Gives the number of drafts that stood. Drafts beyond the verdict stay where they go on from it. A
        verdict that is older than what is known changes nothing.
        """
        if verdict.since > self.final or verdict.final < self.final:
            return 0
        said = [*self.tokens[: verdict.since], *verdict.tokens]
        if len(said) < self.final or verdict.final > len(said):
            return 0
        same = common(self.tokens, said)
        stood = max(0, same - self.checked)
        if same < len(said):  # it goes on in another way, or further
            self.tokens = said
        self.final, self.checked = verdict.final, len(said)
        return stood
