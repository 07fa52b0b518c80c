"""`tofc train-familial CONFIG`: branches for a checkpoint's language model, bound into a checkpoint.

Every branch starts as the decomposition of the block after its exit, whitened with what that block sees of
training pictures (arXiv 2506.12479, section III-B2).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn
from transformers import LlavaOnevisionForConditionalGeneration

from tofc.config import Checkpoint, resolve
from tofc.errors import UserError
from tofc.familial.branches import Branch, decomposed_block
from tofc.familial.calibration import spectra, watch_inputs
from tofc.familial.family import branch_spec, main_spec
from tofc.familial.members import Roster
from tofc.familial.store import save_family
from tofc.familial.training.settings import FamilyConfig
from tofc.familial.training.task import FamilyTask, Teacher
from tofc.familial.training.trainer import FamilyTrainer
from tofc.hub import read_tensors
from tofc.language.model import FULL, text_model
from tofc.model import load_codec, save_base, save_checkpoint
from tofc.training.adapters import attach
from tofc.training.data import Corpus, Example, load_corpus
from tofc.training.grounded import GroundedModel
from tofc.training.loop import make_accelerator
from tofc.training.packing import Packer
from tofc.training.task import merge_as
from tofc.training.train import choose_bf16, read_base, run_with_bar


def run(config: FamilyConfig, folder: Path, console: Console) -> Path:
    """Trains, or goes on where an interrupted run saved, and writes the checkpoint into `folder`; returns it.

    The run's own files (state, log, TensorBoard events) are in `folder`-run. Raises UserError where the base
    cannot be read or does not fit the configuration.
    """
    training = Run(config, folder.parent / f"{folder.name}-run", console)
    names = training.trainer.roster.names
    run_with_bar(training.trainer, console, {f"loss/{name}": name for name in names})
    if training.trainer.accelerator.is_main_process:
        training.write(folder)
    return folder


class Run:
    """Everything that one run needs, set up from its configuration; `work` holds its files."""

    def __init__(self, config: FamilyConfig, work: Path, console: Console) -> None:
        self.config, self.work = config, work
        self.checkpoint = _base(config)
        accelerator = make_accelerator()
        model, self.processor = read_base(self.checkpoint.base, accelerator.device, config.precision)
        tokenizer: Any = self.processor.tokenizer
        template: Any = self.processor.chat_template  # typed by transformers as possibly several
        packer = Packer(tokenizer, self.processor.image_token, template=template)
        corpus: Corpus = load_corpus(config.data.source, **config.data.options)
        model.requires_grad_(False)
        self.codec = load_codec(self.checkpoint) if self.checkpoint.has_codec else None
        merge = merge_as(self.checkpoint.config.merging, config.ways)
        bf16 = choose_bf16(config.precision, accelerator.device)
        task = FamilyTask(GroundedModel(model), [], self.codec, merge, bf16, None, config.temperature)
        with console.status("looking at what the blocks see"):
            self.branches = decompose_blocks(task, packer, corpus, config)
        self.main = main_spec(model)
        task.branches = nn.ModuleDict({branch.name: branch for branch in self.branches})
        task.teacher = _teacher(model, config)
        self.tuned: Any = _open_main(model, config)
        roster = Roster(self.main, tuple(branch_spec(branch) for branch in self.branches))
        work.mkdir(parents=True, exist_ok=True)
        self.trainer = FamilyTrainer(
            config, task, roster, self.checkpoint.config, packer, corpus, work, accelerator, console
        )

    def write(self, folder: Path) -> None:
        """Writes base, codec and family into `folder` as one checkpoint."""
        base: Any = self.checkpoint.base
        stored = next(tensor.dtype for _, tensor in read_tensors(base, lambda name: True, "cpu"))
        if self.config.main == "lora":
            self.tuned = self.tuned.merge_and_unload()
        written = self.work / "base"
        if self.config.main != "frozen":
            save_base(written, self.tuned.to(stored), self.processor)
            base = written
        family = save_family(self.work / "family", base, self.main, self.branches, stored)
        codec = self.checkpoint.folder / self.checkpoint.config.codec.weights
        weights = load_file(codec) if codec.is_file() else None
        if self.codec is None:
            raise UserError(f"{self.config.base} has no codec: train one first with `tofc train`")
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
    full = Roster(main_spec(task.grounded.model)).named(FULL)
    task.eval()
    with watch_inputs({layer: text.layers[layer] for layer in exits}) as seen, torch.no_grad():
        for examples in _calibration(corpus, config):
            pixels = torch.stack([torch.from_numpy(e.pixels) for e in examples if e.pixels is not None])
            names = [name for name, share in config.tokens.items() if share > 0]
            tokens = None if names[0] == "all" else int(names[0])
            visual = task.visual(pixels.to(task.device), tokens, [None] * len(pixels))
            packed = packer.pack([example.turns for example in examples], config.max_text_tokens)
            task(visual, packed.to(task.device), [full])
    found = {layer: spectra(text.layers[layer], seen[layer]) for layer in exits}
    branches = []
    for branch in config.branches:
        block = decomposed_block(text.layers[branch.exit], found[branch.exit])
        branches.append(Branch(branch.called, branch.exit, [block], branch.ratios).float().requires_grad_())
    return branches


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
            f"{config.base} holds its fine-tuning as adapters beside the base: train the codec again with "
            "merge_adapters: true, so that branches can start from the blocks as they are"
        )
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
