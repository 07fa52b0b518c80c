"""The variants: a training configuration with one part changed; trained together or each alone.

Codecs train together on the same features, for which the tower runs once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from tofc.errors import UserError
from tofc.training.codec import CodecRun
from tofc.training.codec_task import TaskModel
from tofc.training.data import picture_batches
from tofc.training.forward import Merge
from tofc.training.settings import TrainConfig


@dataclass(frozen=True)
class Variant:
    """One row of the ablation: what it says it is, the change, and the merging where that is not DPC-KNN."""

    title: str
    change: Callable[[TrainConfig], TrainConfig]
    merge: Merge | None = None


def random_tokens(features: Tensor, tokens: int) -> Tensor:
    """Keeps some tokens of each picture, drawn evenly, and no other: [B, N, C] to [B, K, C].

    The draw depends on the picture alone, so that each is seen in the same way again.
    """
    kept = []
    for picture in features.detach().float().cpu().numpy():
        draws = np.random.default_rng(zlib.crc32(picture.tobytes()))
        kept.append(np.sort(draws.choice(len(picture), min(tokens, len(picture)), replace=False)))
    index = torch.from_numpy(np.stack(kept)).to(features.device)
    return features.gather(1, index[..., None].expand(-1, -1, features.shape[2]))


def _same(config: TrainConfig) -> TrainConfig:
    return config


def _codec(**changes: object) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, codec=replace(config.codec, **changes))  # type: ignore[arg-type]  # checked by CodecConfig


def _merged_to(tokens: int | str, way: str = "dpc_knn") -> Callable[[TrainConfig], TrainConfig]:
    def change(config: TrainConfig) -> TrainConfig:
        merging = replace(config.checkpoint.merging, tokens=tokens, way=way)
        return replace(
            config, tokens={str(tokens): 1.0}, checkpoint=replace(config.checkpoint, merging=merging)
        )

    return change


def _single(level: int) -> Callable[[TrainConfig], TrainConfig]:
    """A codec for one rate alone: the step and the rate weight of one level of the configuration."""

    def change(config: TrainConfig) -> TrainConfig:
        weight = config.rate_weights()[level - 1]
        return replace(
            config,
            codec=replace(config.codec, steps=(config.codec.steps[level - 1],)),
            rate_weight=(weight, weight),
            checkpoint=replace(config.checkpoint, default_quality=1),
        )

    return change


POOLED = 49  # blocks of 2 x 2 of the 14 x 14 patches of scenes-tiny

_FULL = Variant("everything: 4 entropy models, hyperprior, balance loss, DPC-KNN, LoRA", _same)
_SEED = Variant("the same with another seed", lambda config: replace(config, seed=config.seed + 1))

# Parts of the entropy coding: they show in the bytes of equal features, whatever reads these.
CODEC_VARIANTS: dict[str, Variant] = {
    "full": _FULL,
    "seed": _SEED,
    "experts_1": Variant("one entropy model", _codec(experts=1)),
    "experts_8": Variant("8 entropy models", _codec(experts=8)),
    "no_hyperprior": Variant("no hyperprior", _codec(hyperprior=False)),
    "factorised": Variant(
        "factorised: one entropy model, no hyperprior", _codec(experts=1, hyperprior=False)
    ),
    "no_balance": Variant("no balance loss", lambda config: replace(config, balance=0.0)),
    "single_2": Variant("a codec for quality 2 alone", _single(2)),
    "single_4": Variant("a codec for quality 4 alone", _single(4)),
    "single_6": Variant("a codec for quality 6 alone", _single(6)),
}

# Parts that change what the language model reads: only its answers can tell.
ANSWER_VARIANTS: dict[str, Variant] = {
    "full": _FULL,
    "seed": _SEED,
    "frozen": Variant("base model frozen", lambda config: replace(config, adapters=None)),
    "dpc_49": Variant(f"DPC-KNN to {POOLED} tokens", _merged_to(POOLED)),
    "spread_49": Variant(f"DPC-KNN with spread centres to {POOLED} tokens", _merged_to(POOLED, "spread")),
    "pooled_49": Variant(f"uniform pooling to {POOLED} tokens", _merged_to(POOLED, "blocks")),
    "random_49": Variant(f"{POOLED} random tokens", _merged_to(POOLED), merge=random_tokens),
    "unmerged": Variant("no merging: all tokens", _merged_to("all")),
}


def _set(**changes: object) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, **changes)  # type: ignore[arg-type]  # checked by TrainConfig


def _paper(config: TrainConfig) -> TrainConfig:
    """Every term as in configs/paper.yaml, tuning the tower too."""
    adapters = None if config.adapters is None else replace(config.adapters, tower=True)
    terms = _set(feature_weight=0.0, feature_steps=0, end_weight=1.0, beta2=0.999, uncoded_share=0.0)
    return replace(terms(config), adapters=adapters)


# Terms of the training that the paper does not have, each set to the paper's value, then all of them.
TERM_VARIANTS: dict[str, Variant] = {
    "full": Variant("our terms", _same),
    "seed": _SEED,
    "no_feature_term": Variant("no squared error of the features", _set(feature_weight=0.0)),
    "no_feature_steps": Variant("answers from the first step", _set(feature_steps=0)),
    "end_weight": Variant("ends of answers weigh as much as words", _set(end_weight=1.0)),
    "beta2": Variant("AdamW with its authors' beta2", _set(beta2=0.999)),
    "coded_only": Variant("no uncoded steps", _set(uncoded_share=0.0)),
    "paper": Variant("the paper's terms, and its tower learns too", _paper),
}

PARTS = {"codec": CODEC_VARIANTS, "answers": ANSWER_VARIANTS, "terms": TERM_VARIANTS}


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
