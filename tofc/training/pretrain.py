"""`tofc pretrain CONFIG`: a small LLaVA-OneVision from nothing, resumable after a kill at any moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
)

from tofc.config import MergingConfig, find_base
from tofc.errors import UserError
from tofc.model import save_base
from tofc.training.base_model import (
    build_model,
    build_processor,
    build_tokenizer,
    mimetic_language,
    mimetic_tower,
)
from tofc.training.data import GroundedPicture
from tofc.training.dense import (
    DenseHeads,
    DenseTargets,
    average_precision,
    dense_losses,
    word_ids,
    word_loss,
)
from tofc.training.forward import Merge, VisionLanguageModel, choose_bf16, merge_as, pixels_of
from tofc.training.loop import TrainingRun
from tofc.training.optimizers import build_optimizers, late_decay, warm_up
from tofc.training.packing import Packer
from tofc.training.pretrain_settings import STOCK, PretrainConfig
from tofc.training.settings import draw
from tofc.writing import whole_folder

NAME_REPEATS = 300  # of each name among the tokenizer's texts: an answer should be one token


def run(config: PretrainConfig, folder: Path, console: Console) -> Path:
    """Runs or resumes the pretraining that `config` describes in `folder`; returns the base model's."""
    others = {"start_from": config.start_from, "tower_from": config.tower_from}
    found: dict[str, Any] = {key: find_base(base) for key, base in others.items() if base}
    return PretrainRun(replace(config, **found), folder, console).train(folder / "base")


