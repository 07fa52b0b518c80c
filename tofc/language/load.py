"""Reading the language side of a checkpoint: as many blocks as a member needs, and nothing of the tower."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from tofc.adapters import LANGUAGE_SIDE, add_adapters
from tofc.config import CONFIG_NAME, Checkpoint
from tofc.errors import CheckpointError
from tofc.hub import fetch, read_json, small_files
from tofc.language.filling import block_number, fill, is_language_side
from tofc.language.model import text_model
from tofc.model import load_base_config


def language_skeleton(config: LlavaOnevisionConfig) -> LlavaOnevisionForConditionalGeneration:
    """Projector, newline embedding and language model on the meta device: no memory, and no tower."""
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(config)
    model.model.vision_tower = None
    return model.eval()


def load_language_side(
    base: str | Path,
    config: LlavaOnevisionConfig | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    num_layers: int | None = None,
) -> LlavaOnevisionForConditionalGeneration:
    """The stock model with `vision_tower` None; of the tower not one byte is read.

    `base` is a folder or a hub id. With `num_layers` only so many first blocks of the language model are
    read, and the model has no more: what a member of a family needs (`tofc.familial`). Raises
    CheckpointError where a tensor is missing or has another shape than the config says.
    """
    config = load_base_config(base) if config is None else config
    if num_layers is not None:
        config = copy.deepcopy(config)
        _cut(config.text_config, num_layers)
    model = language_skeleton(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return fill(model, base, tied, is_language_side, device, dtype)


def load_edge_model(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, num_layers: int | None = None
) -> LlavaOnevisionForConditionalGeneration:
    """The language side of a checkpoint with its adapters; see `load_language_side`."""
    model = load_language_side(checkpoint.base, None, device, dtype, num_layers)
    if checkpoint.adapters:
        depth = len(text_model(model).layers)
        add_adapters(
            model, checkpoint.adapters, LANGUAGE_SIDE, wanted=lambda name: block_number(name) < depth
        )
    return model


def load_tokenizer(base: str | Path) -> Any:
    """The tokenizer of a model, a `PreTrainedTokenizerBase`; CheckpointError where there is none."""
    try:
        return AutoTokenizer.from_pretrained(small_files(base), trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{base}: no tokenizer: {' '.join(str(error).split())}") from error


def load_causal(
    base: str | Path,
    num_layers: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A plain causal language model of a folder, or its first `num_layers` blocks; errors as above."""
    file = fetch(base, CONFIG_NAME)
    read_json(file)  # refuses what is no plain configuration
    config: Any = copy.deepcopy(AutoConfig.from_pretrained(file.parent, trust_remote_code=False))
    if num_layers is not None:
        _cut(config, num_layers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return fill(model.eval(), base, tied, lambda name: True, device, dtype)


def _cut(config: Any, num_layers: int) -> None:
    config.num_hidden_layers = num_layers
    config.layer_types = config.layer_types[:num_layers]
