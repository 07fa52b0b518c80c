"""`tofc train CONFIG`: fit the codec to a trained base model, and bind both into a checkpoint.

The distortion is task-oriented to second order: near the true features the language model's cross-entropy
grows as the quadratic form of its expected squared gradient (the Fisher matrix over channels). That matrix,
mixed with the identity, weighs the codec's squared error. The answers are the corpus' own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoProcessor, LlavaOnevisionForConditionalGeneration

from encoders.merging import dpc_knn, merge_tokens
from entropy import FeatureCodec
from tofc.config import CheckpointConfig
from tofc.errors import UserError
from tofc.model import save_checkpoint
from tofc.training.codec import WEIGHTS_NAME, CodecTrainingConfig, train_codec
from tofc.training.data import DataConfig, GroundedCorpus, GroundedPicture, load_corpus
from tofc.training.grounded import GroundedModel
from tofc.training.packing import Packer

BATCH = 16


@dataclass(frozen=True)
class TrainConfig:
    """A codec for a base model.

    `base` is a LLaVA-OneVision folder or hub id. The codec learns from `num_pictures` pictures of the corpus'
    training split, merged to each of `tokens` in turn. `plain_share` in (0, 1] is how much of the distortion
    is plain squared error; the rest is the task's. `checkpoint` is what the checkpoint says of itself.
    """

    base: str
    data: DataConfig = field(default_factory=DataConfig)
    num_pictures: int = 1600
    tokens: tuple[int, ...] = (64, 32, 64, 196)
    plain_share: float = 0.1
    codec: CodecTrainingConfig = field(default_factory=CodecTrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        if self.num_pictures < BATCH or not self.tokens or min(self.tokens) < 1:
            raise ValueError(
                f"give num_pictures of at least {BATCH}, and at least one positive number in tokens"
            )
        if not 0.0 < self.plain_share <= 1.0:
            raise ValueError(f"plain_share is {self.plain_share}: give a share in (0, 1]")


@dataclass(frozen=True)
class CodecMaterial:
    """What the codec learns from: merged features [K_i, C] by picture, and the distortion's [C, C] weight."""

    features: list[Tensor]
    weight: Tensor


def run(config: TrainConfig, folder: Path, console: Console) -> Path:
    """Collects features, trains the codec and writes the checkpoint into `folder`; returns it.

    Raises UserError where the base model cannot be read.
    """
    try:
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(config.base, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(config.base)
    except OSError as error:
        raise UserError(
            f"base {config.base!r} cannot be read ({error}); train it first, e.g. tofc pretrain scenes-tiny"
        ) from error
    packer = Packer(processor.tokenizer, processor.image_token)
    with console.status("collecting features and the task's sensitivity to them"):
        material = collect(GroundedModel(model).eval(), packer, config)
    work = folder.parent / f"{folder.name}-codec"
    train_codec(material.features, config.codec, work, distortion_weight=material.weight, console=console)
    return save_checkpoint(
        folder,
        config.base,
        FeatureCodec.load(work),
        config.checkpoint,
        codec_weights=load_file(work / WEIGHTS_NAME),
    )


def collect(grounded: GroundedModel, packer: Packer, config: TrainConfig) -> CodecMaterial:
    """Merged features of the training split, and the weight that their errors carry for the answers."""
    grounded.requires_grad_(False)
    features: list[Tensor] = []
    fisher: Tensor | None = None
    for number, pictures in enumerate(
        _batches(load_corpus(config.data.source, **config.data.options), config)
    ):
        tokens = config.tokens[number % len(config.tokens)]
        seen = grounded.features(pictures, torch.device("cpu"))
        if tokens < seen.shape[1]:
            seen = merge_tokens(seen, dpc_knn(seen, tokens, k=config.checkpoint.merging.neighbours))[0]
        features.extend(seen)
        merged = seen.clone().requires_grad_()
        packed = packer.pack([picture.turns for picture in pictures])
        loss = grounded.answers(grounded.visual_embeddings(merged, merged.shape[1]), packed).loss
        (gradient,) = torch.autograd.grad(loss, merged)
        flat = gradient.flatten(0, 1).double()
        fisher = flat.T @ flat if fisher is None else fisher + flat.T @ flat
    assert fisher is not None  # num_pictures is at least one batch
    width = fisher.shape[0]
    task = fisher * (width / fisher.trace().clamp(min=1e-30))
    plain = torch.eye(width, dtype=torch.float64)
    return CodecMaterial(features, (1.0 - config.plain_share) * task + config.plain_share * plain)


def _batches(corpus: GroundedCorpus, config: TrainConfig) -> Iterator[list[GroundedPicture]]:
    for start in range(0, config.num_pictures - BATCH + 1, BATCH):
        yield [corpus.picture("train", index, config.codec.seed) for index in range(start, start + BATCH)]
