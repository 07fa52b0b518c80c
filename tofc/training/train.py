"""`tofc train CONFIG`: a codec for a base model, trained with its answers, bound into a checkpoint.

First the features: what they are like, and which of their errors matter. To second order, near the true
features, the language model's cross-entropy grows as the quadratic form of its expected squared gradient (the
Fisher matrix over channels); that matrix, mixed with the identity, gives the coordinates in which the codec
quantises. Then the codec alone learns these, and then all together learn to answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

from entropy import FeatureCodec, TrainableCodec
from tofc.config import resolve
from tofc.errors import UserError
from tofc.hub import read_tensors
from tofc.model import save_checkpoint
from tofc.training.adapters import attach
from tofc.training.codec import (
    WEIGHTS_NAME,
    LevelReport,
    evaluate,
    load_trainable,
    make_codec,
    report_table,
    save_trainable,
)
from tofc.training.data import Corpus, load_corpus
from tofc.training.grounded import GroundedModel
from tofc.training.loop import STATE_NAME, TrainingLoop, make_accelerator
from tofc.training.packing import Packer
from tofc.training.pretrain import has_bf16
from tofc.training.settings import TrainConfig
from tofc.training.task import Merge, TaskModel, merge_as
from tofc.training.trainer import Trainer

SURVEYED_AT_ONCE = 4  # pictures; a setting that is about memory must not change what is learned
REPORT_NAME = "codec-report.json"
SHOWN = {"loss/answers": "answers", "rate/bits_a_coefficient": "bits", "distortion/relative": "distortion"}


def run(config: TrainConfig, folder: Path, console: Console) -> Path:
    """Trains, or goes on where an interrupted run saved, and writes the checkpoint into `folder`; returns it.

    The run's own files (state, log, TensorBoard events) are in `folder`-run. Raises UserError where the base
    model cannot be read or does not fit the configuration.
    """
    work = folder.parent / f"{folder.name}-run"
    training = Run(config, work, console)
    run_with_bar(training.trainer, console, SHOWN)
    if training.trainer.accelerator.is_main_process:
        training.write(folder)
    return folder


class Run:
    """Everything that one training run needs, set up from its configuration; `work` holds its files.

    `merge` takes the place of DPC-KNN, for comparisons.
    """

    def __init__(self, config: TrainConfig, work: Path, console: Console, merge: Merge | None = None) -> None:
        self.config, self.work, self.console = config, work, console
        accelerator = make_accelerator()
        model, self.processor = load_base(config, accelerator.device)
        tokenizer: Any = self.processor.tokenizer
        template: Any = self.processor.chat_template  # typed by transformers as possibly several
        self.packer = Packer(tokenizer, self.processor.image_token, template=template)
        self.corpus: Corpus = load_corpus(config.data.source, **config.data.options)
        self.tuned: Any = model.requires_grad_(False)
        if config.adapters:
            self.tuned = attach(model, config.adapters, config.seed)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        codec = first_codec(config).to(accelerator.device)
        merge = merge or merge_as(config.checkpoint.merging)
        bf16 = choose_bf16(config.precision, accelerator.device)
        in_turn = merge_as(config.checkpoint.merging, config.ways) if config.ways else None
        self.task = TaskModel(GroundedModel(model), codec, merge, bf16, in_turn)
        work.mkdir(parents=True, exist_ok=True)
        if config.codec_from is None and not (work / STATE_NAME).exists():
            with console.status("looking at features, and at which of their errors matter"):
                material = survey(self.task, self.packer, self.corpus, config)
            codec.fit_transform(material.features, material.weight)
        self.trainer = Trainer(config, self.task, self.packer, self.corpus, work, accelerator, console)

    def write(self, folder: Path) -> None:
        """Writes the checkpoint into `folder`, and the codec's report beside the run."""
        config = self.config
        reports, exported = finish(self)
        self.console.print(report_table(reports))
        weights = load_file(self.work / WEIGHTS_NAME)
        if config.adapters and config.merge_adapters:
            # In the precision that the base came in, which its config does not always tell.
            stored = next(tensor.dtype for _, tensor in read_tensors(config.base, lambda name: True, "cpu"))
            whole: Any = self.tuned.merge_and_unload().to(stored)
            save_checkpoint(
                folder, whole, exported, config.checkpoint, processor=self.processor, codec_weights=weights
            )
            return
        adapters = self.work / "adapters" if config.adapters else None
        if adapters:
            self.tuned.save_pretrained(str(adapters))
        save_checkpoint(
            folder,
            config.base,
            exported,
            config.checkpoint,
            copy_base=config.merge_adapters,
            codec_weights=weights,
            adapters=adapters,
        )


def load_base(
    config: TrainConfig, device: torch.device
) -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    """The base model in the precision that training holds it in, and its processor; UserError where unfit."""
    model, processor = read_base(config.base, device, config.precision)
    vision: Any = model.config.vision_config  # typed by transformers as possibly absent
    width = vision.hidden_size
    if width != config.codec.width:
        raise UserError(f"codec.width is {config.codec.width}, the tower of {config.base} gives {width}")
    return model, processor


