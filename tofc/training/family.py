"""`tofc train-familial CONFIG`: branches for a checkpoint's language model, bound into a checkpoint.

Every branch starts as the decomposition of the block after its exit, whitened with what that block sees of
training pictures (arXiv 2506.12479, section III-B2).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from transformers import LlavaOnevisionForConditionalGeneration

from tofc.config import CODEC_WEIGHTS, Checkpoint, resolve
from tofc.errors import UserError
from tofc.familial.branches import Branch, decomposed_block
from tofc.familial.decomposition import Covariance, rank_for_ratio, share_ranks, spectra, watch_inputs
from tofc.familial.members import Member, Roster
from tofc.familial.store import save_family
from tofc.familial.views import branch_spec, main_spec
from tofc.hub import load_codec, read_tensors
from tofc.language.model import FULL, text_model
from tofc.model import save_base, save_checkpoint
from tofc.training.adapters import attach
from tofc.training.data import Corpus, Example
from tofc.training.family_settings import BranchConfig, FamilyConfig
from tofc.training.family_task import FamilyTask, MemberLoss, Teacher
from tofc.training.forward import VisionLanguageModel, choose_bf16, merge_as, pixels_of, read_base
from tofc.training.loop import CodedRun
from tofc.training.optimizers import Named, build_optimizers, group_of
from tofc.training.packing import PackedBatch, Packer
from tofc.training.state import trained_parameters
from tofc.writing import whole_folder

MEMORY = 0.9  # of the running losses by which "loss" chooses


class FamilyRun(CodedRun):
    """The branches learn, and the main model with them if the configuration says so."""

    rates = "muon_lr, adamw_lr or adapters.learning_rate"

    def __init__(self, config: FamilyConfig, work: Path, console: Console) -> None:
        super().__init__(config, work, console)
        self.config = config
        self.checkpoint = _base(config)
        model, self.processor = read_base(self.checkpoint.base, self.device, config.precision)
        self.packer = Packer.of(self.processor, config.end_weight)
        self.codec = load_codec(self.checkpoint)
        merge = merge_as(self.checkpoint.config.merging, config.ways)
        bf16 = choose_bf16(config.precision, self.device)
        grounded = VisionLanguageModel.of(model, self.processor, bf16)
        self.task = FamilyTask(grounded, [], self.codec, merge, None, config.temperature)
        with console.status("looking at what the blocks see"):
            self.branches = self.make_branches()
        self.main = main_spec(model)
        self.task.branches = nn.ModuleDict({branch.name: branch for branch in self.branches})
        self.task.teacher = _teacher(model, config)
        self.tuned: Any = _open_main(model, config)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        self.roster = Roster(self.main, tuple(branch_spec(branch) for branch in self.branches))
        self.shown = {f"loss/{name}": name for name in self.roster.names}
        self.members = [m for m in self.roster if m.name != FULL or config.main != "frozen"]
        self.running = nn.ParameterDict(
            {m.name: nn.Parameter(torch.full((), torch.inf), requires_grad=False) for m in self.members}
        )
        total = config.steps_for(self.corpus.num_pictures("train"))
        self.prepare(self.task, self.make_optimizers(), total)

    def make_branches(self) -> list[Branch]:
        """The branches as training finds them."""
        return decompose_blocks(self.task, self.packer, self.corpus, self.config)

    def make_optimizers(self) -> list[Optimizer]:
        """What updates branches and main model."""
        return _optimizers(self.task, self.config)

    def stored(self) -> dict[str, nn.Module]:
        """What a state holds: the branches, what is trained of the main model, and the members' losses."""
        main = trained_parameters(self.task.grounded)
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
        """Gradients of the chosen members' losses: a pass for every `micro_batch` pictures and
        `members_per_pass` members."""
        self.model.train()
        size = self.config.micro_batch or len(examples)
        first = self.accelerator.process_index * len(examples)
        starts = range(0, len(examples), size)
        seen = [self.see(examples[at : at + size], self.step, first + at) for at in starts]
        chosen = self.choose()
        total = sum(self._weight(member) for member in chosen)
        passes = [
            (visual, packed, weight, members)
            for group in self._classes(chosen)
            for weight, packs in [self._lessons(group[0], examples, size)]
            for (visual, packed) in zip(seen, packs, strict=True)
            for members in self._parts(group)
        ]
        sums = dict.fromkeys((f"loss/{member.name}" for member in chosen), 0.0)
        for number, (visual, packed, weight, part) in enumerate(passes, start=1):
            teaching = self.task.teach(visual, packed) if self.config.kl else None
            with nullcontext() if number == len(passes) else self.accelerator.no_sync(self.model):
                found: dict[str, MemberLoss] = self.model(visual, packed, part, teaching)
                losses = {m.name: self._mixed(found[m.name]) / weight for m in part}
                loss = torch.stack([self._weight(m) / total * losses[m.name] for m in part]).sum()
                self.accelerator.backward(self.accelerator.num_processes * loss)
            for name, value in losses.items():
                sums[f"loss/{name}"] += float(self.reduce(value))
        self._remember(sums)
        self.finish_gradients()
        return sums

    def _classes(self, members: list[Member]) -> list[list[Member]]:
        """The members that learn from the same questions, together."""
        classes: defaultdict[tuple[str, ...], list[Member]] = defaultdict(list)
        for member in members:
            specialty = self._specialty(member)
            classes[() if specialty is None else specialty.learns].append(member)
        return list(classes.values())

    def _specialty(self, member: Member) -> BranchConfig | None:
        """What the configuration says of a member's branch; None of the main model and of components."""
        return next((branch for branch in self.config.branches if branch.called == member.branch), None)

    def _lessons(
        self, member: Member, examples: list[Example], size: int
    ) -> tuple[Tensor, list[PackedBatch]]:
        """The questions that a member learns from, `size` examples in each batch, and the weight of all."""
        specialty, own = self._specialty(member), [example.turns for example in examples]
        if specialty is not None:
            own = [tuple(turn for turn in turns if specialty.is_taught(turn.category)) for turns in own]
        pictured = [example.pixels is not None for example in examples]
        packs = [
            self.pack_turns(own[at : at + size], pictured[at : at + size])
            for at in range(0, len(examples), size)
        ]
        weight = torch.stack([packed.weights.sum() for packed in packs]).sum()
        return self.reduce(weight).clamp(min=1e-9), packs

    def _parts(self, members: list[Member]) -> list[list[Member]]:
        """So many of them as share a pass."""
        at_once = self.config.members_per_pass or len(members)
        return [members[start : start + at_once] for start in range(0, len(members), at_once)]

    def finish_gradients(self) -> None:
        """What is left to do between the gradients of a step and its update."""

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

    def see(self, examples: list[Example], step: int, first: int) -> Tensor:
        """What the language model sees of some pictures, coded at drawn qualities.

        `first` is the place of the first of them in the global batch.
        """
        config = self.config
        tokens = config.draw_tokens(np.random.default_rng([config.seed, step]))
        qualities = [
            self._quality(step, first + row) if example.pixels is not None else None
            for row, example in enumerate(examples)
        ]
        pixels = pixels_of(examples, self.task.grounded.encoder.image_size)
        return self.task.visual(pixels, tokens, qualities)

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
        settings = self.checkpoint.config
        self.task.eval()
        tokens = None if settings.merging.tokens == "all" else int(settings.merging.tokens)
        members = list(self.roster)
        right: dict[str, list[bool]] = {member.name: [] for member in members}
        for examples in self.validation_batches(self.config.batch_size):
            pixels = pixels_of(examples, self.task.grounded.encoder.image_size)
            visual = self.task.visual(pixels, tokens, [settings.default_quality] * len(examples))
            found = self.task(visual, self.pack(examples), members)
            for name, loss in found.items():
                for row, example in zip(loss.exact.tolist(), examples, strict=True):
                    right[name].extend(row[: len(example.turns)])
        return {f"validation/{name}/exact": sum(hits) / max(1, len(hits)) for name, hits in right.items()}

    def write(self, folder: Path) -> None:
        """Writes base, codec and family into `folder` as one checkpoint."""
        base: Any = self.checkpoint.base
        stored = next(tensor.dtype for _, tensor in read_tensors(base, lambda name: True, "cpu"))
        if self.config.main == "lora":
            self.tuned = self.tuned.merge_and_unload()
        written = self.folder / "base"
        if self.config.main != "frozen":
            with whole_folder(written) as draft:
                save_base(draft, (self.tuned.to(stored), self.processor))
            base = written
        family = save_family(self.folder / "family", base, self.main, self.branches, stored)
        codec = self.checkpoint.folder / CODEC_WEIGHTS
        weights = load_file(codec) if codec.is_file() else None
        save_checkpoint(
            folder, base, self.codec, self.checkpoint.config, codec_weights=weights, family=family
        )


