"""The loop of `tofc train-familial`: which members a step trains, their joint loss, and validation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tofc.config import CheckpointConfig
from tofc.familial.members import Member, Roster
from tofc.familial.training.settings import FamilyConfig
from tofc.familial.training.task import FamilyTask, MemberLoss
from tofc.language.model import FULL
from tofc.training.data import Corpus, Example
from tofc.training.loop import TrainingLoop, pixels_of
from tofc.training.optimizers import OptimizerConfig, build_optimizers
from tofc.training.packing import PackedBatch, Packer

MEMORY = 0.9  # of the running losses by which "loss" chooses


class FamilyTrainer(TrainingLoop):
    """The loop over a `FamilyTask`; `roster` lists its members, `checkpoint` says how the base is used."""

    def __init__(
        self,
        config: FamilyConfig,
        task: FamilyTask,
        roster: Roster,
        checkpoint: CheckpointConfig,
        packer: Packer,
        corpus: Corpus,
        folder: Path,
        accelerator: Accelerator,
        console: Console,
    ) -> None:
        self.config, self.task, self.roster, self.checkpoint = config, task, roster, checkpoint
        self.members = [m for m in roster if m.name != FULL or config.main != "frozen"]
        self.running = nn.ParameterDict(
            {m.name: nn.Parameter(torch.full((), torch.inf), requires_grad=False) for m in self.members}
        )
        optimizers, peaks = _optimizers(task, config)
        shared = (config, task, packer, corpus, folder, accelerator, console)
        super().__init__(*shared, optimizers, peaks, config.total_steps)

    def stored(self) -> dict[str, nn.Module]:
        """What a state holds: the branches, what is trained of the main model, and the members' losses."""
        grounded = self.task.grounded
        trained = {n.replace(".", "/"): p for n, p in grounded.named_parameters() if p.requires_grad}
        main = nn.ParameterDict(trained)
        return {"branches": self.task.branches, "main": main, "running": self.running}

    # -- one step ----------------------------------------------------------------------------------------

    def choose(self) -> list[Member]:
        """The members that this step trains."""
        config, count = self.config, min(self.config.members_per_step, len(self.members))
        if config.choose == "all":
            return self.members
        if config.choose == "random":
            picks = np.random.default_rng([config.seed, self.step, 1]).permutation(len(self.members))[:count]
        elif config.choose == "sequential":
            picks = (self.step * count + np.arange(count)) % len(self.members)
        else:  # those never trained count as worst
            losses = [float(self.running[member.name]) for member in self.members]
            picks = np.argsort(np.negative(losses), kind="stable")[:count]
        return [self.members[int(pick)] for pick in picks]

    def backward(self, examples: list[Example]) -> dict[str, float]:
        """Gradients of the chosen members' losses, a pass for every `members_per_pass` of them."""
        self.model.train()
        visual, packed = self.see(examples, self.step)
        teaching = self.task.teach(visual, packed) if self.config.kl else None
        weight = self.reduce(packed.weights.sum()).clamp(min=1e-9)
        chosen = self.choose()
        total = sum(self._weight(member) for member in chosen)
        size = self.config.members_per_pass or len(chosen)
        scalars: dict[str, float] = {}
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            final = start + size >= len(chosen)
            with nullcontext() if final else self.accelerator.no_sync(self.model):
                found: dict[str, MemberLoss] = self.model(visual, packed, part, teaching)
                losses = {m.name: self._mixed(found[m.name]) / weight for m in part}
                loss = torch.stack([self._weight(m) / total * losses[m.name] for m in part]).sum()
                self.accelerator.backward(self.accelerator.num_processes * loss)
            for name, value in losses.items():
                scalars[f"loss/{name}"] = float(self.reduce(value))
        self._remember(scalars)
        return scalars

    def _weight(self, member: Member) -> float:
        return self.config.main_weight if member.name == FULL else 1.0

    def _mixed(self, found: MemberLoss) -> Tensor:
        kl = self.config.kl
        return (1 - kl) * found.answers + kl * found.divergence

    def _remember(self, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            kept = self.running[name.removeprefix("loss/")]
            old = float(kept)
            kept.data.fill_(value if old == torch.inf else MEMORY * old + (1 - MEMORY) * value)

    def see(self, examples: Sequence[Example], step: int) -> tuple[Tensor, PackedBatch]:
        """What the language model sees of some pictures, coded at drawn qualities, and their questions."""
        config = self.config
        tokens = config.draw_tokens(np.random.default_rng([config.seed, step]))
        first = self.accelerator.process_index * len(examples)
        qualities = [
            self._quality(step, first + row) if example.pixels is not None else None
            for row, example in enumerate(examples)
        ]
        pixels = pixels_of(examples, self.task.grounded.image_size, self.task.device)
        return self.task.visual(pixels, tokens, qualities), self.pack(examples)

    def _quality(self, step: int, row: int) -> int | None:
        """Drawn for a place in the global batch, whichever process has it."""
        config = self.config
        draw = np.random.default_rng([config.seed, step, 2, row])
        coded = self.task.codec is not None and float(draw.random()) >= config.uncoded_share
        return int(draw.integers(config.qualities[0], config.qualities[1] + 1)) if coded else None

    # -- what the run says of itself ---------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Whole answers right by member, on validation pictures as the checkpoint sends them by default."""
        config, merging = self.config, self.checkpoint.merging
        self.task.eval()
        tokens = None if merging.tokens == "all" else int(merging.tokens)
        members = list(self.roster)
        right: dict[str, list[bool]] = {member.name: [] for member in members}
        for start in range(0, config.validation_pictures, config.batch_size):
            numbers = range(start, min(start + config.batch_size, config.validation_pictures))
            examples = [self.corpus.picture("validation", number, config.seed) for number in numbers]
            pixels = pixels_of(examples, self.task.grounded.image_size, self.task.device)
            quality = self.checkpoint.default_quality if self.task.codec else None
            visual = self.task.visual(pixels, tokens, [quality] * len(examples))
            found = self.task(visual, self.pack(examples), members)
            for name, loss in found.items():
                for row, example in zip(loss.exact.tolist(), examples, strict=True):
                    right[name].extend(row[: len(example.turns)])
        return {f"validation/{name}/exact": sum(hits) / max(1, len(hits)) for name, hits in right.items()}


def _optimizers(task: FamilyTask, config: FamilyConfig) -> tuple[list[Optimizer], list[list[float]]]:
    """Optimisers over branches and main model, and the highest learning rate of each of their groups."""
    branches = [(f"branch.layers.{n}", p) for n, p in task.branches.named_parameters() if p.requires_grad]
    main = [(n, p) for n, p in task.grounded.named_parameters() if p.requires_grad]
    found = _pair(branches, config, 1.0)
    if config.main == "full":
        found += _pair(main, config, config.main_ratio)
    elif config.main == "lora":
        found.append((_adamw(main, config), config.adapters.learning_rate))
    peaks = [[rate] * len(optimizer.param_groups) for optimizer, rate in found]
    return [optimizer for optimizer, _ in found], peaks


def _pair(
    named: list[tuple[str, nn.Parameter]], config: FamilyConfig, ratio: float
) -> list[tuple[Optimizer, float]]:
    """Optimisers of these parameters with their learning rates."""
    if config.muon_lr is None:
        return [(_adamw(named, config), ratio * config.adamw_lr)]
    muon, adamw = build_optimizers(named, OptimizerConfig(weight_decay=config.weight_decay))
    return [(muon, ratio * config.muon_lr), (adamw, ratio * config.adamw_lr)]


def _adamw(named: list[tuple[str, nn.Parameter]], config: FamilyConfig) -> Optimizer:
    return AdamW([p for _, p in named], betas=(0.9, 0.99), weight_decay=config.weight_decay)
