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
_CLIP, _SIGLIP = "clip_vision_model", "siglip_vision_model"
_DEFAULT_TOWERS = {"clip": _CLIP, "siglip": _SIGLIP}


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
    """A tower in a checkpoint: what its config says, and each weight's file and its name there.

    settings: the tower's part of config.json; layer: the hidden state that the checkpoint's own model uses;
    drop_cls: whether it leaves out the CLS token; weights: by canonical name (`encoder.layers.0...`).
    """

    source: str
    is_clip: bool
    settings: Mapping[str, Any]
    layer: int
    drop_cls: bool
    weights: Mapping[str, tuple[Path, str]]

    @classmethod
    def open(cls, source: str | os.PathLike[str], revision: str | None = None) -> TowerFiles:
        """Reads config, index and headers of a folder or hub repository alone.

        Raises FileNotFoundError where files are missing, ValueError where they hold no known tower or a model
        that uses several of its hidden states.
        """
        name = os.fspath(source)
        raw = read_json(fetch(name, "config.json", revision))
        model = raw.get("model_type")
        if model not in _PREFIXES:
            raise ValueError(
                f"{name}: no vision tower can be read from model type {model!r}; "
                f"known are {', '.join(_PREFIXES)}"
            )
        settings = dict(raw if model.endswith("_vision_model") else raw.get("vision_config") or {})
        kind = settings.pop("model_type", _DEFAULT_TOWERS.get(model))
        if kind not in (_CLIP, _SIGLIP):
            raise ValueError(f"{name}: its vision tower is of type {kind!r}; known are {_CLIP} and {_SIGLIP}")
        layer = raw.get("vision_feature_layer", -1)
        if not isinstance(layer, int):
            raise ValueError(
                f"{name}: vision_feature_layer is {layer}, but only one hidden state can be coded: "
                "choose one with layer="
            )
        strategy = raw.get("vision_feature_select_strategy", "default" if kind == _CLIP else "full")
        prefix = _PREFIXES[model]
        files = weight_files(name, lambda key: prefix.match(key) is not None, revision)
        weights = {prefix.sub("", key, count=1): (file, key) for key, file in files.items()}
        return cls(name, kind == _CLIP, settings, layer, strategy == "default", weights)

    def shape(self) -> TowerShape:
        """What the tower computes for the checkpoint's own model; ValueError where there is no such layer.

        Defaults are those of transformers' configs, which published checkpoints leave out.
        """
        settings, is_clip = self.settings, self.is_clip
        blocks = settings.get("num_hidden_layers", 12)
        if not -blocks - 1 <= self.layer <= blocks:
            raise ValueError(
                f"{self.source}: vision_feature_layer is {self.layer}, the tower has {blocks} blocks"
            )
        if settings.get("num_channels", 3) != 3:
            raise ValueError(
                f"{self.source}: its tower takes {settings['num_channels']} channels, pictures have 3"
            )
        return TowerShape(
            has_cls=is_clip,
            drop_cls=self.drop_cls and is_clip,
            width=settings.get("hidden_size", 768),
            inner=settings.get("intermediate_size", 3072),
            heads=settings.get("num_attention_heads", 12),
            depth=self.layer % (blocks + 1),
            image_size=settings.get("image_size", 224),
            patch_size=settings.get("patch_size", 32 if is_clip else 16),
            activation=settings.get("hidden_act", "quick_gelu" if is_clip else "gelu_pytorch_tanh"),
            epsilon=settings.get("layer_norm_eps", 1e-5 if is_clip else 1e-6),
        )

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
