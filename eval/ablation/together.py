"""Variants trained: codecs together on the same features, for which the tower runs once, or each alone."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval.ablation.variants import Variant
from tofc.errors import UserError
from tofc.training.codec import CodecRun
from tofc.training.codec_task import TaskModel
from tofc.training.data import picture_batches
from tofc.training.settings import TrainConfig


class SharedFeatures:
    """`TaskModel.merged` of the model that it was made for, remembering its last result."""

    def __init__(self, task: TaskModel) -> None:
        self._compute = task.merged
        self._last: tuple[Tensor, int | None, Tensor] | None = None

    def __call__(self, pixels: Tensor, tokens: int | None) -> Tensor:
        """Features [B, K, C] of pixels [B, 3, S, S], computed unless these were the last ones asked for."""
        if self._last is not None:
            known, layout, features = self._last
            if layout == tokens and known.shape == pixels.shape and torch.equal(known, pixels):
                return features
        features = self._compute(pixels, tokens)
        self._last = (pixels, tokens, features)
        return features


def train_together(
    config: TrainConfig, variants: dict[str, Variant], out: Path, console: Console
) -> dict[str, CodecRun]:
    """Trains the variants' codecs from equal pictures in equal order; returns their finished runs by name.

    A run interrupted before its end begins again. Raises UserError where the configuration trains more than
    the codec: with answers each variant has a model of its own, and nothing is shared.
    """
    if config.adapters is not None or config.total_steps is None or config.feature_steps < config.total_steps:
        raise UserError(
            "variants of the codec train from features alone: the configuration needs adapters: null and "
            "feature_steps as large as total_steps; for the others run tofc eval ablation answers"
        )
    runs = {name: CodecRun(each.change(config), out / name, console) for name, each in variants.items()}
    shared = SharedFeatures(next(iter(runs.values())).task)
    for run in runs.values():
        run.task.merged = shared  # type: ignore[method-assign]  # on this instance alone
    numbers = [
        range(step * config.batch_size, (step + 1) * config.batch_size) for step in range(config.total_steps)
    ]
    corpus = next(iter(runs.values())).corpus
    batches = picture_batches(corpus, "train", numbers, config.seed, config.data.num_workers)
    for examples in track(batches, "training the variants", total=len(numbers), console=console):
        for run in runs.values():
            run.train_step(examples)
            run.step += 1
    return runs


def train_alone(variant: Variant, config: TrainConfig, folder: Path, console: Console) -> CodecRun:
    """One variant with its own model; an interrupted training goes on."""
    console.print(f"[bold]{folder.name}[/bold]: {variant.title}")
    run = CodecRun(variant.change(config), folder, console, merge=variant.merge)
    run.run()
    return run
