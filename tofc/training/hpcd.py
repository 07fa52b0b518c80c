"""`tofc train-familial CONFIG` with `hpcd`: hierarchical principal component decomposition.

A language model becomes a sum of low-rank components: every linear layer of every block has K of one rank.
The first is the whitened decomposition of the weight; each further one that of what the components before it
leave over, once these are trained and frozen. Every stage trains one: first each in turn, then each again at
a low rate (the paper's supervised fine-tuning). The first k of them are a model: leading ranks, so that the
whole is a `Branch` behind block 0 whose members are its shares k / K. Source: AI Flow (arXiv 2506.12479),
section III-B1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.optim import AdamW, Optimizer

from tofc.errors import UserError
from tofc.familial.branches import Branch, LowRankLinear, decomposed_block
from tofc.familial.decomposition import Covariance, Whitening, decompose, linears, rank_for_ratio
from tofc.familial.members import Member
from tofc.language.model import text_model
from tofc.training.data import Example
from tofc.training.family import FamilyRun, watch_blocks
from tofc.training.family_settings import FamilyConfig, HpcdConfig
from tofc.training.optimizers import group_of, warm_up

TUNED_TO = 0.2  # of the rate of tuning at its end: 1e-6 of 5e-6

Covariances = Mapping[int, Mapping[str, Covariance]]


class Components:
    """The components of a language model while they are fitted; `branch` is what comes of them.

    `covariances` are those of every block's inputs (`watch_inputs` over all of them); `ratio` is the size of
    all `count` components together over that of the layers that they replace.
    """

    def __init__(
        self, model: Any, covariances: Covariances, count: int, ratio: float = 1.0, name: str = "h"
    ) -> None:
        self.model, self.count = model, count
        text = text_model(model)
        blocks, self._layers = [], []
        for number, block in enumerate(text.layers):
            whitening = {n: Whitening.of(covariances[number][n]) for n in linears(block)}
            ranks = {n: count * _component_rank(layer, count, ratio) for n, layer in linears(block).items()}
            spectra = {n: decompose(layer.weight, whitening[n]) for n, layer in linears(block).items()}
            new = decomposed_block(block, spectra, ranks)
            blocks.append(new)
            for n, layer in linears(block).items():
                low_rank: Any = new.get_submodule(n)
                self._layers.append((layer.weight.detach(), whitening[n], low_rank))
        shares = [number / count for number in range(1, count + 1)]
        self.branch = Branch(name, 0, blocks, shares).requires_grad_(False)
        for _, _, low_rank in self._layers:
            # Later components come from what is left over then; until they are begun they are nothing.
            low_rank.down.data[low_rank.rank // count :] = 0
            low_rank.up.data[low_rank.rank // count :] = 0

    @torch.no_grad()
    def begin(self, number: int) -> None:
        """Starts component `number` (from 1) as the whitened decomposition of what is left over."""
        if not 1 <= number <= self.count:
            raise UserError(f"there is no component {number}; there are 1 to {self.count}")
        for weight, whitening, layer in self._layers:
            rows = self._rows(layer, number)
            before = layer.up[: rows.start].double().T @ layer.down[: rows.start].double()  # [m, n]
            left_over = decompose(weight.double().cpu() - before.cpu(), whitening)
            up, down = left_over.factors(rows.stop - rows.start)
            layer.up[rows], layer.down[rows] = up.to(layer.up), down.to(layer.down)

    def parameters(self) -> list[nn.Parameter]:
        """What is learned of all components: two matrices a layer."""
        return [p for _, _, layer in self._layers for p in (layer.down, layer.up)]

    def rows_of(self, number: int) -> list[tuple[nn.Parameter, slice]]:
        """Each of `parameters` with the rows that belong to a component."""
        return [
            (p, self._rows(layer, number)) for _, _, layer in self._layers for p in (layer.down, layer.up)
        ]

    def _rows(self, layer: LowRankLinear, number: int) -> slice:
        """The ranks that belong to a component."""
        size = layer.rank // self.count
        return slice((number - 1) * size, number * size)


def _component_rank(layer: nn.Linear, count: int, ratio: float) -> int:
    whole = rank_for_ratio(layer.out_features, layer.in_features, ratio)
    if whole < count:
        raise UserError(f"{count} components are too many: a layer has room for rank {whole} in all")
    return whole // count


def run(config: FamilyConfig, folder: Path, console: Console) -> Path:
    """Trains branches or components, or goes on where an interrupted run saved, and writes the checkpoint.

    It goes into `folder`, which is returned; the run's own files (state, log, TensorBoard events) are in
    `folder`-run. Raises UserError where the base cannot be read or does not fit the configuration.
    """
    kind = FamilyRun if config.hpcd is None else HpcdRun
    return kind(config, folder.parent / f"{folder.name}-run", console).train(folder)


class HpcdRun(FamilyRun):
    """The components learn, one at a time."""

    rates = "adamw_lr"
    components: Components

    @property
    def hpcd(self) -> HpcdConfig:
        """The recipe's own part."""
        assert self.config.hpcd is not None  # `run` chooses
        return self.config.hpcd

    def make_branches(self) -> list[Branch]:
        """All components in one branch behind no block; those not begun are nothing yet."""
        model = self.task.grounded.model
        numbers = range(len(text_model(model).layers))
        seen = watch_blocks(self.task, self.packer, self.corpus, self.config, numbers)
        self.components = Components(model, seen, self.hpcd.components, self.hpcd.ratio)
        self.components.branch.float()
        for parameter in self.components.parameters():
            parameter.requires_grad_()
        return [self.components.branch]

    def make_optimizers(self) -> list[Optimizer]:
        """AdamW with the paper's moments; the decay of weights is that of one component alone."""
        group = group_of(self.components.parameters(), self.config.adamw_lr)
        return [AdamW([group], betas=(0.9, 0.95), weight_decay=0.0)]

    def stage(self) -> tuple[int, int, int, bool]:
        """Component (from 1), step within the stage, steps of the stage, and whether it is tuned."""
        first = self.hpcd.components * self.hpcd.steps
        tuned = self.step >= first
        length = self.hpcd.tuning_steps if tuned else self.hpcd.steps
        number, at = divmod(self.step - first if tuned else self.step, length)
        return number + 1, at, length, tuned

    def choose(self) -> list[Member]:
        """The first components up to the one that learns."""
        (branch,) = self.branches
        number = self.stage()[0]
        return [
            next(m for m in self.roster if m.branch == branch.name and m.ratio == branch.ratios[number - 1])
        ]

    def backward(self, examples: list[Example]) -> dict[str, float]:
        """Gradients of one step; a stage begins with its component, and no moments of others."""
        number, at, _, tuned = self.stage()
        if at == 0:
            if not tuned:
                self.components.begin(number)
            for optimizer in self._inner_optimizers():
                optimizer.state.clear()
        return super().backward(examples)

    @torch.no_grad()
    def finish_gradients(self) -> None:
        """Leaves one component its gradient, and decays its weights."""
        number = self.stage()[0]
        keep = 1 - self.config.weight_decay * self.config.adamw_lr * self.decay()
        for parameter, rows in self.components.rows_of(number):
            gradient: Any = parameter.grad
            gradient[: rows.start], gradient[rows.stop :] = 0, 0
            parameter[rows] *= keep

    def decay(self) -> float:
        """Factor on the learning rate: a cosine in each stage, down to a share of its peak."""
        _, at, length, tuned = self.stage()
        peak, final = 1.0, self.hpcd.final
        if tuned:
            peak, final = self.hpcd.tuning_lr / self.config.adamw_lr, TUNED_TO
        fall = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * at / length))
        return peak * fall * (1.0 if tuned else warm_up(at, self.config.warmup_steps))
