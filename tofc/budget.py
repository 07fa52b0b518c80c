"""The best packet within a budget of bytes: at which quality, and with how many tokens.

Preferred points, one for each quality, make a ladder: the highest one that fits gives the quality, and more
tokens fill what it leaves free. The search codes and measures, so the budget holds to the byte.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from tofc.errors import UserError
from tofc.packet import Packet

WELL_USED = 0.9  # a packet that uses this share of its budget is not looked at again


def default_ladder(qualities: range, quality: int, tokens: int, most: int) -> list[int]:
    """Numbers of tokens for each of `qualities`, doubling from one to the next through (quality, tokens).

    Between 4 and `most`. On features of scenes, doubling follows the least squared error at a given size.
    """
    return [max(min(4, most), min(most, round(tokens * 2.0 ** (q - quality)))) for q in qualities]


class BudgetSearch:
    """Packets of at most `max_bytes` bytes from `code(quality, tokens)`, with 1 to `most` tokens.

    Sizes grow with quality, and with tokens but for small exceptions; what a search returns was measured. No
    point is coded twice.
    """

    def __init__(
        self, code: Callable[[int, int], Packet], qualities: range, most: int, max_bytes: int
    ) -> None:
        self._code, self.qualities, self.most, self.max_bytes = code, qualities, most, max_bytes
        self._coded: dict[tuple[int, int], Packet] = {}

    def _packet(self, quality: int, tokens: int) -> Packet:
        point = (quality, tokens)
        if point not in self._coded:
            self._coded[point] = self._code(*point)
        return self._coded[point]

    def _fits(self, quality: int, tokens: int) -> bool:
        return len(self._packet(quality, tokens)) <= self.max_bytes

    def along(self, ladder: Sequence[int]) -> Packet:
        """The packet that the ladder, `ladder[i]` tokens at quality i + 1, leads to.

        It uses at least nine tenths of the budget where any quality has a number of tokens that does, or it
        has all tokens at the best quality. Raises UserError where not even one token fits.
        """
        steps = list(zip(self.qualities, ladder, strict=True))
        fitting = bisect_left(steps, True, key=lambda step: not self._fits(*step))
        quality, tokens = steps[fitting - 1] if fitting else (steps[0][0], 1)
        best = self._fullest(quality, tokens)
        others = sorted(set(self.qualities) - {quality}, key=lambda q: (abs(q - quality), -q))
        for other in others:
            if best is not None and (len(best) >= WELL_USED * self.max_bytes or self._is_top(best)):
                break
            found = self._fullest(other, 1)
            if found is not None and (best is None or len(found) > len(best)):
                best = found
        return best or self._refuse(self.qualities[0])

    def at_quality(self, quality: int) -> Packet:
        """The packet of the most tokens at `quality`; UserError where not even one fits."""
        return self._fullest(quality, 1) or self._refuse(quality)

    def at_tokens(self, tokens: int) -> Packet:
        """The packet of the highest quality with `tokens` tokens; UserError where none fits."""
        for quality in reversed(self.qualities):
            if self._fits(quality, tokens):
                return self._packet(quality, tokens)
        raise UserError(
            f"{tokens} tokens need at least {len(self._packet(self.qualities[0], tokens))} bytes at the "
            f"lowest quality, max_bytes is {self.max_bytes}: allow more bytes or fewer tokens, or leave "
            "tokens out to have them found too"
        )

    def _is_top(self, packet: Packet) -> bool:
        return packet is self._coded.get((self.qualities[-1], self.most))

    def _refuse(self, quality: int) -> Packet:
        raise UserError(
            f"max_bytes is {self.max_bytes}, and the smallest packet (1 token, quality {quality}) has "
            f"{len(self._packet(quality, 1))} bytes: allow at least that many"
        )

    def _fullest(self, quality: int, low: int) -> Packet | None:
        """The packet of the most tokens, at least `low`, at `quality` that fits; None where `low` do not.

        Sizes are nearly proportional to tokens, so the next guess lies on the line through the two ends;
        every other one halves, so that a bend costs no more than it must.
        """
        if not self._fits(quality, low):
            return None
        if self._fits(quality, self.most):
            return self._packet(quality, self.most)
        high, halve = self.most, False
        while high - low > 1:
            below, above = len(self._packet(quality, low)), len(self._packet(quality, high))
            share = 0.5 if halve else (self.max_bytes - below) / max(above - below, 1)
            guess = min(high - 1, max(low + 1, low + int(share * (high - low))))
            if self._fits(quality, guess):
                low = guess
            else:
                high = guess
            halve = not halve
        return self._packet(quality, low)
