"""`tofc train-familial CONFIG` with `hpcd`: components of a language model, fitted one after another.

Every stage trains one component, those before it frozen: first each from what the components before it leave
over, then each again at a low rate (the paper's supervised fine-tuning). Source: AI Flow (arXiv 2506.12479),
section III-B1.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.optim import AdamW, Optimizer

from tofc.familial.branches import Branch
from tofc.familial.hpcd import BETAS, Components
from tofc.familial.members import Member
from tofc.language.model import text_model
from tofc.training.data import Example
from tofc.training.family import FamilyRun, watch_blocks
from tofc.training.family import run as run_branches
from tofc.training.family_settings import FamilyConfig, HpcdConfig
from tofc.training.optimizers import group_of, warm_up

TUNED_TO = 0.2  # of the rate of tuning at its end: 1e-6 of 5e-6


def run(config: FamilyConfig, folder: Path, console: Console) -> Path:
    """Trains branches or components, as the configuration says; otherwise as `tofc.training.family.run`."""
    if config.hpcd is None:
        return run_branches(config, folder, console)
    return HpcdRun(config, folder.parent / f"{folder.name}-run", console).train(folder)


class HpcdRun(FamilyRun):
    """The components learn, one at a time."""

    rates = "adamw_lr"
    components: Components

    @property
    def hpcd(self) -> HpcdConfig:
        """The recipe's own part."""
        assert self.config.hpcd is not None  # `tofc.training.family.run` chooses
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
        return [AdamW([group], betas=BETAS, weight_decay=0.0)]

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
