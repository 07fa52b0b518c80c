"""The loop that training runs share: one process or several, resumable after a kill at any moment.

Every quantity that a step depends on is a function of the seed, the step and the picture's place in the
global batch, never of how many processes share it: one process and several have equal gradients.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from rich.console import Console
from torch import Tensor, nn
from torch.optim import Optimizer

from tofc.training.curves import RunLog
from tofc.training.data import Corpus, DataConfig, Example, picture_batches
from tofc.training.packing import PackedBatch, Packer
from tofc.training.settings import check_share
from tofc.training.state import load_state, save_state

STATE_NAME = "state.safetensors"


def make_accelerator() -> Accelerator:
    """The processes of this run, as torchrun or accelerate started them; one process without either."""
    # What a batch does not meet (quality levels, experts, branches) has no gradient in it.
    return Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


class LoopConfig(Protocol):
    """What the loop reads of a configuration; fields as in `TrainConfig`."""

    @property
    def seed(self) -> int:
        """Of pictures' order and of everything drawn."""

    @property
    def data(self) -> DataConfig:
        """The corpus."""

    @property
    def batch_size(self) -> int:
        """Pictures of a step over all processes."""

    @property
    def max_text_tokens(self) -> int | None:
        """Of a picture's questions."""

    @property
    def clip_norm(self) -> float:
        """Of the gradient over all parameters."""

    @property
    def warmup_steps(self) -> int:
        """In which learning rates rise."""

    @property
    def log_every(self) -> int:
        """Steps between entries of the log."""

    @property
    def validate_every(self) -> int:
        """Steps between validations."""

    @property
    def save_every(self) -> int:
        """Steps between states."""


class TrainingLoop(ABC):
    """Optimisers, data and loop of one run in `folder`.

    `task` is the model with its loss, prepared for the processes as `model`; `peaks` are the learning rates
    of each optimiser's groups at their highest.
    """

    def __init__(
        self,
        config: LoopConfig,
        task: nn.Module,
        packer: Packer,
        corpus: Corpus,
        folder: Path,
        accelerator: Accelerator,
        console: Console,
        optimizers: Sequence[Optimizer],
        peaks: Sequence[Sequence[float]],
        total_steps: int,
    ) -> None:
        self.packer, self.corpus = packer, corpus
        self.folder, self.accelerator, self.console = folder, accelerator, console
        self.loop, self.peaks, self.total_steps = config, peaks, total_steps
        check_share(config.batch_size, accelerator.num_processes)
        prepared = accelerator.prepare(task, *optimizers)
        self.model: Any = prepared[0]
        self.optimizers: list[Any] = list(prepared[1:])
        self.state_path = folder / STATE_NAME
        self.step = 0
        if self.state_path.exists():
            self.step = load_state(self.state_path, self.stored(), self._inner_optimizers())
            self.say(f"going on from step {self.step} of {self.total_steps} in {folder}")

    @abstractmethod
    def stored(self) -> dict[str, nn.Module]:
        """What a state holds, by name."""

    @abstractmethod
    def backward(self, examples: list[Example]) -> dict[str, float]:
        """Gradients of one step from this process' share of the global batch; returns the losses."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """What is measured on validation pictures."""

    def occasional_scalars(self) -> dict[str, float]:
        """More to log, gathered since the last call."""
        return {}

    def say(self, text: str) -> None:
        """Prints on the main process alone."""
        if self.accelerator.is_main_process:
            self.console.print(text)

    def run(self, progress: Callable[[int, dict[str, float]], None]) -> None:
        """Trains to the last step, calling `progress(step, scalars)` after each."""
        config = self.loop
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
                scalars |= self.occasional_scalars()
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
            save_state(self.state_path, self.step, self.stored(), self._inner_optimizers())
        self.accelerator.wait_for_everyone()

    def train_step(self, examples: list[Example]) -> dict[str, float]:
        """One update from this process' share of the global batch; returns what to log."""
        scalars = self.backward(examples)
        trained = [p for opt in self.optimizers for group in opt.param_groups for p in group["params"]]
        norm = self.accelerator.clip_grad_norm_(trained, self.loop.clip_norm)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * self.lr_ratio()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {**scalars, "gradient_norm": float(norm), "lr_ratio": self.lr_ratio()}

    def lr_ratio(self) -> float:
        """Factor on all learning rates at this step: up over the warm-up, down along a cosine."""
        done = self.step / self.total_steps
        return 0.5 * (1.0 + math.cos(math.pi * done)) * min(1.0, (self.step + 1) / self.loop.warmup_steps)

    def reduce(self, value: Tensor) -> Tensor:
        """Sum over the processes, without a gradient."""
        total: Tensor = self.accelerator.reduce(value.detach().clone(), reduction="sum")
        return total

    def pack(self, examples: Sequence[Example]) -> PackedBatch:
        """The examples' questions, where the model computes."""
        turns = [example.turns for example in examples]
        pictured = [example.pixels is not None for example in examples]
        packed = self.packer.pack(turns, self.loop.max_text_tokens, pictured)
        return packed.to(self.accelerator.device)

    def _inner_optimizers(self) -> list[Optimizer]:
        return [optimizer.optimizer for optimizer in self.optimizers]


def pixels_of(examples: Sequence[Example], size: int, device: torch.device) -> Tensor:
    """Pixels uint8 [B, 3, S, S]; blank where an example has no picture."""
    blank = np.zeros((3, size, size), np.uint8)
    pixels = [blank if example.pixels is None else example.pixels for example in examples]
    return torch.from_numpy(np.stack(pixels)).to(device)
