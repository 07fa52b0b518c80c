"""Muon for the matrices inside the blocks, AdamW for all the rest, one schedule for both."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer


@dataclass(frozen=True)
class OptimizerConfig:
    """Learning rates and their course.

    `muon_lr` is in AdamW's units (updates are rescaled to AdamW's RMS). The rate warms up over
    `warmup_steps`, stays, and falls linearly from `decay_from` (a fraction of all steps) to `final_lr_ratio`.
    Once questions are asked it is scaled by `answer_ratio`, and that of the tower by `tower_ratio` as well: a
    language model cannot learn to read features that move faster than it does. With a `tower_ratio` of 0 the
    tower stands still from the first question on, and no dense loss is computed.
    """

    muon_lr: float = 2e-3
    adamw_lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 60
    decay_from: float = 0.4
    final_lr_ratio: float = 0.02
    answer_ratio: float = 0.3
    tower_ratio: float = 0.3
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay_from < 1.0:
            raise ValueError(f"decay_from is {self.decay_from}: give a fraction of all steps in [0, 1)")


def build_optimizers(named: list[tuple[str, nn.Parameter]], config: OptimizerConfig) -> list[Optimizer]:
    """[Muon, AdamW] over `named`: Muon takes the 2-D weights of numbered layers and of the projector.

    Each has the tower's parameters in groups of their own, marked by the key "tower".
    """
    matrices = [(name, p) for name, p in named if p.ndim == 2 and (".layers." in name or "projector" in name)]
    chosen = {id(p) for _, p in matrices}
    others = [(name, p) for name, p in named if id(p) not in chosen]
    return [
        Muon(
            _groups(matrices),
            lr=config.muon_lr,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        AdamW(_groups(others), lr=config.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _groups(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    runs = groupby(named, key=lambda item: ".vision_tower." in item[0])
    return [{"params": [p for _, p in run], "tower": tower} for tower, run in runs]


def lr_ratio(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Factor on the learning rates at `step` of `total_steps`."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay_start = config.decay_from * total_steps
    if step <= decay_start:
        return warm
    left = (total_steps - step) / max(1.0, total_steps - decay_start)
    return warm * (config.final_lr_ratio + (1.0 - config.final_lr_ratio) * max(0.0, left))


def set_learning_rates(
    optimizers: list[Optimizer], ratio: float, asking: bool, config: OptimizerConfig
) -> None:
    """Sets both optimizers' rates to `ratio` of their peaks, lower where `asking` (questions are asked)."""
    for optimizer, peak in zip(optimizers, (config.muon_lr, config.adamw_lr), strict=True):
        for group in optimizer.param_groups:
            part = config.tower_ratio if group["tower"] else 1.0
            group["lr"] = peak * ratio * (config.answer_ratio * part if asking else 1.0)
