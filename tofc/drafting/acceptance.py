"""Which of another model's drafts stand: the two rules of speculative decoding.

Greedy keeps a draft where it is the verifier's own likeliest token. Sampling keeps a draft x with probability
min(1, p(x) / q(x)), p the verifier's distribution and q the drafter's, and at the first one that falls draws
from the positive part of p - q: what comes out is distributed as p (AI Flow, arXiv 2506.12479, section II-B2;
Leviathan et al. 2023; Chen et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tofc.language.sampling import Sampling


class Rule(Protocol):
    """What drafters and verifiers ask; `weighs_drafts`: whether it looks at the drafter's logits."""

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


def rule_of(sampling: Sampling, stream: int = 0) -> Rule:
    """The rule; tiers that draw for themselves take different `stream`s of random numbers."""
    return Greedy() if sampling.is_greedy else Sampled(sampling, stream)


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
    """Draws from `sampling.shares`, with seed 0 where it names none."""

    weighs_drafts = True

    def __init__(self, sampling: Sampling, stream: int = 0) -> None:
        self.sampling = sampling
        self._random = torch.Generator().manual_seed((sampling.seed or 0) * 8 + stream)

    def draw(self, logits: Tensor) -> int:
        """One token, from logits [V]."""
        return int(drawn(self.sampling.shares(logits.cpu())[None], self._random))

    def agrees(self, logits: Tensor, tokens: Sequence[int]) -> float:
        """The sum of their probabilities: so many stand where the verifier does not know the drafter."""
        chosen = torch.tensor(tokens, dtype=torch.int64)[:, None]
        return float(self.sampling.shares(logits.cpu()).gather(-1, chosen).sum())

    def verify(self, logits: Tensor, drafts: Sequence[int], drafter: Tensor | None) -> tuple[int, int]:
        """Rejection sampling, draft by draft."""
        target = self.sampling.shares(logits.cpu())  # [n + 1, V]
        tokens = torch.tensor(drafts, dtype=torch.int64)
        if drafter is None:
            proposal = functional.one_hot(tokens, target.shape[-1]).double()
        else:
            proposal = self.sampling.shares(drafter.cpu())  # [n, V]
        chances = torch.rand(len(drafts), generator=self._random, dtype=torch.float64)
        accepts = accepted(target[:-1], proposal, tokens, chances)  # [n]
        stand = len(drafts) if bool(accepts.all()) else int(accepts.logical_not().to(torch.int8).argmax())
        rest = target[-1:]
        if stand < len(drafts):
            rest = remainder(target[stand : stand + 1], proposal[stand : stand + 1])
        return stand, int(drawn(rest, self._random))


def accepted(target: Tensor, proposal: Tensor, drafts: Tensor, chances: Tensor) -> Tensor:
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
