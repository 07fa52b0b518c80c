"""A linear layer as the product of two, readable at any smaller rank without a copy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tofc.errors import UserError
from tofc.familial.decomposition import Spectrum


class LowRankLinear(nn.Module):
    """y = W_u W_v x + bias with W_v = `down` [h, n] and W_u = `up`^T, `up` [h, m].

    Both hold the leading component in their first row, so that a smaller rank is the beginning of either: in
    memory, and in a file. `rank` says how many rows take part, `complete` how many the layer has where all
    of it was read.
    """

    def __init__(self, down: Tensor, up: Tensor, bias: Tensor | None, complete: int | None = None) -> None:
        super().__init__()
        if len(down) != len(up):
            raise ValueError(f"down has {len(down)} ranks, up has {len(up)}")
        self.down, self.up = _parameter(down), _parameter(up)
        self.bias = None if bias is None else _parameter(bias)
        self.rank = len(down)
        self.complete = complete or len(down)

    @classmethod
    def from_linear(cls, linear: nn.Linear, spectrum: Spectrum, rank: int) -> LowRankLinear:
        """The leading `rank` components of a layer, in its own type and on its device."""
        up, down = spectrum.factors(rank)
        weight = linear.weight
        bias = None if linear.bias is None else linear.bias.detach().clone()
        return cls(down.to(weight), up.to(weight), bias)

    @property
    def in_features(self) -> int:
        """Width n of the inputs."""
        return self.down.shape[1]

    @property
    def out_features(self) -> int:
        """Width m of the outputs."""
        return self.up.shape[1]

    def at_rank(self, rank: int) -> LowRankLinear:
        """A layer of a smaller rank around the same tensors; UserError where there is no such rank."""
        if not 1 <= rank <= len(self.down):
            raise UserError(f"there is no rank {rank}: this layer has 1 to {len(self.down)}")
        view = LowRankLinear(self.down, self.up, self.bias, self.complete)
        view.rank = rank
        return view

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., n] to [..., m]."""
        hidden = functional.linear(inputs, self.down[: self.rank])
        return functional.linear(hidden, self.up[: self.rank].T, self.bias)

    def extra_repr(self) -> str:
        """What printing shows."""
        return f"{self.in_features}, {self.out_features}, rank={self.rank} of {len(self.down)}"


def _parameter(tensor: Tensor) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=torch.is_floating_point(tensor))
