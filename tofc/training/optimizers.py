"""Muon for the matrices inside the blocks, AdamW for all the rest; groups know their highest rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from tofc.errors import UserError

Named = Sequence[tuple[str, nn.Parameter]]


def build_optimizers(named: Named, muon_lr: float, adamw_lr: float, weight_decay: float) -> list[Optimizer]:
    """[Muon, AdamW] over `named`: Muon takes the 2-D weights of numbered layers and of the projector.

    `muon_lr` is in AdamW's units (updates are rescaled to AdamW's RMS). Each has the tower's parameters in
    groups of their own, marked by the key "tower".
    """
    matrices = [(name, p) for name, p in named if p.ndim == 2 and (".layers." in name or "projector" in name)]
    chosen = {id(p) for _, p in matrices}
    others = [(name, p) for name, p in named if id(p) not in chosen]
    return [
        Muon(_groups(matrices, muon_lr), weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        AdamW(_groups(others, adamw_lr), betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _groups(named: Named, peak: float) -> list[dict[str, Any]]:
    runs = groupby(named, key=lambda item: ".vision_tower." in item[0])
    return [{**group_of([p for _, p in run], peak), "tower": tower} for tower, run in runs]


def group_of(parameters: Sequence[nn.Parameter], peak: float) -> dict[str, Any]:
    """A group of an optimiser with its highest learning rate, "peak"."""
    return {"params": parameters, "lr": peak, "peak": peak}


def warm_up(step: int, steps: int) -> float:
    """Factor on learning rates in the first `steps` of a run."""
    return min(1.0, (step + 1) / max(1, steps))


def cosine_decay(step: int, total_steps: int) -> float:
    """Factor on learning rates that falls to zero along a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * (step / total_steps)))


def late_decay(step: int, total_steps: int, begin: float, final: float = 0.02) -> float:
    """Factor on learning rates that stays 1 up to `begin`, a share of all steps, and falls to `final`."""
    start = begin * total_steps
    if step <= start:
        return 1.0
    left = (total_steps - step) / max(1.0, total_steps - start)
    return final + (1.0 - final) * max(0.0, left)


def diverged(step: int, what: str, rates: str) -> UserError:
    """Says at which step a run left the numbers, and what to lower."""
    return UserError(
        f"step {step}: {what} is not finite, so the run has diverged; its last state is kept. Lower {rates}, "
        "or raise warmup_steps, and run it again; remove state.safetensors to begin anew"
    )
