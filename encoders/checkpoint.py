"""The vision tower's weights inside a checkpoint, read without touching those of the language model."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from encoders.files import fetch, open_tensors, read_json
from encoders.tower_files import hidden_state, tower_settings, tower_weights

__all__ = ["Tower", "TowerCheckpoint", "TowerConfig", "build_tower"]

Tower = CLIPVisionModel | SiglipVisionModel
TowerConfig = CLIPVisionConfig | SiglipVisionConfig

# Weights that features never pass through: they may be there, and are not read.
_UNUSED = re.compile(r"head\.|visual_projection\.|embeddings\.position_ids$")


def tower_shapes(config: TowerConfig) -> dict[str, torch.Size]:
    """The shapes of all weights of a tower, by canonical name (`encoder.layers.0.layer_norm1.weight`)."""
    return {_canonical(key): value.shape for key, value in _on_meta(config).state_dict().items()}


def build_tower(config: TowerConfig, weights: Mapping[str, torch.Tensor]) -> Tower:
    """The tower that config describes, in evaluation mode, around exactly these weights (not copied).

    weights: by canonical name, all on one device. Raises ValueError where names or shapes differ.
    """
    expected = tower_shapes(config)
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(f"the weights do not fit the tower: {describe_names(missing, unexpected)}")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise ValueError(f"{name} has shape {list(weights[name].shape)} where {list(shape)} is due")
    tower = _on_meta(config)
    tower.load_state_dict({key: weights[_canonical(key)] for key in tower.state_dict()}, assign=True)
    # Position ids are no weights, and a module built on meta has no values for them yet.
    # Earlier transformers 5 releases keep the tower's parts one level deeper.
    embeddings: Any = getattr(tower, "vision_model", tower).embeddings
    device = next(iter(weights.values())).device
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device).expand(1, -1)
    empty = [name for name, buffer in tower.named_buffers() if buffer.is_meta]
    if empty:
        raise ValueError(f"this transformers release has buffers of unknown content in its towers: {empty}")
    return tower.eval()


def describe_names(missing: list[str], unexpected: list[str]) -> str:
    """A short text that counts missing and unexpected names and shows the first of each."""
    return f"{_some(missing, 'missing')}, {_some(unexpected, 'unexpected')}"


@dataclass(frozen=True)
class TowerCheckpoint:
    """One vision tower inside a checkpoint: its config, and which file holds which of its weights.

    layer: the hidden state that the checkpoint's own model uses; drop_cls: whether it drops the CLS
    token. weights: for each weight of the tower, by its canonical name (`encoder.layers.0...`), the file
    that holds it and its name there.
    """

    source: str
    config: TowerConfig
    layer: int
    drop_cls: bool
    weights: dict[str, tuple[Path, str]]

    @classmethod
    def open(cls, source: str | os.PathLike[str], revision: str | None = None) -> TowerCheckpoint:
        """Find the tower in a folder or hub repository; reads config, index and headers only.

        Raises FileNotFoundError where there is no such checkpoint, ValueError where it holds no known tower.
        """
        name = os.fspath(source)
        raw = read_json(fetch(name, "config.json", revision))
        config = _tower_config(name, raw)
        layer, drop_cls = hidden_state(name, raw, isinstance(config, CLIPVisionConfig))
        return cls(name, config, layer, drop_cls, tower_weights(name, raw["model_type"], revision))

    def load(
        self, num_layers: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tower:
        """Build the tower with its first num_layers blocks, and read the weights of those alone.

        Raises ValueError if the checkpoint's weights are not exactly those that its config describes, in name
        or in shape.
        """
        self._check_names()
        config = copy.deepcopy(self.config)
        config.num_hidden_layers = num_layers
        if isinstance(config, SiglipVisionConfig):
            config.vision_use_head = False
        try:
            return build_tower(config, self._read(tower_shapes(config).keys(), dtype, torch.device(device)))
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error

    def _check_names(self) -> None:
        expected = tower_shapes(self.config).keys()
        missing = sorted(name for name in expected - self.weights.keys() if not _UNUSED.match(name))
        unexpected = sorted(name for name in self.weights.keys() - expected if not _UNUSED.match(name))
        if missing or unexpected:
            raise ValueError(
                f"{self.source}: the weights of the vision tower do not fit its config: "
                f"{describe_names(missing, unexpected)}"
            )

    def _read(
        self, wanted: Iterable[str], dtype: torch.dtype, device: torch.device
    ) -> dict[str, torch.Tensor]:
        by_file: dict[Path, list[str]] = {}
        for name in sorted(wanted):
            by_file.setdefault(self.weights[name][0], []).append(name)
        tensors = {}
        for file, names in by_file.items():
            with open_tensors(file) as handle:
                for name in names:
                    stored = handle.get_tensor(self.weights[name][1])
                    # A copy, because what safetensors hands out is a view of the mapped file.
                    tensors[name] = stored.to(device=device, dtype=dtype, copy=True)
        return tensors


def _tower_config(source: str, raw: dict[str, Any]) -> TowerConfig:
    model_type, settings = tower_settings(source, raw)
    kind = CLIPVisionConfig if model_type == "clip_vision_model" else SiglipVisionConfig
    return kind(**settings)


def _on_meta(config: TowerConfig) -> Tower:
    """The module tree of a tower, without memory behind its weights."""
    with torch.device("meta"):
        if isinstance(config, CLIPVisionConfig):
            return CLIPVisionModel(config)
        return SiglipVisionModel(config)


def _canonical(key: str) -> str:
    return key.removeprefix("vision_model.")


def _some(names: list[str], kind: str) -> str:
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")
