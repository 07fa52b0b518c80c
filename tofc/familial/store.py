"""A family on disk: a folder with one index and a safetensors file for each branch.

    family/
      family.json             members, sizes, and which main model they belong to
      e2.safetensors          blocks.0.self_attn.q_proj.down [rank, in], ...up [rank, out], norms, biases

The leading components stand first in each tensor, so that a smaller member is read as the beginning of each.
Families of plain language models, which see no pictures, have their model beside that, in base/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from encoders.files import open_tensors
from tofc.errors import CheckpointError
from tofc.familial.branches import Branch, LowRankLinear, kept_rank
from tofc.familial.index import INDEX, Index, Policy, read_index, write_index
from tofc.familial.members import BranchSpec, MainSpec, Roster
from tofc.familial.views import Family, Load, branch_spec
from tofc.hub import checkpoint_faults, fetch, read_tensors
from tofc.language.load import load_causal
from tofc.language.model import FULL, text_model
from tofc.writing import write_whole

# Weights of the main model that every member reads anyway, small, and changed by any training.
_TOLD_BY = ("layers.0.self_attn.q_proj.weight", "layers.0.input_layernorm.weight")


def fingerprint(base: str | Path) -> str:
    """Hexadecimal digest that tells a main model (folder or hub id) from others, and from a retrained one."""
    digest = hashlib.sha256()
    told = dict(read_tensors(base, lambda name: "vision" not in name and name.endswith(_TOLD_BY)))
    if len(told) != len(_TOLD_BY):
        raise CheckpointError(
            f"{base} is no language model of a known kind: it lacks {' or '.join(_TOLD_BY)}"
        )
    for ending in _TOLD_BY:
        tensor = next(value for name, value in told.items() if name.endswith(ending))
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def save_family(
    folder: str | Path,
    base: str | Path,
    main: MainSpec,
    branches: Sequence[Branch],
    dtype: torch.dtype = torch.float16,
    policy: Policy | None = None,
) -> Path:
    """Writes branches of the main model `base` (a folder or hub id, as stored) into `folder`; returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    specs = tuple(branch_spec(branch) for branch in branches)
    Roster(main, specs)  # names must differ
    for branch in branches:
        tensors = {name: _stored(tensor, dtype) for name, tensor in branch.state_dict().items()}
        write_whole(folder / f"{branch.name}.safetensors", save(tensors))
    write_index(folder, Index(fingerprint(base), main, specs, policy))
    return folder


def index_of(folder: str | Path, base: str | Path) -> Index:
    """The index of the family of a main model; CheckpointError where it is that of another, or none."""
    index = read_index(folder)
    if (found := fingerprint(base)) != index.fingerprint:
        raise CheckpointError(
            f"{folder} is the family of another model (it was trained with {index.fingerprint[:8]}, "
            f"{base} is {found[:8]}): its exits {', '.join(index.roster.names)} mean nothing here. "
            "Train one with `tofc train-familial`, or load the checkpoint that it came with"
        )
    return index


def loader(folder: Path, model: Any) -> Load:
    """How a family in `folder` reads the branches of `model`."""
    text = text_model(model)

    def load(spec: BranchSpec, ratio: float) -> Branch:
        return load_branch(folder, spec, ratio, text.config, type(text.layers[0]))

    return load


def load_branch(
    folder: Path, spec: BranchSpec, ratio: float, config: Any, main_block: type[nn.Module]
) -> Branch:
    """A branch at the leading share `ratio` of its ranks; of the rest not one byte is read.

    Raises CheckpointError where the file does not hold what the index says.
    """
    file = fetch(folder, f"{spec.name}.safetensors")
    branch = _skeleton(spec, ratio, config, main_block)
    shapes = {name: tensor.shape for name, tensor in branch.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    with checkpoint_faults(), open_tensors(file) as stored:
        if set(stored.keys()) != set(shapes):
            raise CheckpointError(f"{file} does not hold the branch that {INDEX} describes: get both again")
        for name, shape in shapes.items():
            part = stored.get_slice(name)
            whole = part.get_shape()
            rows = slice(0, shape[0]) if name.endswith((".down", ".up")) else slice(None)
            if whole[1:] != list(shape[1:]) or whole[0] < shape[0]:
                raise CheckpointError(f"{file}: {name} is {whole}, {INDEX} asks for {list(shape)}")
            tensors[name] = part[rows].clone()  # not a view of the mapped file
    branch.load_state_dict(tensors, assign=True)
    return branch


def _skeleton(spec: BranchSpec, ratio: float, config: Any, main_block: type[nn.Module]) -> Branch:
    """The branch that the index describes, on the meta device."""
    index = min(spec.exit_layer, config.num_hidden_layers - 1)  # its kind of attention
    ranks = iter(spec.ranks)
    with torch.device("meta"):
        blocks = [main_block(config, index) for _ in range(spec.num_blocks)]
        if spec.ranks:
            for block in blocks:
                _decompose_skeleton(block, ranks, ratio)
        norm: Any = None
        if spec.own_norm:
            kind: Any = type(blocks[0].input_layernorm)
            norm = kind(config.hidden_size, eps=config.rms_norm_eps)
        head = nn.Linear(config.hidden_size, config.vocab_size, bias=False) if spec.own_head else None
    return Branch(spec.name, spec.exit_layer, blocks, spec.ratios, norm, head)


def _decompose_skeleton(block: nn.Module, ranks: Any, ratio: float) -> None:
    for name, layer in [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Linear)]:
        inputs, outputs, rank = next(ranks)
        kept = kept_rank(rank, ratio)
        bias = None if layer.bias is None else torch.empty(outputs)
        block.set_submodule(
            name, LowRankLinear(torch.empty(kept, inputs), torch.empty(kept, outputs), bias, rank)
        )


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype).contiguous()


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