def decompose_blocks(task: FamilyTask, packer: Packer, corpus: Corpus, config: FamilyConfig) -> list[Branch]:
    """Complete branches from the blocks after their exits, whitened on `calibration_pictures`."""
    text = text_model(task.grounded.model)
    exits = sorted({branch.exit for branch in config.branches})
    if exits[-1] >= len(text.layers):
        raise UserError(
            f"a branch exits after block {exits[-1]}; the language model of {config.base} has "
            f"{len(text.layers)}, so exits go from 1 to {len(text.layers) - 1}"
        )
    seen = watch_blocks(task, packer, corpus, config, exits)
    branches = []
    for branch in config.branches:
        block = text.layers[branch.exit]
        found = spectra(block, seen[branch.exit])
        budget = sum(s.cost * rank_for_ratio(len(s.left), s.right.shape[1], 1.0) for s in found.values())
        ranks = share_ranks(found, budget) if config.ranks == "adaptive" else None
        new = decomposed_block(block, found, ranks)
        branches.append(Branch(branch.called, branch.exit, [new], branch.ratios).float().requires_grad_())
    return branches


def watch_blocks(
    task: FamilyTask, packer: Packer, corpus: Corpus, config: FamilyConfig, numbers: Sequence[int]
) -> dict[int, dict[str, Covariance]]:
    """Covariances of what goes into the layers of these blocks, over `calibration_pictures`; no padding."""
    text = text_model(task.grounded.model)
    full = Roster(main_spec(task.grounded.model)).named(FULL)
    task.eval()
    names = [name for name, share in config.tokens.items() if share > 0]
    tokens = None if names[0] == "all" else int(names[0])
    counts: dict[str, Tensor] = {}
    watched = watch_inputs({number: text.layers[number] for number in numbers}, lambda: counts.get("now"))
    with watched as seen, torch.no_grad():
        for examples in _calibration(corpus, config):
            pixels = pixels_of(examples, task.grounded.encoder.image_size)
            visual = task.visual(pixels, tokens, [None] * len(pixels))
            packed = packer.pack([example.turns for example in examples], config.max_text_tokens)
            packed = packed.to(task.grounded.device)
            before = packed.prefix_ids.numel() + visual.shape[1]
            counts["now"] = functional.pad(packed.segments >= 0, (before, 0), value=True)
            task(visual, packed, [full])
    return seen


