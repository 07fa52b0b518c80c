"""`tofc train CONFIG`: a codec for a base model, trained with its answers, bound into a checkpoint.

First the features: what they are like, and which of their errors matter. To second order, near the true
features, the language model's cross-entropy grows as the quadratic form of its expected squared gradient (the
Fisher matrix over channels); that matrix, mixed with the identity, gives the coordinates in which the codec
quantises. Then the codec alone learns these, and then all together learn to answer.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from entropy import FeatureCodec
from entropy.hyperprior import balance_loss
from tofc.config import CODEC_WEIGHTS, find_base
from tofc.errors import UserError
from tofc.hub import read_tensors
from tofc.model import save_checkpoint
from tofc.training.adapters import attach
from tofc.training.codec_task import TaskModel, TaskOutput, keep_step_weight, survey
from tofc.training.data import Example
from tofc.training.forward import Merge, VisionLanguageModel, choose_bf16, merge_as, pixels_of, read_base
from tofc.training.loop import CodedRun
from tofc.training.optimizers import group_of
from tofc.training.packing import PackedBatch, Packer
from tofc.training.settings import TrainConfig
from tofc.training.state import trained_parameters
from tofc.training.trainable import (
    IDLE_USAGE,
    LevelReport,
    evaluate,
    first_codec,
    idle_experts,
    report_table,
    save_trainable,
)
from tofc.writing import write_json

REPORT_NAME = "codec-report.json"
GAIN_RATIO = 0.2  # of the learning rate of the codec's gains to that of the rest of it


def run(config: TrainConfig, folder: Path, console: Console) -> Path:
    """Trains, or goes on where an interrupted run saved, and writes the checkpoint into `folder`; returns it.

    The run's own files (state, log, TensorBoard events) are in `folder`-run. Raises UserError where the base
    model (a checkpoint means its own) cannot be read or does not fit the configuration.
    """
    config = replace(config, base=find_base(config.base))
    return CodecRun(config, folder.parent / f"{folder.name}-run", console).train(folder)


class CodecRun(CodedRun):
    """The codec and the adapters learn; `merge` replaces the configured merging, for comparisons."""

    rates = "codec_lr or adapters.learning_rate"

    def __init__(self, config: TrainConfig, work: Path, console: Console, merge: Merge | None = None) -> None:
        super().__init__(config, work, console)
        self.config = config
        self.shown = {
            "loss/answers": "answers",
            "rate/bits_a_coefficient": "bits",
            "distortion/relative": "distortion",
        }
        model, self.processor = read_base(config.base, self.device, config.precision)
        vision: Any = model.config.vision_config  # typed by transformers as possibly absent
        if vision.hidden_size != config.codec.width:
            raise UserError(
                f"codec.width is {config.codec.width}, the tower of {config.base} gives {vision.hidden_size}"
            )
        self.packer = Packer.of(self.processor, config.end_weight)
        self.tuned: Any = attach(model, config.adapters, config.seed) if config.adapters else model
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        merging = config.checkpoint.merging
        bf16 = choose_bf16(config.precision, self.device)
        self.task = TaskModel(
            VisionLanguageModel.of(model, self.processor, bf16),
            first_codec(config).to(self.device),
            merge or merge_as(merging),
            merge_as(merging, config.ways) if config.ways else None,
        )
        if config.codec_from is None and not self.state_path.exists():
            with console.status("looking at features, and at which of their errors matter"):
                material = survey(self.task, self.packer, self.corpus, config)
            self.task.codec.fit_transform(material.features, material.weight)
        self.steps = torch.tensor(config.codec.steps, device=self.device)
        self.weights = torch.tensor(config.rate_weights(), device=self.device, dtype=torch.float32)
        self._usage: Tensor | None = None
        self._warned: set[int] = set()
        total = config.steps_for(self.corpus.num_pictures("train"))
        self.prepare(self.task, [self._optimizer()], total)

    def _optimizer(self) -> torch.optim.Optimizer:
        config, codec = self.config, self.task.codec
        gains = [codec.first_gain, codec.gain_growth]
        rest = [p for p in codec.parameters() if p.requires_grad and all(p is not gain for gain in gains)]
        groups = [group_of(rest, config.codec_lr), group_of(gains, config.codec_lr * GAIN_RATIO)]
        if config.adapters:
            learned = [(name, p) for name, p in self.task.grounded.named_parameters() if p.requires_grad]
            rate = config.adapters.learning_rate
            for in_tower, peak in ((False, rate), (True, rate * config.adapters.tower_ratio)):
                groups.append(
                    group_of([p for name, p in learned if (".vision_tower." in name) == in_tower], peak)
                )
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, betas=(0.9, config.beta2), weight_decay=0.0)

    def stored(self) -> dict[str, nn.Module]:
        """What a state holds: the whole codec, and of the base model what is trained."""
        return {"codec": self.task.codec, "adapters": trained_parameters(self.task.grounded)}

    # -- one step ----------------------------------------------------------------------------------------

    def backward(self, examples: list[Example]) -> dict[str, float]:
        """Gradients of one step, summed over passes of at most `micro_batch` pictures; returns the losses."""
        config = self.config
        asking = self.step >= config.feature_steps
        self.model.train()
        size = config.micro_batch or len(examples)
        passes = [examples[start : start + size] for start in range(0, len(examples), size)]
        packs = [self.pack(part) if asking else None for part in passes]
        weight = torch.tensor([sum(float(pack.weights.sum()) for pack in packs if pack)])
        weight = self.reduce(weight.to(self.device)).clamp(min=1e-9)
        logged: dict[str, float] = {}
        first_row = self.accelerator.process_index * len(examples)
        for number, (part, pack) in enumerate(zip(passes, packs, strict=True)):
            rows = range(first_row + number * size, first_row + number * size + len(part))
            final = number + 1 == len(passes)
            with nullcontext() if final else self.accelerator.no_sync(self.model):
                output, level = self._forward(part, pack, rows)
                loss, scalars = self._loss(output, level, weight, len(passes))
                self.accelerator.backward(loss)
            for name, value in scalars.items():
                logged[name] = logged.get(name, 0.0) + value
        return logged

    def _forward(
        self, examples: list[Example], pack: PackedBatch | None, rows: range
    ) -> tuple[TaskOutput, Tensor]:
        config = self.config
        draw = np.random.default_rng([config.seed, self.step])
        tokens, coded = config.draw_layout(draw, asking=pack is not None)
        first_level = int(draw.integers(len(config.codec.steps)))
        level = (torch.tensor(list(rows)) + first_level) % len(config.codec.steps)
        pictured = torch.tensor([example.pixels is not None for example in examples])
        level = torch.where(pictured & torch.tensor(coded), level, -1).to(self.device)
        pixels = pixels_of(examples, self.task.grounded.encoder.image_size)
        num_tokens = self.task.grounded.encoder.num_tokens if tokens is None else tokens
        noise = torch.stack([self._noise(row, num_tokens) for row in rows]).to(self.device)
        output = self.model(pixels, pack, level, tokens, temperature=self._temperature(), noise=noise)
        return output, level

    def _noise(self, row: int, tokens: int) -> Tensor:
        """Uniform noise of a picture: it belongs to step and place in the global batch, not to a process."""
        place = np.random.SeedSequence([self.config.seed, self.step, row])
        generator = torch.Generator().manual_seed(int(place.generate_state(1)[0]))
        width = self.config.codec.width + self.config.codec.hyper
        return torch.rand(tokens, width, generator=generator) - 0.5

    def _loss(
        self, output: TaskOutput, level: Tensor, weight: Tensor, passes: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss whose mean over processes has the gradient of the whole batch's loss; and its parts.

        Answers + rate weight x (rate + feature weight x distortion + balance); the paper has no distortion of
        features. Without answers (the first `feature_steps`) rate + distortion + balance.
        """
        config = self.config
        processes = self.accelerator.num_processes
        coded = level >= 0
        at = level.clamp(min=0)
        scale = self.weights[at] if self.step >= config.feature_steps else torch.ones_like(output.rate)
        distortion = config.feature_weight * keep_step_weight(self.steps[at]) * output.error
        codec_loss = (coded * scale * (output.rate + distortion)).sum() / config.batch_size
        usage = self.reduce(output.usage.detach())
        counts = self.reduce(output.counts)
        # Linear in this process' usage: the gradient is that of the whole batch's balance.
        whole = usage.clone().requires_grad_()
        balance = balance_loss(whole, counts)
        (slope,) = torch.autograd.grad(balance, whole)
        mean_scale = self.reduce((coded * scale).sum()) / self.reduce(coded.float().sum()).clamp(min=1.0)
        pull = config.balance * mean_scale * (slope * output.usage).sum() / passes
        answers = output.answer_loss / weight[0]
        self._note_usage(usage)
        loss = processes * (answers + codec_loss + pull)
        parts = {
            "loss/answers": answers.detach(),
            "loss/codec": codec_loss.detach(),
            "rate/bits_a_coefficient": (coded * output.rate).sum().detach() / config.batch_size,
            "distortion/relative": (coded * output.error).sum().detach() / config.batch_size,
        }
        values = {name: float(self.reduce(value)) for name, value in parts.items()}
        return loss, {**values, "balance": float(balance.detach()) / passes}

    def _temperature(self) -> float:
        hot, cold = self.config.temperature
        return hot * (cold / hot) ** (self.step / self.total_steps)

    # -- what the run says of itself ---------------------------------------------------------------------

    def _note_usage(self, usage: Tensor) -> None:
        self._usage = usage if self._usage is None else self._usage + usage

    def occasional_scalars(self) -> dict[str, float]:
        """Share of each entropy model at each level since the last call; warns of those left idle."""
        if self._usage is None or float(self._usage.sum()) == 0:
            return {}
        usage, self._usage = self._usage.double().cpu(), None
        overall = (usage.sum(0) / usage.sum()).tolist()
        idle = [expert for expert in idle_experts(overall) if expert not in self._warned]
        if idle:
            self._warned.update(idle)
            self.say(
                f"[yellow]step {self.step}: entropy models {idle} code less than {IDLE_USAGE:.0%} of the "
                "tokens: raise balance, or train with fewer experts[/yellow]"
            )
        shares = usage / usage.sum(1, keepdim=True).clamp(min=1e-9)
        return {
            f"usage/quality_{level + 1}/model_{expert}": float(share)
            for level, row in enumerate(shares)
            for expert, share in enumerate(row)
        }

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Whole answers right, and bytes of the float codec, on validation pictures at some levels."""
        config = self.config
        self.task.eval()
        num_tokens = config.main_tokens() or self.task.grounded.encoder.num_tokens
        right: dict[str, list[bool]] = {}
        size: dict[str, list[float]] = {}
        for batch in self.validation_batches(config.batch_size):
            examples = [example for example in batch if example.pixels is not None]
            if not examples:
                continue
            packed = self.pack(examples)
            pixels = pixels_of(examples, self.task.grounded.encoder.image_size)
            for name, number in config.validation_levels().items():
                level = torch.full((len(examples),), number, device=self.device)
                output = self.task(pixels, packed, level, config.main_tokens())
                per_picture = output.rate * num_tokens * config.codec.width / 8
                size.setdefault(name, []).extend(per_picture.tolist())
                asked = [len(example.turns) for example in examples]
                for row, count in zip(output.exact.tolist(), asked, strict=True):
                    right.setdefault(name, []).extend(row[:count])
        found = {f"validation/{name}/exact": sum(hits) / len(hits) for name, hits in right.items()}
        return found | {f"validation/{name}/bytes": sum(b) / len(b) for name, b in size.items()}

    def write(self, folder: Path) -> None:
        """Writes the checkpoint into `folder`, and the codec's report beside the run."""
        config = self.config
        reports, exported = finish(self)
        self.console.print(report_table(reports))
        weights = load_file(self.folder / CODEC_WEIGHTS)
        base: Any = config.base
        adapters = None
        if config.adapters and config.merge_adapters:
            # In the precision that the base came in, which its config does not always tell.
            stored = next(tensor.dtype for _, tensor in read_tensors(base, lambda name: True, "cpu"))
            base = self.tuned.merge_and_unload().to(stored), self.processor
        elif config.adapters:
            adapters = self.folder / "adapters"
            self.tuned.save_pretrained(str(adapters))
        save_checkpoint(
            folder,
            base,
            exported,
            config.checkpoint,
            copy_base=config.merge_adapters,
            codec_weights=weights,
            adapters=adapters,
        )


def finish(run: CodecRun) -> tuple[list[LevelReport], FeatureCodec]:
    """The codec in integers, with its float weights and a report on validation pictures beside the run."""
    config, task = run.config, run.task
    features = survey(task, run.packer, run.corpus, config, with_weight=False).features
    codec = task.codec.eval().cpu()
    order = np.random.default_rng(config.seed).permutation(len(features))[:4096]
    exported = codec.export(features[torch.from_numpy(order)][None])
    save_trainable(codec, run.folder)
    exported.save(run.folder)
    held_out: list[Tensor] = []
    for (example,) in run.validation_batches(1):
        if example.pixels is not None:
            with torch.no_grad():
                pixels = torch.from_numpy(example.pixels)[None]
                held_out.append(task.merged(pixels, config.main_tokens())[0].cpu())
    reports = evaluate(codec, exported, held_out)
    write_json(run.folder / REPORT_NAME, [asdict(r) for r in reports])
    return reports, exported
