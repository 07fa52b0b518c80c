"""Families of plain language models: a folder with `base/` and `family/`, and no pictures.

base/      a causal language model as transformers writes it
family/    its branches, as beside a LLaVA-OneVision model
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tofc.errors import CheckpointError
from tofc.familial.branches import text_model
from tofc.familial.family import Family
from tofc.familial.members import FULL
from tofc.familial.store import loader, read_index
from tofc.hub import read_tensors

BASE, FAMILY = "base", "family"
_BLOCK = re.compile(r"^model\.layers\.(\d+)\.")


def load_family(folder: str | Path, exit: str = FULL, dtype: torch.dtype = torch.float32) -> Family:
    """A family of a plain language model, of which only the blocks that `exit` needs are read.

    `Family.model()` is then that member as a stock model that generates. Raises UserError for an unknown
    exit, CheckpointError where the folder is not whole.
    """
    base, branches = Path(folder) / BASE, Path(folder) / FAMILY
    index = read_index(branches, base)
    depth = max(1, index.roster.named(exit).exit_layer)  # one block shows of what kind branches are
    config: Any = copy.deepcopy(AutoConfig.from_pretrained(base))
    config.num_hidden_layers = depth
    config.layer_types = config.layer_types[:depth]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)

    def wanted(name: str) -> bool:
        block = _BLOCK.match(name)
        return block is None or int(block[1]) < depth

    tensors = {name: tensor.to(dtype, copy=True) for name, tensor in read_tensors(base, wanted)}
    missing = set(model.state_dict()) - set(tensors) - set(model._tied_weights_keys or ())
    if missing:
        raise CheckpointError(f"{base} lacks {len(missing)} tensors, the first is {min(missing)}")
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    text = text_model(model)
    text.rotary_emb = type(text.rotary_emb)(config=text.config)  # in no checkpoint
    model = model.eval().requires_grad_(False)
    return Family(model, roster=index.roster, load=loader(branches, model), default=exit)