def _calibration(corpus: Corpus, config: FamilyConfig) -> Iterator[list[Example]]:
    for start in range(0, config.calibration_pictures, config.batch_size):
        numbers = range(start, min(start + config.batch_size, config.calibration_pictures))
        examples = [corpus.picture("train", number, config.seed) for number in numbers]
        pictured = [example for example in examples if example.pixels is not None]
        if pictured:
            yield pictured


def _base(config: FamilyConfig) -> Checkpoint:
    checkpoint = resolve(config.base)
    if checkpoint.adapters is not None:
        raise UserError(
            f"{config.base} holds its fine-tuning as adapters beside the base, and branches start from the "
            f"blocks as they are: tofc merge {config.base} DIR, and give DIR as base"
        )
    if not checkpoint.has_codec:
        raise UserError(f"{config.base} has no codec: train one first with `tofc train`")
    return checkpoint


def _teacher(model: LlavaOnevisionForConditionalGeneration, config: FamilyConfig) -> Teacher | None:
    """The main model as it is before training; itself where it stays so."""
    if not config.kl:
        return None
    text, head = text_model(model), model.lm_head
    if config.main != "frozen":
        text, head = copy.deepcopy(text), copy.deepcopy(head)
    return Teacher(text, head)


def _open_main(model: LlavaOnevisionForConditionalGeneration, config: FamilyConfig) -> Any:
    """Makes trainable what `config.main` says; returns the model, with adapters where it gets some."""
    if config.main == "lora":
        return attach(model, config.adapters, config.seed)
    if config.main == "full":
        text_model(model).float().requires_grad_()
        model.lm_head.float().requires_grad_()
    return model


def _optimizers(task: FamilyTask, config: FamilyConfig) -> list[Optimizer]:
    """Optimisers over branches and main model."""
    branches = [(f"branch.layers.{n}", p) for n, p in task.branches.named_parameters() if p.requires_grad]
    main = [(n, p) for n, p in task.grounded.named_parameters() if p.requires_grad]
    found = _pair(branches, config, 1.0)
    if config.main == "full":
        found += _pair(main, config, config.main_ratio)
    elif config.main == "lora":
        found.append(_adamw(main, config, config.adapters.learning_rate))
    return found


def _pair(named: Named, config: FamilyConfig, ratio: float) -> list[Optimizer]:
    if config.muon_lr is None:
        return [_adamw(named, config, ratio * config.adamw_lr)]
    return build_optimizers(named, ratio * config.muon_lr, ratio * config.adamw_lr, config.weight_decay)


def _adamw(named: Named, config: FamilyConfig, peak: float) -> Optimizer:
    group = group_of([p for _, p in named], peak)
    return AdamW([group], betas=(0.9, config.beta2), weight_decay=config.weight_decay)
