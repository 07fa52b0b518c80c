"""The training loop over a `TaskModel`: one process or several, resumable after a kill at any moment.

Every quantity that a step depends on is a function of the seed, the step and the picture's place in the
global batch, never of how many processes share it: one process and several have equal gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from rich.console import Console
from torch import Tensor, nn

from entropy.router import balance_loss
from tofc.training.codec import IDLE_USAGE, idle_experts
from tofc.training.curves import RunLog
from tofc.training.data import Corpus, Example, picture_batches
from tofc.training.packing import PackedBatch, Packer
from tofc.training.settings import TrainConfig
from tofc.training.state import load_state, save_state
from tofc.training.task import TaskModel, TaskOutput, keep_step_weight

STATE_NAME = "state.safetensors"


def make_accelerator() -> Accelerator:
    """The processes of this run, as torchrun or accelerate started them; one process without either."""
    # Quality levels and experts that a batch does not meet have no gradient in it.
    return Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


class Trainer:
    """Optimiser, data and loop of one run in `folder`."""

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
        self.config, self.packer, self.corpus = config, packer, corpus
        self.folder, self.accelerator, self.console = folder, accelerator, console
        self.total_steps = config.steps_for(corpus.num_pictures("train"))
        config.check_share(accelerator.num_processes)
        gains = [task.codec.first_gain, task.codec.gain_growth]
        codec = [p for p in task.codec.parameters() if p.requires_grad and all(p is not g for g in gains)]
        adapters = [p for p in task.grounded.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [{"params": p} for p in (codec, gains, adapters) if p],
            lr=1.0,
            betas=(0.9, 0.99),
            weight_decay=0.0,
        )
        self.peaks = [config.codec_lr, config.codec_lr * config.gain_ratio]
        self.peaks += [config.adapters.learning_rate] if config.adapters else []
        self.model, self.optimizer = accelerator.prepare(task, optimizer)
        self.task: TaskModel = accelerator.unwrap_model(self.model)
        self.steps = torch.tensor(config.codec.steps, device=task.device)
        self.weights = torch.tensor(config.rate_weights(), device=task.device, dtype=torch.float32)
        self.state_path = folder / STATE_NAME
        self.step = 0
        if self.state_path.exists():
            self.step = load_state(self.state_path, self._stored(), [self._inner_optimizer()])
            self.say(f"going on from step {self.step} of {self.total_steps} in {folder}")
        self._usage: Tensor | None = None
        self._warned: set[int] = set()

    def say(self, text: str) -> None:
        """Prints on the main process alone."""
        if self.accelerator.is_main_process:
            self.console.print(text)

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = self.optimizer.optimizer
        return inner

    def _stored(self) -> dict[str, nn.Module]:
        """What a state holds: the whole codec, and of the base model what is trained."""
        trained = {
            name.replace(".", "/"): p for name, p in self.task.grounded.named_parameters() if p.requires_grad
        }
        return {"codec": self.task.codec, "adapters": nn.ParameterDict(trained)}

    def run(self, progress: Callable[[int, dict[str, float]], None]) -> None:
        """Trains to the last step, calling `progress(step, scalars)` after each."""
        config = self.config
        log = RunLog(self.folder, self.step) if self.accelerator.is_main_process else None
        share = config.batch_size // self.accelerator.num_processes
        first = self.accelerator.process_index * share
        batches = picture_batches(
            self.corpus,
            "train",
            [
                range(step * config.batch_size + first, step * config.batch_size + first + share)
                for step in range(self.step, self.total_steps)
            ],
            config.seed,
            config.data.num_workers,
        )
        started = time.monotonic()
        for examples in batches:
            scalars = self.train_step(examples)
            self.step += 1
            if self.step % config.log_every == 0:
                seconds, started = time.monotonic() - started, time.monotonic()
                scalars["pictures_per_second"] = config.log_every * config.batch_size / seconds
                scalars |= self._usage_scalars()
                if log:
                    log.add(self.step, scalars)
            if log and self.step % config.validate_every == 0:
                log.add(self.step, self.validate())
            if self.step % config.save_every == 0 or self.step == self.total_steps:
                self.save()
            progress(self.step, scalars)
        if log:
            log.close()

    def save(self) -> None:
        """Writes the state that a killed run goes on from."""
        if self.accelerator.is_main_process:
            save_state(self.state_path, self.step, self._stored(), [self._inner_optimizer()])
        self.accelerator.wait_for_everyone()

    # -- one step ----------------------------------------------------------------------------------------

    def train_step(self, examples: list[Example]) -> dict[str, float]:
        """One update from this process' share of the global batch; returns what to log."""
        scalars = self.backward(examples)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = self.accelerator.clip_grad_norm_(trained, self.config.clip_norm)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self._lr_ratio()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**scalars, "gradient_norm": float(norm), "lr_ratio": self._lr_ratio()}

    def backward(self, examples: list[Example]) -> dict[str, float]:
        """Gradients of one step, summed over passes of at most `micro_batch` pictures; returns the losses."""
        config = self.config
        asking = self.step >= config.feature_steps
        self.model.train()
        size = config.micro_batch or len(examples)
        passes = [examples[start : start + size] for start in range(0, len(examples), size)]
        packs = [self._pack(part) if asking else None for part in passes]
        weight = torch.tensor([sum(float(pack.weights.sum()) for pack in packs if pack)])
        weight = self._reduce(weight.to(self.task.device)).clamp(min=1e-9)
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

    def _pack(self, examples: list[Example]) -> PackedBatch:
        turns = [example.turns for example in examples]
        pictured = [example.pixels is not None for example in examples]
        return self.packer.pack(turns, self.config.max_text_tokens, pictured).to(self.task.device)

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
        size = self.task.grounded.image_size
        blank = np.zeros((3, size, size), np.uint8)
        pixels = [blank if example.pixels is None else example.pixels for example in examples]
        batch = torch.from_numpy(np.stack(pixels)).to(self.task.device)
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
        usage = self._reduce(output.usage.detach())
        counts = self._reduce(output.counts)
        # Linear in this process' usage: the gradient is that of the whole batch's balance.
        whole = usage.clone().requires_grad_()
        balance = balance_loss(whole, counts)
        (slope,) = torch.autograd.grad(balance, whole)
        mean_scale = self._reduce((coded * scale).sum()) / self._reduce(coded.float().sum()).clamp(min=1.0)
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
        values = {name: float(self._reduce(value)) for name, value in parts.items()}
        return loss, {**values, "balance": float(balance.detach()) / passes}

    def _reduce(self, value: Tensor) -> Tensor:
        """Sum over the processes, without a gradient."""
        total: Tensor = self.accelerator.reduce(value.detach().clone(), reduction="sum")
        return total

    def _temperature(self) -> float:
        hot, cold = self.config.temperature
        return hot * (cold / hot) ** (self.step / self.total_steps)

    def _lr_ratio(self) -> float:
        done = self.step / self.total_steps
        return 0.5 * (1.0 + math.cos(math.pi * done)) * min(1.0, (self.step + 1) / self.config.warmup_steps)

    # -- what the run says of itself ---------------------------------------------------------------------

    def _note_usage(self, usage: Tensor) -> None:
        self._usage = usage if self._usage is None else self._usage + usage

    def _usage_scalars(self) -> dict[str, float]:
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
            packed = self._pack(examples)
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
