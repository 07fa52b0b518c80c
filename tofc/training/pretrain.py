"""`tofc pretrain CONFIG`: a small LLaVA-OneVision from nothing, resumable after a kill at any moment."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.optim import Optimizer
from transformers import (
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
)

from tofc.config import MergingConfig
from tofc.errors import UserError
from tofc.model import save_base
from tofc.training.base_model import (
    IMAGE_TOKEN,
    BaseModelConfig,
    build_model,
    build_processor,
    build_tokenizer,
)
from tofc.training.curves import RunLog, draw_curves
from tofc.training.data import DataConfig, GroundedCorpus, GroundedPicture, load_corpus, picture_batches
from tofc.training.dense import DenseHeads, average_precision
from tofc.training.grounded import GroundedModel, roughen
from tofc.training.initial import mimetic_language, mimetic_tower
from tofc.training.optimizers import OptimizerConfig, build_optimizers, lr_ratio, set_learning_rates
from tofc.training.packing import Packer
from tofc.training.settings import check_ways
from tofc.training.state import load_state, save_state
from tofc.training.task import Merge, merge_as

NAME_REPEATS = 300  # of each name among the tokenizer's texts: an answer should be one token
STOCK = "stock"  # the token layout of the unmodified processor: base tile, then the grid with newlines


@dataclass(frozen=True)
class PretrainConfig:
    """A whole pretraining run.

    `dense_steps` steps of `dense_batch` pictures teach the tower alone, the rest up to `total_steps`, of
    `answer_batch` pictures, teach all with the dense loss at `dense_weight`, which is the sum of the targets'
    losses, each by its weight in `dense_weights` (1 where it has none). `word_weight` is that of a loss
    beside the answers: what the projector makes of a patch should be the word for its object. `mimetic` gives
    the tower the first weights of `tofc.training.initial` in the place of random ones. `layouts` maps a token
    layout ("stock", as the unmodified processor has it, or a number of merged tokens) to how often it is
    drawn; the pictures of a batch are merged in the `ways` in turn, those of validation in the first.
    `feature_noise` is in channel deviations; a picture's questions fill at most `max_text_tokens`.
    `precision` is "auto" (bf16 where the hardware has it), "bf16" or "fp32". `start_from`, a checkpoint's
    folder that this command wrote, gives the first weights and the vocabulary in the place of random ones;
    `tower_from` gives those of the tower alone; `model` must be of its geometry.
    """

    name: str = "scenes-tiny"
    seed: int = 0
    model: BaseModelConfig = field(default_factory=BaseModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    dense_batch: int = 32
    answer_batch: int = 16
    dense_steps: int = 900
    total_steps: int = 5300
    dense_weight: float = 0.25
    dense_weights: dict[str, float] = field(default_factory=dict)
    word_weight: float = 0.0
    mimetic: bool = False
    layouts: dict[str, float] = field(default_factory=lambda: {"64": 0.6, "196": 0.2, "32": 0.1, STOCK: 0.1})
    ways: tuple[str, ...] = ("dpc_knn",)
    feature_noise: float = 0.2
    max_text_tokens: int = 192
    precision: str = "auto"
    start_from: str | None = None
    tower_from: str | None = None
    validation_pictures: int = 128
    validate_every: int = 200
    save_every: int = 100

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision is {self.precision!r}: choose auto, bf16 or fp32")
        if not 0 <= self.dense_steps <= self.total_steps:
            raise ValueError(
                f"dense_steps {self.dense_steps} must lie in 0..total_steps ({self.total_steps})"
            )
        for layout, share in self.layouts.items():
            if (layout != STOCK and not layout.isdigit()) or share < 0:
                raise ValueError(
                    f"layouts has {layout!r}: {share}; keys are '{STOCK}' or a number of tokens, shares >= 0"
                )
        check_ways(self.ways)
        if not self.ways:
            raise ValueError("ways is empty: name at least one, e.g. [dpc_knn]")
        if not sum(self.layouts.values()) > 0:
            raise ValueError("layouts is empty: name at least one, e.g. {'64': 1.0}")

    def pictures_of(self, step: int) -> range:
        """Numbers of the pictures that `step` learns from; no picture comes twice."""
        if step < self.dense_steps:
            return range(step * self.dense_batch, (step + 1) * self.dense_batch)
        start = self.dense_steps * self.dense_batch + (step - self.dense_steps) * self.answer_batch
        return range(start, start + self.answer_batch)


class Pretrainer:
    """Model, data and optimisers of one run, and the loop over them."""

    def __init__(self, config: PretrainConfig, folder: Path, console: Console) -> None:
        self.config, self.folder, self.console = config, folder, console
        folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16(self.device))
        self.corpus: GroundedCorpus = load_corpus(config.data.source, **config.data.options)
        self.processor = self._processor()
        tokenizer = self.processor.tokenizer
        model = self._model(tokenizer)
        self.heads = self._heads()
        self.grounded = GroundedModel(model, self.heads).to(self.device)
        self.packer = Packer(tokenizer, IMAGE_TOKEN)
        self.word_ids = word_ids(tokenizer, getattr(self.corpus, "kind_names", ())).to(self.device)
        self.merge: Merge = merge_as(MergingConfig(), config.ways)
        self.validation_merge: Merge = merge_as(MergingConfig(), config.ways[:1])
        self.optimizers: list[Optimizer] = build_optimizers(
            list(self.grounded.named_parameters()), config.optimizer
        )
        self.state_path = folder / "state.safetensors"
        self.step = 0
        if self.state_path.exists():
            self.step = load_state(self.state_path, self._modules(), self.optimizers)
            console.print(f"going on from step {self.step} of {config.total_steps} in {folder}")

    def _processor(self) -> LlavaOnevisionProcessor:
        """The run's processor: made once and kept in the folder, since weights belong to one vocabulary."""
        base = self.folder / "base"
        if not (base / "processor_config.json").exists():
            config = self.config
            if config.start_from is not None:
                processor = LlavaOnevisionProcessor.from_pretrained(config.start_from)
            else:
                names = getattr(self.corpus, "names", tuple)()
                texts = chain(
                    (f"{name}\n {name}" for name in names for _ in range(NAME_REPEATS)),
                    self.corpus.texts(config.data.tokenizer_texts, config.seed),
                )
                tokenizer = build_tokenizer(texts, config.model.vocab_size)
                processor = build_processor(tokenizer, config.model)
            processor.save_pretrained(base)
        return LlavaOnevisionProcessor.from_pretrained(base)

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

    def _modules(self) -> dict[str, torch.nn.Module]:
        heads = {} if self.heads is None else {"heads": self.heads}
        return {"model": self.grounded.model, **heads}

    @contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def run(self, progress: Callable[[int, dict[str, float]], None]) -> Path:
        """Trains to the last step, calling `progress(step, scalars)` after each; returns the checkpoint."""
        log = RunLog(self.folder, self.step)
        steps = range(self.step, self.config.total_steps)
        batches = picture_batches(
            self.corpus,
            "train",
            [self.config.pictures_of(step) for step in steps],
            self.config.seed,
            self.config.data.num_workers,
        )
        started = time.monotonic()
        for pictures in batches:
            scalars = self._train_step(pictures)
            self.step += 1
            if self.step % 20 == 0:
                scalars["pictures_per_second"] = 20 * len(pictures) / (time.monotonic() - started)
                started = time.monotonic()
                log.add(self.step, scalars)
            if self.step % self.config.validate_every == 0:
                asked = self.step > self.config.dense_steps
                log.add(self.step, self.validate() if asked else self.validate_dense())
                draw_curves(log.path, self.folder / "curves.png")
            if self.step % self.config.save_every == 0 or self.step == self.config.total_steps:
                save_state(self.state_path, self.step, self._modules(), self.optimizers)
                self.save_pretrained(self.folder / "base")
            progress(self.step, scalars)
        log.close()
        draw_curves(log.path, self.folder / "curves.png")
        return self.folder / "base"

    def _train_step(self, pictures: list[GroundedPicture]) -> dict[str, float]:
        config = self.config
        ratio = lr_ratio(self.step, config.total_steps, config.optimizer)
        asking = self.step >= config.dense_steps
        set_learning_rates(self.optimizers, ratio, asking, config.optimizer)
        frozen = asking and config.optimizer.tower_ratio == 0.0
        scalars: dict[str, float] = {}
        loss = torch.zeros((), device=self.device)
        with self._precision():
            with torch.set_grad_enabled(not frozen):
                features = self.grounded.features(pictures, self.device)
            if not frozen:
                losses, scalars = self.grounded.dense(pictures, features)
                loss = sum((self._weight(name) * part for name, part in losses.items()), loss)
                scalars["loss/dense"] = loss.item()
            if asking:
                layout = self._draw_layout()
                generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
                rough = roughen(features, config.feature_noise, generator)
                visual = self._visual(rough, layout, self.merge)
                turns = [picture.turns for picture in pictures]
                packed = self.packer.pack(turns, config.max_text_tokens).to(self.device)
                answer = self.grounded.answers(visual, packed)
                loss = config.dense_weight * loss + answer.loss
                scalars["loss/answers"] = answer.loss.item()
                if config.word_weight:
                    words, scalars["words/right"] = self.grounded.words(pictures, features, self.word_ids)
                    loss = loss + config.word_weight * words
                scalars["answers/exact"] = answer.exact.float().mean().item()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.grounded.parameters(), config.optimizer.clip_norm)
        scalars |= {"gradient_norm": norm.item(), "lr_ratio": ratio}
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return scalars

    def _weight(self, target: str) -> float:
        return self.config.dense_weights.get(target, 1.0)

    def _visual(self, features: torch.Tensor, layout: str, merge: Merge) -> torch.Tensor:
        if layout != STOCK and int(layout) < features.shape[1]:
            features = merge(features, int(layout))
        return self.grounded.visual_embeddings(features, stock=layout == STOCK)

    def _draw_layout(self) -> str:
        names, shares = list(self.config.layouts), np.array(list(self.config.layouts.values()))
        rng = np.random.default_rng([self.config.seed, self.step])
        return names[int(rng.choice(len(names), p=shares / shares.sum()))]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Share of validation questions whose whole answer greedy decoding would give, by category."""
        config = self.config
        layout = max(config.layouts, key=lambda name: config.layouts[name])
        right: defaultdict[str, list[bool]] = defaultdict(list)
        for start in range(0, config.validation_pictures, config.answer_batch):
            pictures = [
                self.corpus.picture("validation", index, config.seed)
                for index in range(start, start + config.answer_batch)
            ]
            with self._precision():
                features = self.grounded.features(pictures, self.device)
                visual = self._visual(features, layout, self.validation_merge)
                packed = self.packer.pack([picture.turns for picture in pictures]).to(self.device)
                exact = self.grounded.answers(visual, packed).exact
            for picture, row in zip(pictures, exact.tolist(), strict=True):
                for turn, hit in zip(picture.turns, row, strict=False):
                    right[turn.category].append(hit)
                    if turn.weight == 1.0:
                        right["all"].append(hit)
        return {f"validation/{name}": sum(hits) / len(hits) for name, hits in sorted(right.items())}

    @torch.no_grad()
    def validate_dense(self) -> dict[str, float]:
        """What the heads get right on validation pictures, and how well they tell which classes are there."""
        seen: defaultdict[str, list[float]] = defaultdict(list)
        scores, present = [], []
        count = min(self.config.validation_pictures, self.corpus.num_pictures("validation") or 1 << 30)
        for start in range(0, count, self.config.answer_batch):
            pictures = [
                self.corpus.picture("validation", index, self.config.seed)
                for index in range(start, min(count, start + self.config.answer_batch))
            ]
            with self._precision():
                features = self.grounded.features(pictures, self.device)
                for name, value in self.grounded.dense(pictures, features)[1].items():
                    seen[f"validation/{name}"].append(value)
                if self.heads is not None and self.heads.present is not None:
                    scores.append(self.heads.present(self.heads.norm(features).mean(1)).float().cpu())
                    present.append(torch.stack([torch.as_tensor(picture.present) for picture in pictures]))
        means = {name: sum(values) / len(values) for name, values in seen.items()}
        if scores:
            told = average_precision(torch.cat(scores), torch.cat(present))
            means |= {f"validation/present/{name}": value for name, value in told.items()}
        return means

    def save_pretrained(self, folder: Path) -> None:
        """Writes model (float16) and processor as transformers would."""
        save_base(folder, deepcopy(self.grounded.model).half(), self.processor)


def word_ids(tokenizer: PreTrainedTokenizerFast, names: Sequence[str]) -> torch.Tensor:
    """First tokens [2, K] of names, behind a space and at the beginning of a text."""
    return torch.tensor(
        [[tokenizer(f"{before}{name}").input_ids[0] for name in names] for before in (" ", "")]
    )


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch cannot tell; float32 is right everywhere
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def run(config: PretrainConfig, folder: Path, console: Console) -> Path:
    """Runs or resumes the pretraining that `config` describes in `folder`; returns the checkpoint's folder.

    A progress bar shows on a terminal, a line every 100 steps elsewhere.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    trainer = Pretrainer(config, folder, console)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("pretraining", total=config.total_steps, completed=trainer.step)

        def show(step: int, scalars: dict[str, float]) -> None:
            words = "  ".join(f"{name} {scalars[name]:.3f}" for name in SHOWN if name in scalars)
            bar.update(task, completed=step, description=words)
            if not console.is_terminal and step % 100 == 0:
                console.print(f"step {step}/{config.total_steps}  {words}")

        return trainer.run(show)


SHOWN = ("loss/dense", "loss/answers", "answers/exact")
