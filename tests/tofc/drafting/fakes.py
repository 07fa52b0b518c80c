"""Models that are tables, and a link that cuts, delays and repeats what it carries."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tofc.drafting.rounds import LinkDown, Round, Verdict

QUESTION = "Describe the picture."
VOCABULARY = 12
END = 11
ENDS = frozenset([END])
MOST = 40
_PHASES = 5


@dataclass
class Table:
    """Logits of the next token, by the token before it and the position."""

    logits: Tensor  # [_PHASES, VOCABULARY, VOCABULARY]
    passes: int = 0

    def __call__(self, tokens: Sequence[int], last: int = 1) -> Tensor:
        self.passes += 1
        places = range(len(tokens) - last + 1, len(tokens) + 1)
        return torch.stack([self.logits[p % _PHASES, tokens[p - 1] if p else 0] for p in places])


def verifier(seed: int = 0) -> Table:
    logits = torch.randn(
        _PHASES, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    logits[:, :, END] -= 2.0  # answers of some length
    return Table(logits)


def drafter(kind: str, of: Table, seed: int = 0) -> Table:
    """One whose greedy drafts are never, sometimes or always what `of` says."""
    if kind == "always":
        return Table(of.logits)
    if kind == "never":
        return Table(-of.logits)
    noise = torch.randn(
        of.logits.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    return Table(of.logits + 0.6 * noise)


def alone(of: Table) -> list[int]:
    """What a table says greedily, by itself."""
    tokens: list[int] = []
    while len(tokens) < MOST and (not tokens or tokens[-1] != END):
        tokens.append(int(of(tokens)[0].argmax()))
    return tokens


@dataclass
class FlakyLink:
    """Passes rounds on as bytes; `trouble` is the share of them that something happens to."""

    check: Callable[[Round], Verdict]
    random: random.Random
    trouble: float
    late: list[bytes] = field(default_factory=list)  # rounds on the way
    heard: list[bytes] = field(default_factory=list)  # verdicts so far
    carried: int = 0

    def __call__(self, round: Round) -> Verdict:
        data = bytes(round)
        fate = self.random.choice(["lost", "deaf", "twice", "late", "old"])
        if self.random.random() >= self.trouble:
            fate = "good"
        self.carried += len(data)
        while self.late and self.random.random() < 0.5:  # what was held up arrives now
            self.check(Round.from_bytes(self.late.pop(self.random.randrange(len(self.late)))))
        if fate == "lost":
            raise LinkDown
        if fate == "late":
            self.late.append(data)
            raise LinkDown
        answer = bytes(self.check(Round.from_bytes(data)))
        if fate == "twice":
            answer = bytes(self.check(Round.from_bytes(data)))
        self.heard.append(answer)
        if fate == "deaf":
            raise LinkDown
        if fate == "old":
            answer = self.random.choice(self.heard)
        return Verdict.from_bytes(answer)
