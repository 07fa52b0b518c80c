"""Filling the language side of a model that was built on the meta device with the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tofc.errors import CheckpointError
from tofc.hub import read_tensors
from tofc.language.model import text_model

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