class PretrainRun(TrainingRun):
    """The tower learns from dense targets, and then all of the model from questions too."""

    rates = "optimizer.muon_lr and optimizer.adamw_lr"

    def __init__(self, config: PretrainConfig, folder: Path, console: Console) -> None:
        super().__init__(config, folder, console)
        if self.accelerator.num_processes > 1:
            raise UserError("tofc pretrain runs in one process: start it without torchrun")
        self.config = config
        self.shown = {"loss/dense": "dense", "loss/answers": "answers", "answers/exact": "exact"}
        self.processor = self._processor()
        tokenizer: Any = self.processor.tokenizer
        model = self._model(tokenizer)
        bf16 = choose_bf16(config.precision, self.device)
        self.grounded = VisionLanguageModel.of(model, self.processor, bf16)
        self.heads = self._heads()
        self.packer = Packer.of(self.processor, config.end_weight)
        self.words = word_ids(tokenizer, getattr(self.corpus, "patch_words", {}))
        self.sparse: frozenset[str] = getattr(self.corpus, "sparse_labels", frozenset())
        self.merge: Merge = merge_as(MergingConfig(), config.ways)
        self.validation_merge: Merge = merge_as(MergingConfig(), config.ways[:1])
        task = nn.ModuleDict({"model": model} | ({} if self.heads is None else {"heads": self.heads}))
        rates, self.clip_norm = config.optimizer, config.optimizer.clip_norm
        named = list(task.named_parameters())
        optimizers = build_optimizers(named, rates.muon_lr, rates.adamw_lr, rates.weight_decay)
        self.prepare(task, optimizers, config.total_steps)
        self.grounded.to(self.device)

    def stored(self) -> dict[str, nn.Module]:
        """What a state holds: the whole model, and what reads the dense targets."""
        return {"model": self.grounded.model, **({} if self.heads is None else {"heads": self.heads})}

    # -- what a run begins with --------------------------------------------------------------------------

    def _processor(self) -> LlavaOnevisionProcessor:
        """The run's processor: made once and kept in the folder, since weights belong to one vocabulary."""
        config, kept = self.config, self.folder / "processor"
        if not kept.exists():
            if config.start_from is not None:
                processor = LlavaOnevisionProcessor.from_pretrained(config.start_from)
            else:
                names: tuple[str, ...] = getattr(self.corpus, "names", tuple)()
                texts = chain(
                    (f"{name}\n {name}" for name in names for _ in range(NAME_REPEATS)),
                    self.corpus.texts(config.data.tokenizer_texts, config.seed),
                )
                tokenizer = build_tokenizer(texts, config.model.vocab_size)
                processor = build_processor(tokenizer, config.model)
            with whole_folder(kept) as draft:
                processor.save_pretrained(draft)
        return LlavaOnevisionProcessor.from_pretrained(kept)

    def _model(self, tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionForConditionalGeneration:
        config = self.config
        if config.start_from is None:
            model = build_model(config.model, tokenizer, config.seed)
            if config.mimetic:
                generator = torch.Generator().manual_seed(config.seed)
                mimetic_tower(model.model.vision_tower, generator)
                mimetic_language(model.model.language_model, generator)
        else:
            model = self._read(config.start_from)
        if config.tower_from is not None:
            other = self._read(config.tower_from)
            model.model.vision_tower.load_state_dict(other.model.vision_tower.state_dict())
        return model

    def _read(self, source: str) -> LlavaOnevisionForConditionalGeneration:
        """The checkpoint in `source`, whose tower must have the geometry of the configuration."""
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
        vision: Any = model.config.vision_config  # typed by transformers as possibly absent
        config = self.config
        widths = (vision.hidden_size, (vision.image_size // vision.patch_size) ** 2)
        if widths != (config.model.vision_width, config.model.num_patches):
            raise UserError(
                f"{source} has a tower of width {widths[0]} with {widths[1]} patches, the "
                f"configuration one of {config.model.vision_width} with {config.model.num_patches}: "
                "describe the checkpoint's own geometry under model"
            )
        return model

    def _heads(self) -> DenseHeads | None:
        """None for a corpus that knows nothing of patches: only a language model can learn from it."""
        if not hasattr(self.corpus, "label_classes"):
            if self.config.dense_steps or self.config.optimizer.tower_ratio:
                raise UserError(
                    f"{self.config.data.source} has no dense targets for a tower: set dense_steps and "
                    "optimizer.tower_ratio to 0, and tower_from or start_from to a tower that has learnt"
                )
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return DenseHeads.of(self.corpus, self.config.model.vision_width)

    # -- one step ----------------------------------------------------------------------------------------

    def pictures_of(self, step: int) -> range:
        """Numbers of the pictures that `step` learns from; no picture comes twice."""
        config = self.config
        if step < config.dense_steps:
            return range(step * config.dense_batch, (step + 1) * config.dense_batch)
        start = config.dense_steps * config.dense_batch + (step - config.dense_steps) * config.answer_batch
        return range(start, start + config.answer_batch)

    def decay(self) -> float:
        """Factor on all learning rates at this step: up over the warm-up, down at the end."""
        rates = self.config.optimizer
        return warm_up(self.step, rates.warmup_steps) * late_decay(
            self.step, self.total_steps, rates.decay_from
        )

    def rate_factor(self, group: Mapping[str, Any]) -> float:
        """Factor on the learning rate of one group at this step."""
        rates = self.config.optimizer
        part = rates.tower_ratio if group["tower"] else 1.0
        return rates.answer_ratio * part if self.step >= self.config.dense_steps else 1.0

    def backward(self, examples: list[GroundedPicture]) -> dict[str, float]:
        """Gradients of the dense targets, and of the questions once they are asked."""
        config, grounded = self.config, self.grounded
        asking = self.step >= config.dense_steps
        frozen = asking and config.optimizer.tower_ratio == 0.0
        scalars: dict[str, float] = {}
        loss = torch.zeros((), device=self.device)
        with grounded.precision():
            patches = self._patches(examples)
            with torch.set_grad_enabled(not frozen):
                features = self._features(examples, patches)
            if not frozen:
                losses, scalars = self._dense(examples, features, patches)
                loss = sum((config.dense_weights.get(n, 1.0) * part for n, part in losses.items()), loss)
                scalars["loss/dense"] = loss.item()
            if asking:
                layout = draw(config.layouts, np.random.default_rng([config.seed, self.step]))
                generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
                rough = roughen(features, config.feature_noise, generator)
                answer = grounded.answers(self._visual(rough, layout, self.merge), self.pack(examples))
                loss = config.dense_weight * loss + answer.loss
                scalars["loss/answers"] = answer.loss.item()
                if config.word_weight:
                    words, right = word_loss(grounded.model, examples, features, self.words, self.sparse)
                    scalars |= {f"words/{label}": share for label, share in right.items()}
                    loss = loss + config.word_weight * words
                scalars["answers/exact"] = answer.exact.float().mean().item()
        self.accelerator.backward(loss)
        return scalars

    def _patches(self, examples: list[GroundedPicture]) -> Tensor | None:
        """The patches [B, K] that this dense step shows the tower; None for all of them."""
        config = self.config
        falling = self.step >= config.optimizer.decay_from * self.total_steps
        if config.patch_share == 1.0 or falling or self.step >= config.dense_steps:
            return None
        count = len(examples[0].regions)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        order = torch.rand(len(examples), count, generator=generator).argsort(1)
        return order[:, : max(1, round(config.patch_share * count))].sort(1).values.to(self.device)

    def _features(self, examples: list[GroundedPicture], patches: Tensor | None = None) -> Tensor:
        return self.grounded.features(pixels_of(examples, self.grounded.encoder.image_size), patches)

    def _dense(
        self, examples: list[GroundedPicture], features: Tensor, patches: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        assert self.heads is not None  # or there would be no dense steps
        targets = DenseTargets.of(examples, features.device)
        return dense_losses(self.heads, features, targets if patches is None else targets.at(patches))

    def _visual(self, features: Tensor, layout: str, merge: Merge) -> Tensor:
        if layout != STOCK and int(layout) < features.shape[1]:
            features = merge(features, int(layout))
        return self.grounded.visual(features, stock=layout == STOCK)

    # -- what the run says of itself ---------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """What the heads get right, and once questions are asked, what the model answers right."""
        return self._validate_answers() if self.step > self.config.dense_steps else self._validate_dense()

    def _validate_answers(self) -> dict[str, float]:
        """Share of validation questions whose whole answer greedy decoding would give, by category."""
        config = self.config
        layout = max(config.layouts, key=lambda name: config.layouts[name])
        right: defaultdict[str, list[bool]] = defaultdict(list)
        for examples in self.validation_batches(config.answer_batch):
            with self.grounded.precision():
                visual = self._visual(self._features(examples), layout, self.validation_merge)
                packed = self.packer.pack([example.turns for example in examples]).to(self.device)
                exact = self.grounded.answers(visual, packed).exact
            for example, row in zip(examples, exact.tolist(), strict=True):
                for turn, hit in zip(example.turns, row, strict=False):
                    right[turn.category].append(hit)
                    if turn.weight == 1.0:
                        right["all"].append(hit)
        return {f"validation/{name}": sum(hits) / len(hits) for name, hits in sorted(right.items())}

    def _validate_dense(self) -> dict[str, float]:
        """What the heads get right on validation pictures, and how well they tell which classes are there."""
        seen: defaultdict[str, list[float]] = defaultdict(list)
        scores, present = [], []
        for examples in self.validation_batches(self.config.answer_batch):
            with self.grounded.precision():
                features = self._features(examples)
                for name, value in self._dense(examples, features)[1].items():
                    seen[f"validation/{name}"].append(value)
                if self.heads is not None and self.heads.present is not None:
                    scores.append(self.heads.present(self.heads.norm(features).mean(1)).float().cpu())
                    present.append(torch.stack([torch.as_tensor(example.present) for example in examples]))
        means = {name: sum(values) / len(values) for name, values in seen.items()}
        if scores:
            ranked = average_precision(torch.cat(scores), torch.cat(present))
            means |= {f"validation/present/{name}": value for name, value in ranked.items()}
        return means

    def save(self) -> None:
        """Writes the state, and beside it the model as it is by now."""
        super().save()
        if self.step < self.total_steps:
            self.write(self.folder / "base")

    def write(self, folder: Path) -> None:
        """Writes model (float16) and processor as transformers would."""
        with whole_folder(folder) as draft:
            save_base(draft, (deepcopy(self.grounded.model).half(), self.processor))


def roughen(features: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Adds uniform noise of a random strength up to `largest` channel deviations, as quantisation later will.

    One strength a picture; the language model learns to live with coarse features before any codec exists.
    """
    batch = features.shape[0]
    strength = torch.rand(batch, 1, 1, generator=generator) * largest
    noise = torch.rand(features.shape, generator=generator) * 2.0 - 1.0
    deviation = features.detach().float().std(dim=(0, 1))
    return features + (noise * strength).to(features) * deviation.to(features)
