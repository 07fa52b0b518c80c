"""The whole way of a picture in training: tower, merging, codec, projector, language model, and its losses.

Source: AI Flow (arXiv 2506.12479), section II-B1: distortion is the cross-entropy of the answers given the
decoded features, rate the bits of features and hyperprior under the estimated distributions, balance the
squared difference between the entropy models' use and equal use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from encoders.merging import cluster_tokens, merge_tokens
from entropy import TrainableCodec
from entropy.router import usage_by_level
from tofc.config import MergingConfig
from tofc.training.grounded import GroundedModel
from tofc.training.packing import PackedBatch

Merge = Callable[[Tensor, int], Tensor]


class TaskOutput(NamedTuple):
    """Sums over one process' part of a batch, so that parts may be added before anything is divided.

    answer_loss: cross-entropy summed with its weights; rate, error: bits a coefficient, and squared error in
    units of the features' variance, of each picture [B] (zero where nothing was coded); usage, counts: of
    `entropy.router.usage_by_level`; exact: bool [B, Q], whole answers that greedy decoding would give.
    """

    answer_loss: Tensor
    rate: Tensor
    error: Tensor
    usage: Tensor
    counts: Tensor
    exact: Tensor


class TaskModel(nn.Module):
    """LLaVA-OneVision with a codec between merging and projector.

    `grounded` holds the base model (with adapters or without), `merge` takes features [B, N, C] to [B, K, C]
    (`training_merge` while the model trains),
    `bf16` lets the base model compute in bfloat16 where it may; the codec always computes in float32.
    """

    def __init__(
        self,
        grounded: GroundedModel,
        codec: TrainableCodec,
        merge: Merge,
        bf16: bool,
        training_merge: Merge | None = None,
    ) -> None:
        super().__init__()
        self.grounded, self.codec = grounded, codec
        self.merge, self.training_merge, self.bf16 = merge, training_merge or merge, bf16

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.grounded.model.device

    def merged(self, pixels: Tensor, tokens: int | None) -> Tensor:
        """Pixels [B, 3, S, S] in 0..255 to features float32 [B, K, C]; `tokens` None merges nothing."""
        learns = any(p.requires_grad for p in self.grounded.model.model.vision_tower.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()), self.precision():
            features = self.grounded.tower(pixels).float()
            if tokens is not None and tokens < features.shape[1]:
                features = (self.training_merge if self.training else self.merge)(features, tokens)
        return features

    def forward(
        self,
        pixels: Tensor,
        packed: PackedBatch | None,
        level: Tensor,
        tokens: int | None,
        *,
        temperature: float = 1.0,
        noise: Tensor | None = None,
    ) -> TaskOutput:
        """Losses of a batch.

        pixels: [B, 3, S, S] in 0..255; packed: the questions, None to leave the language model out; level:
        [B] quality levels from 0, -1 for features that are not coded; tokens: how many to merge to, None for
        all; temperature, noise: see `TrainableCodec.forward`.
        """
        # Without answers to hold it, a tower that learns would only learn to say less.
        with torch.set_grad_enabled(torch.is_grad_enabled() and packed is not None):
            features = self.merged(pixels, tokens)
        batch, num_tokens, width = features.shape
        coded = level >= 0
        levels = len(self.codec.config.steps)
        zero = features.new_zeros(())
        decoded, rate, error = features, zero.expand(batch), zero.expand(batch)
        usage, counts = features.new_zeros(levels, self.codec.config.experts), features.new_zeros(levels)
        if bool(coded.any()):
            rows = torch.nonzero(coded)[:, 0]
            noise = None if noise is None else noise[rows]
            with torch.autocast(features.device.type, enabled=False):
                output = self.codec(features[rows], level[rows], temperature=temperature, noise=noise)
            deviation = output.decoded_coefficients - output.coefficients.detach()
            rate = rate.index_put((rows,), output.rate.sum(1) / (num_tokens * width))
            error = error.index_put((rows,), deviation.square().mean((1, 2)))
            decoded = decoded.index_put((rows,), output.decoded)
            usage, counts = usage_by_level(output.router, level[rows], levels)
        if packed is None:
            none = torch.ones(batch, 0, dtype=torch.bool, device=features.device)
            return TaskOutput(zero, rate, error, usage, counts, none)
        with self.precision():
            visual = self.grounded.visual_embeddings(decoded)
            answers = self.grounded.answers(visual, packed)
        return TaskOutput(answers.by_picture.sum(), rate, error, usage, counts, answers.exact)

    def precision(self) -> torch.autocast:
        """In which the base model computes: weights may be held in bfloat16, trained ones are in float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def merge_as(merging: MergingConfig, ways: Sequence[str] = ()) -> Merge:
    """The merging of base tiles that devices do; with `ways`, the rows of a batch take these in turn.

    A model that learns from several ways is not made for one of them.
    """
    turns = tuple(ways) or (merging.way,)

    def merge(features: Tensor, tokens: int) -> Tensor:
        side = math.isqrt(features.shape[1])
        parts = []
        for turn, way in enumerate(turns[: len(features)]):
            rows = features[turn :: len(turns)]
            clusters = cluster_tokens(rows.detach().float(), tokens, way, ((side, side),), merging.neighbours)
            parts.append(merge_tokens(rows, clusters)[0])
        order = torch.cat([torch.arange(len(features))[turn :: len(turns)] for turn in range(len(parts))])
        return torch.cat(parts)[order.argsort().to(features.device)]

    return merge


def keep_step_weight(steps: Tensor) -> Tensor:
    """Weight of the squared error beside the rate at which a quantisation step is its own best choice.

    At high rate, squared error D = step^2 / 12 falls with rate R as dD/dR = -2 ln(2) D, so that minimising
    R + D * 6 / (ln(2) step^2) keeps the step; the same weight serves coarse steps, where channels drop out.
    """
    return 6.0 / (math.log(2.0) * steps.square())
