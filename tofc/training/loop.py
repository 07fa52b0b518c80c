"""The loop of every training run: one process or several, resumable after a kill at any moment.

Every quantity that a step depends on is a function of the seed, the step and the picture's place in the
global batch, never of how many processes share it: one process and several have equal gradients.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer

from tofc.training.data import Example, Turn, load_corpus, picture_batches
from tofc.training.optimizers import cosine_decay, diverged, warm_up
from tofc.training.packing import PackedBatch, Packer
from tofc.training.settings import CodedRunConfig, RunConfig
from tofc.training.state import STATE_NAME, RunLog, load_state, save_state

SAID_EVERY = 100  # steps between lines where there is no terminal


class TrainingRun(ABC):
    """One run, whose state and log are in `folder`.

    A recipe builds the model with its loss, hands both over to `prepare`, and says what a step's gradients
    are (`backward`), what is measured (`validate`) and what is written at the end (`write`). `shown` maps
    scalars to the words that progress has for them, `rates` names what to lower where a run diverges,
    `clip_norm` bounds the gradient over all parameters.
    """

    shown: Mapping[str, str]
    rates: str
    clip_norm: float
    packer: Packer

    def __init__(self, config: RunConfig, folder: Path, console: Console) -> None:
        self.settings, self.folder, self.console = config, folder, console
        # What a batch does not meet (quality levels, experts, branches) has no gradient in it.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(kwargs_handlers=[unused])
        self.corpus: Any = load_corpus(config.data.source, **config.data.options)
        self.step, self.total_steps = 0, 0

    def prepare(self, task: nn.Module, optimizers: Sequence[Optimizer], total_steps: int) -> None:
        """Spreads the model with its loss over the processes, as `model`, and takes up an earlier state."""
        self.total_steps = total_steps
        self.folder.mkdir(parents=True, exist_ok=True)
        prepared = self.accelerator.prepare(task, *optimizers)
        self.model: Any = prepared[0]
        self.optimizers: list[Any] = list(prepared[1:])
        if self.state_path.exists():
            self.step = load_state(self.state_path, self.stored(), self._inner_optimizers())
            self.say(f"going on from step {self.step} of {total_steps} in {self.folder}")

    @property
    def state_path(self) -> Path:
        """The state that a killed run goes on from."""
        return self.folder / STATE_NAME

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @abstractmethod
    def stored(self) -> dict[str, nn.Module]:
        """What a state holds, by name."""

    @abstractmethod
    def backward(self, examples: list[Any]) -> dict[str, float]:
        """Gradients of one step from this process' share of the global batch; returns the losses."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """What is measured on validation pictures."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Writes what was learned into `folder`, whole or not at all."""

    @abstractmethod
    def pictures_of(self, step: int) -> range:
        """Numbers of the pictures of a step, over all processes."""

    @abstractmethod
    def decay(self) -> float:
        """Factor on all learning rates at this step, warm-up and decay."""

    def rate_factor(self, group: Mapping[str, Any]) -> float:
        """Factor on the learning rate of one group at this step."""
        return 1.0

    def occasional_scalars(self) -> dict[str, float]:
        """More to log, gathered since the last call."""
        return {}

    def say(self, text: str) -> None:
        """Prints on the main process alone."""
        if self.accelerator.is_main_process:
            self.console.print(text)

    def train(self, folder: Path) -> Path:
        """Runs what is left of the run, and writes its result into `folder`; returns that."""
        self.run()
        if self.accelerator.is_main_process:
            self.write(folder)
        return folder

    def run(self) -> None:
        """Trains to the last step."""
        config = self.settings
        log = RunLog(self.folder, self.step) if self.accelerator.is_main_process else None
        steps = [self._share_of(step) for step in range(self.step, self.total_steps)]
        workers = config.data.num_workers if steps else 0
        started = time.monotonic()
        with self._progress() as show:
            for examples in picture_batches(self.corpus, "train", steps, config.seed, workers):
                scalars = self.train_step(examples)
                self.step += 1
                if self.step % config.log_every == 0:
                    seconds, started = time.monotonic() - started, time.monotonic()
                    pictures = len(self.pictures_of(self.step - 1))
                    scalars["pictures_per_second"] = config.log_every * pictures / seconds
                    scalars |= self.occasional_scalars()
                    if log:
                        log.add(self.step, scalars)
                if log and self.step % config.validate_every == 0:
                    log.add(self.step, self.validate())
                    log.draw()
                if self.step % config.save_every == 0 or self.step == self.total_steps:
                    self.save()
                show(scalars)
        if log:
            log.close()

    def _share_of(self, step: int) -> range:
        """Numbers of this process' pictures of a step."""
        pictures, processes = self.pictures_of(step), self.accelerator.num_processes
        share = len(pictures) // processes
        first = pictures.start + self.accelerator.process_index * share
        return range(first, first + share)

    def save(self) -> None:
        """Writes the state that a killed run goes on from; UserError for weights that are no numbers."""
        if not all(bool(p.isfinite().all()) for p in self._trained()):
            raise diverged(self.step, "a weight", self.rates)
        if self.accelerator.is_main_process:
            save_state(self.state_path, self.step, self.stored(), self._inner_optimizers())
        self.accelerator.wait_for_everyone()

    def train_step(self, examples: list[Any]) -> dict[str, float]:
        """One update from this process' share of the global batch; returns what to log.

        Raises UserError, with all weights as they were, where a loss or the gradient is not finite.
        """
        scalars = self.backward(examples)
        norm = float(self.accelerator.clip_grad_norm_(self._trained(), self.clip_norm))
        ratio = self.decay()
        for name, value in {**scalars, "the gradient": norm}.items():
            if not math.isfinite(value):
                raise diverged(self.step + 1, name, self.rates)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * ratio * self.rate_factor(group)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {**scalars, "gradient_norm": norm, "lr_ratio": ratio}

    def reduce(self, value: Tensor) -> Tensor:
        """Sum over the processes, without a gradient."""
        total: Tensor = self.accelerator.reduce(value.detach().clone(), reduction="sum")
        return total

    def pack(self, examples: Sequence[Example]) -> PackedBatch:
        """The examples' questions, where the model computes."""
        pictured = [example.pixels is not None for example in examples]
        return self.pack_turns([example.turns for example in examples], pictured)

    def pack_turns(self, turns: Sequence[tuple[Turn, ...]], pictured: Sequence[bool]) -> PackedBatch:
        """Questions about pictures, or about none, where the model computes."""
        return self.packer.pack(turns, self.settings.max_text_tokens, pictured).to(self.device)

    def validation_batches(self, size: int) -> Iterator[list[Any]]:
        """The validation pictures, so many at a time."""
        count = self.settings.validation_pictures
        count = min(count, self.corpus.num_pictures("validation") or count)
        for start in range(0, count, size):
            numbers = range(start, min(start + size, count))
            yield [self.corpus.picture("validation", number, self.settings.seed) for number in numbers]

    def _trained(self) -> list[nn.Parameter]:
        return [p for opt in self.optimizers for group in opt.param_groups for p in group["params"]]

    def _inner_optimizers(self) -> list[Optimizer]:
        return [optimizer.optimizer for optimizer in self.optimizers]

    @contextmanager
    def _progress(self) -> Iterator[Callable[[Mapping[str, float]], None]]:
        """A progress bar on a terminal, now and then a line elsewhere."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        visible = self.console.is_terminal and self.accelerator.is_main_process
        with Progress(*columns, console=self.console, disable=not visible) as bar:
            task = bar.add_task("training", total=self.total_steps, completed=self.step)

            def show(scalars: Mapping[str, float]) -> None:
                words = "  ".join(
                    f"{word} {scalars[n]:.4f}" for n, word in self.shown.items() if n in scalars
                )
                bar.update(task, completed=self.step, description=words)
                if not self.console.is_terminal and self.step % SAID_EVERY == 0:
                    self.say(f"step {self.step}/{self.total_steps}  {words}")

            yield show


class CodedRun(TrainingRun):
    """A run on a base model whose features are coded, in batches of one size, along a cosine."""

    def __init__(self, config: CodedRunConfig, folder: Path, console: Console) -> None:
        super().__init__(config, folder, console)
        processes = self.accelerator.num_processes
        self._coded, self.clip_norm = config, config.clip_norm
        check_share(config.batch_size, processes)

    def pictures_of(self, step: int) -> range:
        """Numbers of the pictures of a step, over all processes."""
        size = self._coded.batch_size
        return range(step * size, (step + 1) * size)

    def decay(self) -> float:
        """Factor on all learning rates at this step: up over the warm-up, down along a cosine."""
        return cosine_decay(self.step, self.total_steps) * warm_up(self.step, self._coded.warmup_steps)


def check_share(batch_size: int, processes: int) -> None:
    """Raises ValueError where the batch does not divide among the processes."""
    if batch_size % processes:
        raise ValueError(
            f"batch_size {batch_size} does not divide among {processes} processes; "
            f"give a multiple of {processes}"
        )
