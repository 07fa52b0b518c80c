"""Reading the language side of a checkpoint: as many blocks as a member needs, and nothing of the tower.

Models are built on the meta device, and filled with the tensors of a checkpoint. transformers is imported
where one of its models is wanted: `tofc.language.plain` fills its own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tofc.adapters import LANGUAGE_SIDE, add_adapters
from tofc.config import CONFIG_NAME, Checkpoint
from tofc.errors import CheckpointError
from tofc.hub import fetch, read_json, read_tensors, small_files
from tofc.language.model import text_model
from tofc.model import load_base_config

if TYPE_CHECKING:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration


def language_skeleton(config: LlavaOnevisionConfig) -> LlavaOnevisionForConditionalGeneration:
    """Projector, newline embedding and language model on the meta device: no memory, and no tower."""
    from transformers import LlavaOnevisionForConditionalGeneration

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
    from transformers import AutoTokenizer

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
    from transformers import AutoConfig, AutoModelForCausalLM

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


# Published checkpoints (and save_pretrained, which keeps their layout) name tensors as older transformers
# did.
_RENAMES = (
    (re.compile(r"^language_model\.model\."), "model.language_model."),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^multi_modal_projector\."), "model.multi_modal_projector."),
    (re.compile(r"^image_newline$"), "model.image_newline"),
)
_BLOCK = re.compile(r"(?:language_model\.(?:model\.)?|^model\.)layers\.(\d+)\.")
_LANGUAGE_SIDE = ("model.language_model.", "model.multi_modal_projector.", "model.image_newline", "lm_head.")


def fill(
    model: Any,
    base: str | Path,
    tied: set[str],
    wanted: Callable[[str], bool],
    device: str | torch.device,
    dtype: torch.dtype,
) -> Any:
    """A model that was built on meta with the tensors of `base` that it has room for; CheckpointError."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    depth = len(text_model(model).layers)
    tensors = {}
    for name, tensor in read_tensors(base, lambda n: wanted(n) and block_number(n) < depth, device):
        key = _canonical(name)
        if key in tied:
            continue
        if key not in shapes:
            raise CheckpointError(
                f"{base} holds {name}, which its config does not know: the two do not belong together"
            )
        if tensor.shape != shapes[key]:
            raise CheckpointError(
                f"{base}: {name} is {list(tensor.shape)}, its config asks for {list(shapes[key])}"
            )
        tensors[key] = tensor.to(dtype, copy=True)  # not a view of the mapped file
    missing = sorted(shapes.keys() - tied - tensors.keys())
    if missing:
        raise CheckpointError(
            f"{base} lacks {len(missing)} tensors, the first is {missing[0]}: get the whole checkpoint"
        )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    _fill_rotary_tables(model, device)
    return model.requires_grad_(False)


def block_number(name: str) -> int:
    """Which block of the language model a tensor belongs to, counted from 0; -1 for none."""
    match = _BLOCK.search(name)
    return int(match[1]) if match else -1


def _canonical(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def is_language_side(name: str) -> bool:
    """Whether a tensor is part of projector, newline embedding or language model."""
    return _canonical(name).startswith(_LANGUAGE_SIDE)


def _fill_rotary_tables(model: nn.Module, device: str | torch.device) -> None:
    """Rotary frequencies are in no checkpoint, and a model that was built on meta has none."""
    text = text_model(model)
    # Computed on the CPU like the stock model's, so that they agree to the bit, then moved.
    text.rotary_emb = type(text.rotary_emb)(config=text.config).to(device)
    empty = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if empty:
        raise CheckpointError(
            f"this kind of language model is not supported: nothing fills {', '.join(empty)}"
        )
