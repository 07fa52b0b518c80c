"""The whole way of a picture in training: tower, merging, codec, projector, language model, and its losses.

Source: AI Flow (arXiv 2506.12479), section II-B1: distortion is the cross-entropy of the answers given the
decoded features, rate the bits of features and hyperprior under the estimated distributions, balance the
squared difference between the entropy models' use and equal use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from entropy import TrainableCodec
from entropy.hyperprior import usage_by_level
from tofc.errors import UserError
from tofc.training.data import Corpus
from tofc.training.forward import Merge, VisionLanguageModel, pixels_of
from tofc.training.packing import PackedBatch, Packer
from tofc.training.settings import TrainConfig

SURVEYED_AT_ONCE = 4  # pictures; a setting that is about memory must not change what is learned
PLAIN_SHARE = 0.1  # of the error that counts alike in all directions, whatever the answers depend on


class TaskOutput(NamedTuple):
    """Sums over one process' part of a batch, so that parts may be added before anything is divided.

    answer_loss: cross-entropy summed with its weights; rate, error: bits a coefficient, and squared error in
    units of the features' variance, of each picture [B] (zero where nothing was coded); usage, counts: of
    `entropy.hyperprior.usage_by_level`; exact: bool [B, Q], whole answers that greedy decoding would give.
    """

    answer_loss: Tensor
    rate: Tensor
    error: Tensor
    usage: Tensor
    counts: Tensor
    exact: Tensor


class TaskModel(nn.Module):
    """A base model with a codec between merging and projector.

    `grounded` is the base model (with adapters or without), `merge` takes features [B, N, C] to [B, K, C]
    (`training_merge` while the model trains); the codec always computes in float32.
    """

    def __init__(
        self,
        grounded: VisionLanguageModel,
        codec: TrainableCodec,
        merge: Merge,
        training_merge: Merge | None = None,
    ) -> None:
        super().__init__()
        self.grounded, self.codec = grounded, codec
        self.merge, self.training_merge = merge, training_merge or merge

    def merged(self, pixels: Tensor, tokens: int | None) -> Tensor:
        """Pixels [B, 3, S, S] in 0..255 to features float32 [B, K, C]; `tokens` None merges nothing."""
        grounded = self.grounded
        learns = any(p.requires_grad for p in grounded.encoder.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()), grounded.precision():
            features = grounded.features(pixels).float()
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
        with self.grounded.precision():
            answers = self.grounded.answers(self.grounded.visual(decoded), packed)
        return TaskOutput(answers.by_picture.sum(), rate, error, usage, counts, answers.exact)


def keep_step_weight(steps: Tensor) -> Tensor:
    """Weight of the squared error beside the rate at which a quantisation step is its own best choice.

    At high rate, squared error D = step^2 / 12 falls with rate R as dD/dR = -2 ln(2) D, so that minimising
    R + D * 6 / (ln(2) step^2) keeps the step; the same weight serves coarse steps, where channels drop out.
    """
    return 6.0 / (math.log(2.0) * steps.square())


@dataclass(frozen=True)
class Survey:
    """Merged tokens [n, C] of training pictures, and the [C, C] weight that their errors carry."""

    features: Tensor
    weight: Tensor


def survey(
    task: TaskModel, packer: Packer, corpus: Corpus, config: TrainConfig, with_weight: bool = True
) -> Survey:
    """Looks at `init_pictures` training pictures, each merged to one of the numbers of tokens in turn."""
    task.eval()
    layouts = [None if name == "all" else int(name) for name, share in config.tokens.items() if share > 0]
    features: list[Tensor] = []
    width, side = config.codec.width, task.grounded.encoder.image_size
    fisher = torch.zeros(width, width, dtype=torch.float64)
    for number, start in enumerate(range(0, config.init_pictures, SURVEYED_AT_ONCE)):
        numbers = range(start, min(start + SURVEYED_AT_ONCE, config.init_pictures))
        examples = [corpus.picture("train", index, config.seed) for index in numbers]
        examples = [example for example in examples if example.pixels is not None]
        if not examples:
            continue
        with torch.no_grad():
            merged = task.merged(pixels_of(examples, side), layouts[number % len(layouts)])
        features.append(merged.flatten(0, 1).cpu())
        if not with_weight:
            continue
        packed = packer.pack([example.turns for example in examples], config.max_text_tokens)
        probe = merged.detach().requires_grad_()
        with task.grounded.precision():
            visual = task.grounded.visual(probe)
            loss = task.grounded.answers(visual, packed.to(probe.device)).loss
        (gradient,) = torch.autograd.grad(loss, probe)
        flat = gradient.flatten(0, 1).double().cpu()
        fisher += flat.T @ flat
    if not features:
        raise UserError("none of the first pictures of the corpus can be looked at: it has text only")
    sensitivity = fisher * (width / fisher.trace().clamp(min=1e-30))
    plain = torch.eye(width, dtype=torch.float64)
    weight = (1.0 - PLAIN_SHARE) * sensitivity + PLAIN_SHARE * plain
    return Survey(torch.cat(features), weight)
