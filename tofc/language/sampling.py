"""How a token is chosen from logits: the likeliest, or one drawn from what `top_k` and `top_p` leave."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tofc.errors import UserError

_COLDEST = 1e-30  # smaller temperatures draw the same, and smaller numbers may count as 0


@dataclass(frozen=True)
class Sampling:
    """The likeliest token at temperature 0; else one drawn from those that `top_k` and `top_p` leave.

    temperature: at least 0; top_k: the likeliest so many, None for all; top_p: of these the fewest that make
    up this share, above 0 to 1; seed: makes what is drawn repeatable, None for any.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; give 0 (the likeliest token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}; give at least 1, or leave it out")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; give a share above 0, up to 1")

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0

    def generator(self) -> torch.Generator:
        """Random numbers of the seed, or of none."""
        found = torch.Generator()
        if self.seed is None:
            found.seed()
            return found
        return found.manual_seed(self.seed)

    def shares(self, logits: Tensor) -> Tensor:
        """Probabilities float64 [..., V] with which tokens are drawn from logits [..., V]."""
        if self.top_p == 1:
            return self._tempered(logits)
        shares, ids = self._nucleus(logits)
        found = torch.zeros_like(shares).scatter(-1, ids, shares)
        return found / found.sum(-1, keepdim=True)

    def draw(self, logits: Tensor, random: torch.Generator) -> int:
        """One token from logits [V]."""
        shares, ids = self._nucleus(logits.cpu())
        return int(ids[torch.multinomial(shares.float(), 1, generator=random)])

    def _tempered(self, logits: Tensor) -> Tensor:
        scores = logits.double()
        # Shifted first: whatever the temperature, the likeliest is at 0 and nothing overflows.
        scores = (scores - scores.amax(-1, keepdim=True)) / max(self.temperature, _COLDEST)
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < least, -math.inf)
        return scores.softmax(-1)

    def _nucleus(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Shares [..., V], the likeliest first and those that `top_p` leaves out 0, with their ids."""
        shares, ids = self._tempered(logits).sort(dim=-1, descending=True, stable=True)
        stays = shares.cumsum(-1) - shares < self.top_p
        stays[..., 0] = True  # also where a top_p too small for the processor counts as 0
        return shares.where(stays, 0.0), ids


GREEDY = Sampling()


def likeliest(logits: Tensor) -> tuple[list[int], list[float]]:
    """The likeliest token of each row of logits [B, V], and its probability."""
    tokens = logits.argmax(-1, keepdim=True)  # [B, 1]
    shares = logits.float().softmax(-1).gather(-1, tokens)
    return tokens[:, 0].tolist(), shares[:, 0].tolist()


def probability(logits: Tensor, token: int) -> float:
    """What the model itself gives a token, from logits [V]."""
    return float(logits.float().softmax(-1)[token])
