"""Training a codec with a `TaskModel`: its losses, its validation, and what it says of its entropy models."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from entropy.router import balance_loss
from tofc.training.codec import IDLE_USAGE, idle_experts
from tofc.training.data import Corpus, Example
from tofc.training.loop import TrainingLoop, pixels_of
from tofc.training.packing import PackedBatch, Packer
from tofc.training.settings import TrainConfig
from tofc.training.task import TaskModel, TaskOutput, keep_step_weight


class Trainer(TrainingLoop):
    """The loop of `tofc train` in `folder`."""

    def __init__(
        self,
        config: TrainConfig,
        task: TaskModel,
        packer: Packer,
        corpus: Corpus,
        folder: Path,
        accelerator: Accelerator,
        console: Console,
    ) -> None:
        self.config, self.task = config, task
        gains = [task.codec.first_gain, task.codec.gain_growth]
        codec = [p for p in task.codec.parameters() if p.requires_grad and all(p is not g for g in gains)]
        groups = [(codec, config.codec_lr), (gains, config.codec_lr * config.gain_ratio)]
        if config.adapters:
            learned = [(name, p) for name, p in task.grounded.named_parameters() if p.requires_grad]
            rate = config.adapters.learning_rate
            for in_tower, peak in ((False, rate), (True, rate * config.adapters.tower_ratio)):
                groups.append(([p for name, p in learned if (".vision_tower." in name) == in_tower], peak))
        groups = [(parameters, peak) for parameters, peak in groups if parameters]
        optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters, _ in groups], lr=1.0, betas=(0.9, 0.99), weight_decay=0.0
        )
        peaks = [peak for _, peak in groups]
        steps = config.steps_for(corpus.num_pictures("train"))
        shared = (config, task, packer, corpus, folder, accelerator, console)
        super().__init__(*shared, [optimizer], [peaks], steps)
        self.steps = torch.tensor(config.codec.steps, device=task.device)
        self.weights = torch.tensor(config.rate_weights(), device=task.device, dtype=torch.float32)
        self._usage: Tensor | None = None
        self._warned: set[int] = set()

    def stored(self) -> dict[str, nn.Module]:
        """What a state holds: the whole codec, and of the base model what is trained."""
        trained = {
            name.replace(".", "/"): p for name, p in self.task.grounded.named_parameters() if p.requires_grad
        }
        return {"codec": self.task.codec, "adapters": nn.ParameterDict(trained)}

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
        weight = self.reduce(weight.to(self.task.device)).clamp(min=1e-9)
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
        level = torch.where(pictured & torch.tensor(coded), level, -1).to(self.task.device)
        batch = pixels_of(examples, self.task.grounded.image_size, self.task.device)
        num_tokens = self.task.grounded.num_tokens if tokens is None else tokens
        noise = torch.stack([self._noise(row, num_tokens) for row in rows]).to(self.task.device)
        output = self.model(batch, pack, level, tokens, temperature=self._temperature(), noise=noise)
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

        Answers + rate weight x (rate + feature_weight x distortion + balance); without answers (the first
        `feature_steps`) rate + distortion + balance.
        """
        config = self.config
        processes = self.accelerator.num_processes
        coded = level >= 0
        at = level.clamp(min=0)
        scale = self.weights[at] if self.step >= config.feature_steps else torch.ones_like(output.rate)
        kept = config.feature_weight if self.step >= config.feature_steps else 1.0
        distortion = kept * keep_step_weight(self.steps[at]) * output.error
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
        num_tokens = config.main_tokens() or self.task.grounded.num_tokens
        right: dict[str, list[bool]] = {}
        size: dict[str, list[float]] = {}
        for start in range(0, config.validation_pictures, config.batch_size):
            stop = min(start + config.batch_size, config.validation_pictures)
            examples = [self.corpus.picture("validation", index, config.seed) for index in range(start, stop)]
            examples = [example for example in examples if example.pixels is not None]
            if not examples:
                continue
            packed = self.pack(examples)
            pixels = torch.from_numpy(np.stack([e.pixels for e in examples if e.pixels is not None]))
            for name, number in config.validation_levels().items():
                level = torch.full((len(examples),), number, device=self.task.device)
                output = self.task(pixels.to(self.task.device), packed, level, config.main_tokens())
                per_picture = output.rate * num_tokens * config.codec.width / 8
                size.setdefault(name, []).extend(per_picture.tolist())
                asked = [len(example.turns) for example in examples]
                for row, count in zip(output.exact.tolist(), asked, strict=True):
                    right.setdefault(name, []).extend(row[:count])
        found = {f"validation/{name}/exact": sum(hits) / len(hits) for name, hits in right.items()}
        return found | {f"validation/{name}/bytes": sum(b) / len(b) for name, b in size.items()}