def read_base(
    base: str, device: torch.device, precision: str
) -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    """A base model for training and its processor; UserError where unreadable or normalised otherwise."""
    dtype = torch.bfloat16 if device.type == "cuda" and precision != "fp32" else torch.float32
    try:
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(base, dtype=dtype)
        processor = LlavaOnevisionProcessor.from_pretrained(base)
    except OSError as error:
        raise UserError(
            f"base {base!r} cannot be read ({error}); train it first, e.g. tofc pretrain scenes-tiny"
        ) from error
    images = processor.image_processor
    if {*images.image_mean, *images.image_std} != {0.5}:
        raise UserError(
            f"{base} normalises pictures by mean {images.image_mean}, deviation {images.image_std}; "
            "training knows SigLIP's 0.5 alone"
        )
    moved: LlavaOnevisionForConditionalGeneration = model.to(device)  # type: ignore[arg-type]  # its stub takes modules
    return moved, processor


def first_codec(config: TrainConfig) -> TrainableCodec:
    """The codec that training begins with; UserError where that of `codec_from` cannot go on as it is."""
    if config.codec_from is None:
        return make_codec(config.codec, config.prior, config.seed)
    checkpoint = resolve(config.codec_from)
    weights = checkpoint.folder / checkpoint.config.codec.weights
    if not checkpoint.has_codec or not weights.is_file():
        raise UserError(
            f"codec_from: {config.codec_from} has no codec that can learn on ({WEIGHTS_NAME}); name a "
            "checkpoint that `tofc train` wrote, or leave codec_from out for a new codec"
        )
    codec = load_trainable(weights)
    if codec.config != config.codec:
        raise UserError(
            f"codec_from: the codec of {config.codec_from} has another shape, {codec.config}; set `codec` to "
            "that, or leave codec_from out for a new codec"
        )
    return codec


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
    width = config.codec.width
    fisher = torch.zeros(width, width, dtype=torch.float64)
    for number, start in enumerate(range(0, config.init_pictures, SURVEYED_AT_ONCE)):
        numbers = range(start, min(start + SURVEYED_AT_ONCE, config.init_pictures))
        examples = [corpus.picture("train", index, config.seed) for index in numbers]
        examples = [example for example in examples if example.pixels is not None]
        if not examples:
            continue
        pixels = torch.from_numpy(np.stack([e.pixels for e in examples if e.pixels is not None]))
        with torch.no_grad():
            merged = task.merged(pixels.to(task.device), layouts[number % len(layouts)])
        features.append(merged.flatten(0, 1).cpu())
        if not with_weight:
            continue
        packed = packer.pack([example.turns for example in examples], config.max_text_tokens)
        probe = merged.detach().requires_grad_()
        with task.precision():
            visual = task.grounded.visual_embeddings(probe)
            loss = task.grounded.answers(visual, packed.to(task.device)).loss
        (gradient,) = torch.autograd.grad(loss, probe)
        flat = gradient.flatten(0, 1).double().cpu()
        fisher += flat.T @ flat
    if not features:
        raise UserError("none of the first pictures of the corpus can be looked at: it has text only")
    sensitivity = fisher * (width / fisher.trace().clamp(min=1e-30))
    plain = torch.eye(width, dtype=torch.float64)
    weight = (1.0 - config.plain_share) * sensitivity + config.plain_share * plain
    return Survey(torch.cat(features), weight)


def finish(run: Run) -> tuple[list[LevelReport], FeatureCodec]:
    """The codec in integers, with its float weights and a report on validation pictures beside the run."""
    config, task = run.config, run.task
    features = survey(task, run.packer, run.corpus, config, with_weight=False).features
    codec = task.codec.eval().cpu()
    order = np.random.default_rng(config.seed).permutation(len(features))[:4096]
    exported = codec.export(features[torch.from_numpy(order)][None])
    save_trainable(codec, run.work)
    exported.save(run.work)
    held_out: list[Tensor] = []
    for index in range(config.validation_pictures):
        pixels = run.corpus.picture("validation", index, config.seed).pixels
        if pixels is not None:
            with torch.no_grad():
                batch = torch.from_numpy(pixels)[None].to(task.device)
                held_out.append(task.merged(batch, config.main_tokens())[0].cpu())
    reports = evaluate(codec, exported, held_out)
    (run.work / REPORT_NAME).write_text(json.dumps([asdict(r) for r in reports], indent=2) + "\n")
    return reports, exported


def choose_bf16(precision: str, device: torch.device) -> bool:
    """Whether the base model computes in bfloat16."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def run_with_bar(trainer: TrainingLoop, console: Console, shown_scalars: Mapping[str, str]) -> None:
    """A progress bar on a terminal, a line every 100 steps elsewhere; `shown_scalars` maps names to words."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console.is_terminal and trainer.accelerator.is_main_process
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task("training", total=trainer.total_steps, completed=trainer.step)

        def show(step: int, scalars: dict[str, float]) -> None:
            words = "  ".join(
                f"{word} {scalars[name]:.4f}" for name, word in shown_scalars.items() if name in scalars
            )
            bar.update(task, completed=step, description=words)
            if not console.is_terminal and step % 100 == 0:
                trainer.say(f"step {step}/{trainer.total_steps}  {words}")

        trainer.run(show)
