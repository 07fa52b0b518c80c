"""How a token is chosen, and which of another model's drafts stand: the two policies of speculative decoding.

Greedy keeps a draft where it is the verifier's own likeliest token. Sampling keeps a draft x with probability
min(1, p(x) / q(x)), p the verifier's distribution and q the drafter's, and at the first one that falls draws
from the positive part of p - q: what comes out is distributed as p (AI Flow, arXiv 2506.12479, section II-B2;
Leviathan et al. 2023; Chen et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tofc.errors import UserError


@dataclass(frozen=True)
class Choice:
    """The likeliest token at temperature 0; else one drawn from those that `top_k` and `top_p` leave.

    temperature: at least 0; top_k: the likeliest so many, None for all; top_p: of these the fewest that make
    up this share, above 0 to 1; seed: makes what is drawn repeatable.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; give 0 (the likeliest token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}; give at least 1, or leave it out")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; give a share above 0, up to 1")

    def policy(self, stream: int = 0) -> Policy:
        """The policy; tiers that draw for themselves take different `stream`s of random numbers."""
        return Greedy() if self.temperature == 0 else Sampled(self, stream)

    def shares(self, logits: Tensor) -> Tensor:
        """Probabilities float64 [..., V] of logits [..., V]: temperature, then top_k, then top_p."""
        scores = logits.double() / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < least, -math.inf)
        shares = scores.softmax(-1)
        if self.top_p < 1:
            ordered, ids = shares.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered
            ordered = ordered.where(before < self.top_p, 0.0)  # the first always stays
            shares = torch.zeros_like(shares).scatter(-1, ids, ordered)
            shares = shares / shares.sum(-1, keepdim=True)
        return shares


class Policy(Protocol):
    """What the one loop asks when it chooses; `weighs_drafts`: whether it looks at the drafter's logits."""

    weighs_drafts: bool

    def draw(self, logits: Tensor) -> int:
        """The token that follows, from logits [V]."""

    def agrees(self, logits: Tensor, tokens: Sequence[int]) -> float:
        """How many of n tokens it would have drawn, on average, from logits [n, V]."""

    def verify(self, logits: Tensor, drafts: Sequence[int], drafter: Tensor | None) -> tuple[int, int]:
        """How many of n drafts stand, and the verifier's own token after those.

        logits: the verifier's, [n + 1, V]; drafter: the logits [n, V] from which the drafts were drawn, None
        where they are not known: then a draft stands with probability p, which is as exact, and keeps fewer.
        """


class Greedy:
    """The likeliest token, always."""

    weighs_drafts = False

    def draw(self, logits: Tensor) -> int:
        """The likeliest; the first where several are."""
        return int(logits.argmax(-1))

    def agrees(self, logits: Tensor, tokens: Sequence[int]) -> float:
        """Those that are the likeliest."""
        return sum(map(int.__eq__, logits.argmax(-1).tolist(), tokens))

    def verify(self, logits: Tensor, drafts: Sequence[int], drafter: Tensor | None) -> tuple[int, int]:
        """Drafts stand as long as they are what the verifier would have said."""
        said: list[int] = logits.argmax(-1).tolist()  # [n + 1]
        stand = next((i for i, d in enumerate(drafts) if d != said[i]), len(drafts))
        return stand, said[stand]


class Sampled:
    """Draws from `choice.shares`."""

    weighs_drafts = True

    def __init__(self, choice: Choice, stream: int = 0) -> None:
        self.choice = choice
        self._random = torch.Generator().manual_seed(choice.seed * 8 + stream)

    def draw(self, logits: Tensor) -> int:
        """One token, from logits [V]."""
        return int(drawn(self.choice.shares(logits.cpu())[None], self._random))

    def agrees(self, logits: Tensor, tokens: Sequence[int]) -> float:
        """The sum of their probabilities: so many stand where the verifier does not know the drafter."""
        chosen = torch.tensor(tokens, dtype=torch.int64)[:, None]
        return float(self.choice.shares(logits.cpu()).gather(-1, chosen).sum())

    def verify(self, logits: Tensor, drafts: Sequence[int], drafter: Tensor | None) -> tuple[int, int]:
        """Rejection sampling, draft by draft."""
        target = self.choice.shares(logits.cpu())  # [n + 1, V]
        tokens = torch.tensor(drafts, dtype=torch.int64)
        if drafter is None:
            proposal = functional.one_hot(tokens, target.shape[-1]).double()
        else:
            proposal = self.choice.shares(drafter.cpu())  # [n, V]
        chances = torch.rand(len(drafts), generator=self._random, dtype=torch.float64)
        keeps = kept(target[:-1], proposal, tokens, chances)  # [n]
        stand = len(drafts) if bool(keeps.all()) else int(keeps.logical_not().to(torch.int8).argmax())
        rest = target[-1:]
        if stand < len(drafts):
            rest = remainder(target[stand : stand + 1], proposal[stand : stand + 1])
        return stand, int(drawn(rest, self._random))


def kept(target: Tensor, proposal: Tensor, drafts: Tensor, chances: Tensor) -> Tensor:
    """Whether each draft stands, bool [n]: with probability min(1, p / q).

    target and proposal: p and q, [n, V]; drafts: int64 [n]; chances: uniform in [0, 1), [n].
    """
    p, q = (shares.gather(-1, drafts[:, None])[:, 0] for shares in (target, proposal))
    return chances * q < p


def remainder(target: Tensor, proposal: Tensor) -> Tensor:
    """The positive part of p - q, normalised, [n, V]: what follows a draft that fell."""
    rest = (target - proposal).clamp(min=0)
    total = rest.sum(-1, keepdim=True)
    # Equal distributions let no draft fall; where only rounding did, p itself is as good.
    return torch.where(total > 0, rest / total.clamp(min=1e-300), target)


def drawn(shares: Tensor, random: torch.Generator) -> Tensor:
    """One token int64 [n] from each row of probabilities [n, V]."""
    return torch.multinomial(shares, 1, generator=random)[:, 0]
