"""Reading AI-Flow-Ruyi checkpoints: exits with decoder layers, norms and heads of their own.

Exit k of `early_exit_points` p runs `model.layers[:p]`, then `model.eelayers.k`, `model.norms.k` and
`lm_head` (or `lm_head.k` where heads are not shared); the last exit has `model.layers[-1]` in place of a
layer of its own, and is the full model. Source: configuration and tensor names of AI-Flow-Ruyi-7B-0725.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from tofc.errors import CheckpointError
from tofc.familial.branches import Branch
from tofc.familial.store import BASE, FAMILY, save_family
from tofc.familial.views import main_spec
from tofc.hub import fetch, read_json, read_tensors
from tofc.writing import write_json, write_whole

SHARD_BYTES = 2 * 2**30
_OWN = re.compile(r"^model\.(?P<kind>eelayers|norms)\.(?P<exit>\d+)\.(?P<rest>.+)$")
_HEAD = re.compile(r"^lm_head\.(?P<exit>\d+)\.weight$")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "generation_config.json")


@dataclass(frozen=True)
class Exits:
    """Where a Ruyi model exits, and whether its exits share one head."""

    points: tuple[int, ...]
    shared_heads: bool
    config: Qwen2Config

    @classmethod
    def read(cls, source: str | Path) -> Exits:
        """Of a folder or hub id; CheckpointError where it is no such model."""
        values = read_json(fetch(source, "config.json"))
        points = tuple(values.get("early_exit_points") or ())
        if not points or list(points) != sorted(set(points)):
            raise CheckpointError(f"{source} is no model of the Ruyi kind: it names no early_exit_points")
        own = ("architectures", "auto_map", "model_type", "early_exit_points", "default_early_exit_point")
        plain = {k: v for k, v in values.items() if k not in (*own, "shared_heads")}
        config = Qwen2Config(**plain)
        if points[-1] != config.num_hidden_layers - 1:
            raise CheckpointError(
                f"{source}: the last exit is {points[-1]}; a model of {config.num_hidden_layers} layers ends "
                f"at {config.num_hidden_layers - 1}"
            )
        return cls(points, bool(values.get("shared_heads", True)), config)


def import_ruyi(source: str | Path, folder: str | Path) -> Path:
    """Writes a Ruyi checkpoint as a family (see `tofc.familial.store`) into `folder`; returns that.

    The members are e and the exit layer, such as e11, and "full". Tensors keep their type; at most
    SHARD_BYTES of the main model and the branches are in memory at a time. Raises CheckpointError where the
    checkpoint is not whole.
    """
    exits, folder = Exits.read(source), Path(folder)
    base = folder / BASE
    base.mkdir(parents=True, exist_ok=True)
    branches: list[dict[str, Tensor]] = [{} for _ in exits.points]
    shards = _Shards(base)
    for name, tensor in read_tensors(source, lambda name: True):
        place = _place(name, exits)
        if isinstance(place, str):
            shards.add(place, tensor)
        else:
            branches[place[0]][place[1]] = tensor.clone()
    shards.close()
    _write_base_config(source, exits, base, tied="lm_head.weight" not in shards.weights)
    made = [_branch(k, tensors, exits) for k, tensors in enumerate(branches[:-1])]
    with torch.device("meta"):
        spec = main_spec(Qwen2ForCausalLM(Qwen2Config.from_pretrained(base)))
    save_family(folder / FAMILY, base, spec, made, next(iter(branches[0].values())).dtype)
    return folder


def _place(name: str, exits: Exits) -> str | tuple[int, str]:
    """Where a tensor goes: its name in the main model, or (exit, name in that exit's branch)."""
    last = len(exits.points) - 1
    if match := _OWN.match(name):
        number, rest = int(match["exit"]), match["rest"]
        if match["kind"] == "norms":
            return f"model.norm.{rest}" if number == last else (number, f"norm.{rest}")
        return number, f"blocks.0.{rest}"
    if match := _HEAD.match(name):
        return "lm_head.weight" if int(match["exit"]) == last else (int(match["exit"]), "head.weight")
    return name


def _branch(number: int, tensors: dict[str, Tensor], exits: Exits) -> Branch:
    config = exits.config
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        block = Qwen2DecoderLayer(config, exits.points[number])
        norm = type(block.input_layernorm)(config.hidden_size, eps=config.rms_norm_eps)
        head = None if exits.shared_heads else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    branch = Branch(f"e{exits.points[number]}", exits.points[number], [block], (1.0,), norm, head)
    missing, unexpected = branch.load_state_dict(tensors, strict=False, assign=True)
    if missing or unexpected:
        raise CheckpointError(
            f"exit {exits.points[number]} lacks {missing[:3]} and has {unexpected[:3]} beside: get the whole "
            "checkpoint"
        )
    return branch


class _Shards:
    """A checkpoint written file by file as its tensors come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights: dict[str, str] = {}
        self._open: dict[str, Tensor] = {}
        self._files = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """One more tensor."""
        held = sum(value.numel() * value.element_size() for value in self._open.values())
        if self._open and held + tensor.numel() * tensor.element_size() > SHARD_BYTES:
            self._flush()
        self._open[name] = tensor.clone()  # not a view of the mapped file

    def close(self) -> None:
        """Writes what is left, and the index."""
        self._flush()
        index: dict[str, Any] = {"metadata": {}, "weight_map": self.weights}
        write_json(self.folder / "model.safetensors.index.json", index)

    def _flush(self) -> None:
        self._files += 1
        file = f"model-{self._files:05d}.safetensors"
        write_whole(self.folder / file, save(self._open, metadata={"format": "pt"}))
        self.weights |= dict.fromkeys(self._open, file)
        self._open = {}


def _write_base_config(source: str | Path, exits: Exits, base: Path, tied: bool) -> None:
    config = exits.config
    config.tie_word_embeddings = tied
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(base)
    for name in _TOKENIZER:
        if (Path(source) / name).is_file():
            write_whole(base / name, (Path(source) / name).read_bytes())
