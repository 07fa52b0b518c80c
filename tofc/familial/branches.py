"""Branches: what stands between an exit layer and the language model's head, and views that share weights.

Their linear layers may be products of two matrices, readable at any smaller rank without a copy. Source: AI
Flow (arXiv 2506.12479), sections III-A2 and III-B2 (early exiting with scalable branches).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tofc.errors import UserError
from tofc.familial.decomposition import Spectrum, linears, rank_for_ratio
from tofc.familial.members import kept_rank
from tofc.language.model import text_model


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


class Branch(nn.Module):
    """Blocks that follow after `exit_layer` blocks of the main model; what is not brought is shared.

    `ratios` are the shares of the blocks' ranks that members take, 1 for the complete branch. `norm` and
    `head` are None where the main model's serve. A branch without blocks is a direct early exit.
    """

    def __init__(
        self,
        name: str,
        exit_layer: int,
        blocks: Sequence[nn.Module],
        ratios: Sequence[float] = (1.0,),
        norm: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.name, self.exit_layer = name, exit_layer
        self.ratios = tuple(sorted(ratios))
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = norm, head
        for number, block in enumerate(self.blocks):
            attention: Any = block.self_attn
            attention.layer_idx = exit_layer + number  # its place in the cache, behind the shared blocks

    def at(self, ratio: float) -> list[nn.Module]:
        """The blocks with the leading share `ratio` of each rank; nothing is copied."""
        return [_at_ratio(block, ratio) for block in self.blocks]


def decomposed_block(
    block: nn.Module, spectra: Mapping[str, Spectrum], ranks: Mapping[str, int] | None = None
) -> nn.Module:
    """A decoder block of its own with decomposed linear layers, after `block`, whose norms it copies.

    `ranks` by layer; left out, as many parameters as the original layer has: h (n + m) <= n m.
    """
    new = copy.deepcopy(block)
    for name, linear in linears(block).items():
        complete = rank_for_ratio(linear.out_features, linear.in_features, 1.0)
        rank = complete if ranks is None else ranks[name]
        new.set_submodule(name, LowRankLinear.from_linear(linear, spectra[name], rank))
    return new


def _at_ratio(module: nn.Module, ratio: float) -> nn.Module:
    """The module tree again, around the same tensors, with every low-rank layer at `ratio` of its ranks."""
    if isinstance(module, LowRankLinear):
        return module.at_rank(kept_rank(module.complete, ratio))
    view = shallow_copy(module)
    for name, child in module._modules.items():
        view._modules[name] = None if child is None else _at_ratio(child, ratio)
    return view


def shallow_copy(module: Any) -> Any:
    """A module with its own table of children and the same children, parameters and buffers."""
    view = copy.copy(module)
    for table in ("_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks"):
        setattr(view, table, copy.copy(getattr(module, table)))
    return view


def member_model(model: Any, branch: Branch, ratio: float = 1.0) -> Any:
    """The first blocks of `model`, then the branch: a stock model that shares every weight it can.

    It generates, caches and is called like `model`, of which it is a view: what is trained or moved in one
    is so in the other. `model` may have been cut off behind the exit layer.
    """
    text = text_model(model)
    if branch.exit_layer > len(text.layers):
        raise UserError(
            f"branch {branch.name} exits after block {branch.exit_layer}, the model has {len(text.layers)}"
        )
    layers = [*text.layers[: branch.exit_layer], *branch.at(ratio)]
    view, view_text = shallow_copy(model), shallow_copy(text)
    view.config = copy.deepcopy(model.config)
    config = view.config.get_text_config()
    kinds = list(getattr(config, "layer_types", None) or ["full_attention"] * len(text.layers))
    config.num_hidden_layers = len(layers)
    config.layer_types = [*kinds, *kinds[-1:] * len(branch.blocks)][: len(layers)]
    view_text.config = config
    view_text.layers = nn.ModuleList(layers)
    if branch.norm is not None:
        view_text.norm = branch.norm
    if branch.head is not None:
        view.lm_head = branch.head
    if text is model.model:
        view.model = view_text
    else:
        view.model = shallow_copy(model.model)
        view.model.config = view.config
        view.model.language_model = view_text
    return view


def direct_exit(exit_layer: int) -> Branch:
    """No branch at all: norm and head on the state after `exit_layer` blocks, the baseline of figure 9."""
    return Branch(f"direct{exit_layer}", exit_layer, ())


def count_parameters(*modules: nn.Module | None) -> int:
    """Parameters of modules, shared ones once, low-rank layers at the rank they are read at."""
    seen: dict[int, int] = {}
    for module in modules:
        for part in module.modules() if module is not None else ():
            for parameter in part._parameters.values():
                if parameter is not None:
                    used = parameter.numel()
                    if isinstance(part, LowRankLinear) and parameter is not part.bias:
                        used = part.rank * parameter.shape[1]
                    seen[id(parameter)] = max(seen.get(id(parameter), 0), used)
    return sum(seen.values())


def on_device_of(branch: Branch, model: Any) -> Branch:
    """The branch where `model` computes, in its type; frozen and in evaluation mode."""
    weight: torch.Tensor = text_model(model).norm.weight
    return branch.to(device=weight.device, dtype=weight.dtype).eval().requires_grad_(False)
