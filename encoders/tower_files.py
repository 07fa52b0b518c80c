"""A vision tower in a checkpoint, without torch: its shape, and where which weight is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from encoders.files import fetch, open_tensors, read_json, weight_files

# What precedes the names of the tower's weights, by the model type in config.json. Both the names that
# transformers 5 writes (`vision_tower.encoder...`) and the published ones
# (`vision_tower.vision_model.encoder...`) are in use.
_PREFIXES = {
    "llava_onevision": re.compile(r"(?:model\.)?vision_tower\.(?:vision_model\.)?"),
    "llava": re.compile(r"(?:model\.)?vision_tower\.(?:vision_model\.)?"),  # LLaVA-1.5
    "clip": re.compile(r"vision_model\."),
    "siglip": re.compile(r"vision_model\."),
    "clip_vision_model": re.compile(r"(?:vision_model\.)?"),
    "siglip_vision_model": re.compile(r"(?:vision_model\.)?"),
}
_DEFAULT_TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}


def tower_settings(source: str, raw: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The tower's model type, clip_vision_model or siglip_vision_model, and its part of a config.json.

    Raises ValueError for another kind of model.
    """
    kind = raw.get("model_type")
    if kind not in _PREFIXES:
        raise ValueError(
            f"{source}: no vision tower can be read from model type {kind!r}; "
            f"known are {', '.join(_PREFIXES)}"
        )
    settings = dict(raw if kind.endswith("_vision_model") else raw.get("vision_config") or {})
    model_type = settings.pop("model_type", _DEFAULT_TOWERS.get(kind))
    if model_type not in ("clip_vision_model", "siglip_vision_model"):
        raise ValueError(
            f"{source}: its vision tower is of type {model_type!r}; known are clip_vision_model and "
            "siglip_vision_model"
        )
    return model_type, settings


def hidden_state(source: str, raw: Mapping[str, Any], has_cls: bool) -> tuple[int, bool]:
    """Which hidden state a checkpoint's own model uses, and whether it drops the CLS token.

    Raises ValueError where it uses several.
    """
    layer = raw.get("vision_feature_layer", -1)
    if not isinstance(layer, int):
        raise ValueError(
            f"{source}: vision_feature_layer is {layer}, but only one hidden state can be coded: "
            "choose one with layer="
        )
    strategy = raw.get("vision_feature_select_strategy", "default" if has_cls else "full")
    return layer, strategy == "default"


def tower_weights(source: str, model_type: str, revision: str | None = None) -> dict[str, tuple[Path, str]]:
    """Canonical names (`encoder.layers.0...`) of a tower's weights to (file, name in it).

    Raises what `weight_files` raises.
    """
    prefix = _PREFIXES[model_type]
    files = weight_files(source, lambda key: prefix.match(key) is not None, revision)
    return {prefix.sub("", key, count=1): (file, key) for key, file in files.items()}


@dataclass(frozen=True)
class TowerShape:
    """What a tower computes: sizes, and which of its hidden states is given.

    `depth` blocks are computed; `inner` is the width inside of their MLP, `activation` its function by
    transformers' name.
    """

    has_cls: bool
    drop_cls: bool
    width: int
    inner: int
    heads: int
    depth: int
    image_size: int
    patch_size: int
    activation: str
    epsilon: float

    @property
    def num_tokens(self) -> int:
        """Tokens N of an image."""
        return (self.image_size // self.patch_size) ** 2 + int(self.has_cls and not self.drop_cls)

    @property
    def block_parameters(self) -> int:
        """Weights of the matrix products of all blocks, next to which the others are few."""
        return self.depth * (4 * self.width**2 + 2 * self.width * self.inner)


@dataclass(frozen=True)
class TowerFiles:
    """A tower in a checkpoint: its shape, and by canonical name each weight's file and its name there."""

    source: str
    shape: TowerShape
    weights: Mapping[str, tuple[Path, str]]

    @classmethod
    def open(cls, source: str | os.PathLike[str]) -> TowerFiles:
        """Reads config, index and headers of a folder or hub repository alone.

        Raises FileNotFoundError where files are missing, ValueError where they hold no known tower.
        """
        name = os.fspath(source)
        raw = read_json(fetch(name, "config.json"))
        model_type, settings = tower_settings(name, raw)
        return cls(name, _shape(name, raw, model_type, settings), tower_weights(name, raw["model_type"]))

    def read(self, name: str) -> NDArray[Any]:
        """The weight of this canonical name, as it is stored; ValueError where there is none."""
        if name not in self.weights:
            raise ValueError(
                f"{self.source} has no weight {name} of the vision tower: get the whole checkpoint"
            )
        file, key = self.weights[name]
        with open_tensors(file, framework="np") as tensors:
            stored: NDArray[Any] = tensors.get_tensor(key)
        return stored


def _shape(source: str, raw: Mapping[str, Any], model_type: str, settings: Mapping[str, Any]) -> TowerShape:
    """Defaults are those of transformers' configs, which published checkpoints leave out."""
    has_cls = model_type == "clip_vision_model"
    blocks = settings.get("num_hidden_layers", 12)
    layer, drop_cls = hidden_state(source, raw, has_cls)
    if not -blocks - 1 <= layer <= blocks:
        raise ValueError(f"{source}: vision_feature_layer is {layer}, the tower has {blocks} blocks")
    if settings.get("num_channels", 3) != 3:
        raise ValueError(f"{source}: its tower takes {settings['num_channels']} channels, pictures have 3")
    return TowerShape(
        has_cls=has_cls,
        drop_cls=drop_cls and has_cls,
        width=settings.get("hidden_size", 768),
        inner=settings.get("intermediate_size", 3072),
        heads=settings.get("num_attention_heads", 12),
        depth=layer % (blocks + 1),
        image_size=settings.get("image_size", 224),
        patch_size=settings.get("patch_size", 32 if has_cls else 16),
        activation=settings.get("hidden_act", "quick_gelu" if has_cls else "gelu_pytorch_tanh"),
        epsilon=settings.get("layer_norm_eps", 1e-5 if has_cls else 1e-6),
    )
