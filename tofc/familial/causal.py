"""Families of plain language models: a folder with `base/` and `family/`, and no pictures.

base/      a causal language model as transformers writes it
family/    its branches, as beside a LLaVA-OneVision model
"""

from __future__ import annotations

from pathlib import Path

import torch

from tofc.familial.store import index_of, loader
from tofc.familial.views import Family
from tofc.language.load import load_causal
from tofc.language.model import FULL

BASE, FAMILY = "base", "family"


def load_family(folder: str | Path, exit: str = FULL, dtype: torch.dtype = torch.float32) -> Family:
    """A family of a plain language model, of which only the blocks that `exit` needs are read.

    `Family.model()` is then that member as a stock model that generates. Raises UserError for an unknown
    exit, CheckpointError where the folder is not whole.
    """
    base, branches = Path(folder) / BASE, Path(folder) / FAMILY
    index = index_of(branches, base)
    depth = max(1, index.roster.named(exit).exit_layer)  # one block shows of what kind branches are
    model = load_causal(base, depth, dtype=dtype)
    return Family(model, roster=index.roster, load=loader(branches, model), default=exit)
