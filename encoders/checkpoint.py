"""The vision tower's weights inside a checkpoint, read without touching those of the language model."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel, SiglipVisionConfig, SiglipVisionModel
from transformers.utils.hub import cached_file

__all__ = ["TowerCheckpoint"]

TowerConfig = CLIPVisionConfig | SiglipVisionConfig

# Where the tower's weights sit, by the model type in config.json. Both the names that transformers 5 writes
# (`vision_tower.encoder...`) and the published ones (`vision_tower.vision_model.encoder...`) are in use.
_PREFIXES = {
    "llava_onevision": re.compile(r"(?:model\.)?vision_tower\.(?:vision_model\.)?"),
    "clip": re.compile(r"vision_model\."),
    "siglip": re.compile(r"vision_model\."),
    "clip_vision_model": re.compile(r"(?:vision_model\.)?"),
    "siglip_vision_model": re.compile(r"(?:vision_model\.)?"),
}
_TOWERS = {
    "clip_vision_model": (CLIPVisionConfig, CLIPVisionModel),
    "siglip_vision_model": (SiglipVisionConfig, SiglipVisionModel),
}
# Parts of a tower checkpoint that features never pass through.
_UNUSED = re.compile(r"head\.|visual_projection\.|(?:embeddings\.)?position_ids$")
_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.")
_OUTER_KEYS = re.compile(r"(?:text_model|language_model|multi_modal_projector)\b|logit_|text_projection|visual_projection")


@dataclass(frozen=True)
class TowerCheckpoint:
    """One vision tower inside a checkpoint: its config, and which file holds which of its weights.

    layer: the hidden state that the checkpoint's own model uses; drop_cls: whether that model drops the CLS token.
    weights: for each weight of the tower, under its canonical name (`encoder.layers.0...`), the file that holds it
    and its name there.
    """

    source: str
    config: TowerConfig
    layer: int
    drop_cls: bool
    weights: dict[str, tuple[Path, str]]

    @classmethod
    def open(cls, source: str | os.PathLike[str], revision: str | None = None) -> TowerCheckpoint:
        """Find the tower in a folder or hub repository, reading config and indices only."""
        name = os.fspath(source)
        raw = json.loads(_find(name, "config.json", revision).read_text(encoding="utf-8"))
        model_type = raw.get("model_type")
        if model_type not in _PREFIXES:
            raise ValueError(
                f"{name}: model_type {model_type!r} has no vision tower that can be read here; "
                f"known are {', '.join(_PREFIXES)}"
            )
        config = _tower_config(name, raw)
        layer = raw.get("vision_feature_layer", -1)
        if not isinstance(layer, int):
            raise ValueError(
                f"{name}: vision_feature_layer is {layer}; only a single hidden state can be coded: give one integer"
            )
        has_cls = isinstance(config, CLIPVisionConfig)
        strategy = raw.get("vision_feature_select_strategy", "default" if has_cls else "full")
        weights = _locate(name, _PREFIXES[model_type], revision)
        return cls(name, config, layer, strategy == "default", weights)

    def load(
        self, num_layers: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> PreTrainedModel:
        """Build the tower with its first num_layers blocks and fill it; no other bytes of the weights are read."""
        self._check_names()
        settings = self.config.to_dict() | {"num_hidden_layers": num_layers}
        if isinstance(self.config, SiglipVisionConfig):
            settings["vision_use_head"] = False
        config_class, tower_class = _TOWERS[self.config.model_type]
        with torch.device("meta"):
            tower = tower_class(config_class.from_dict(settings))
        names = {key: key.removeprefix("vision_model.") for key in tower.state_dict()}
        tensors = self._read(set(names.values()), dtype, torch.device(device))
        for key, expected in tower.state_dict().items():
            found = tensors[names[key]].shape
            if found != expected.shape:
                raise ValueError(
                    f"{self.source}: {names[key]} has shape {list(found)}, its config asks for {list(expected.shape)}"
                )
        tower.load_state_dict({key: tensors[name] for key, name in names.items()}, strict=True, assign=True)
        _fill_position_ids(tower, torch.device(device))
        return tower

    def _check_names(self) -> None:
        """Raise ValueError unless the checkpoint holds exactly the weights that its config describes."""
        config_class, tower_class = _TOWERS[self.config.model_type]
        with torch.device("meta"):
            whole = tower_class(config_class.from_dict(self.config.to_dict()))
        expected = {key.removeprefix("vision_model.") for key in whole.state_dict()}
        missing = sorted(name for name in expected - self.weights.keys() if not _UNUSED.match(name))
        unexpected = sorted(name for name in self.weights.keys() - expected if not _UNUSED.match(name))
        if missing or unexpected:
            raise ValueError(
                f"{self.source}: the weights of the vision tower do not fit its config: "
                f"{_some(missing, 'missing')}, {_some(unexpected, 'unexpected')}"
            )

    def _read(self, wanted: set[str], dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
        by_file: dict[Path, list[str]] = {}
        for name in sorted(wanted):
            by_file.setdefault(self.weights[name][0], []).append(name)
        tensors = {}
        for file, names in by_file.items():
            with safe_open(file, framework="pt") as handle:
                for name in names:
                    # A copy: the tensor that safetensors hands out is a view of the mapped file.
                    stored = handle.get_tensor(self.weights[name][1])
                    tensors[name] = stored.to(device=device, dtype=dtype, copy=True)
        return tensors


def _tower_config(source: str, raw: dict) -> TowerConfig:
    inner = raw.get("vision_config", {}) if raw["model_type"] in ("llava_onevision", "clip", "siglip") else raw
    default = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}.get(raw["model_type"])
    model_type = inner.get("model_type", default)
    if model_type not in _TOWERS:
        raise ValueError(
            f"{source}: the vision tower is of type {model_type!r}; known are {', '.join(_TOWERS)}"
        )
    return _TOWERS[model_type][0].from_dict(inner)


def _locate(source: str, prefix: re.Pattern[str], revision: str | None) -> dict[str, tuple[Path, str]]:
    """Map canonical tower names to (file, name in the file); fetches only the files that hold some of them."""
    single = _find(source, "model.safetensors", revision, required=False)
    if single is not None:
        with safe_open(single, framework="pt") as handle:
            return {name: (single, key) for key, name in _tower_names(handle.keys(), prefix).items()}
    index = _find(source, "model.safetensors.index.json", revision, required=False)
    if index is None:
        raise FileNotFoundError(
            f"{source}: neither model.safetensors nor model.safetensors.index.json is there; weights in pickled "
            "formats (.bin, .pt) are not read: save the model again with save_pretrained"
        )
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    names = _tower_names(weight_map, prefix)
    files = {shard: _find(source, shard, revision) for shard in sorted({weight_map[key] for key in names})}
    return {name: (files[weight_map[key]], key) for key, name in names.items()}


def _tower_names(keys, prefix: re.Pattern[str]) -> dict[str, str]:
    names = {}
    for key in keys:
        match = prefix.match(key)
        if match and not (match.end() == 0 and _OUTER_KEYS.match(key)):
            names[key] = key[match.end() :]
    return names


def _find(source: str, filename: str, revision: str | None, required: bool = True) -> Path | None:
    """The path of one file of a folder, of a hub repository (downloaded when missing), or of the hub's cache."""
    if os.path.isdir(source):
        path = Path(source) / filename
        if path.is_file():
            return path
        found = None
    else:
        try:
            found = cached_file(
                source,
                filename,
                revision=revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except OSError as error:
            raise FileNotFoundError(_not_found(source, filename)) from error
    if found is None and required:
        raise FileNotFoundError(_not_found(source, filename))
    return None if found is None else Path(found)


def _not_found(source: str, filename: str) -> str:
    if os.path.isdir(source):
        return f"the folder {source} holds no {filename}"
    return (
        f"{source!r} is no folder here, and {filename} of a hub repository of that name is neither in the local cache "
        f"nor within reach; check the name, or run `hf download {source}` where there is a network"
    )


def _fill_position_ids(tower: PreTrainedModel, device: torch.device) -> None:
    """Position ids are no weights: no checkpoint need hold them, and a tower built on meta has none yet."""
    embeddings = getattr(tower, "vision_model", tower).embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device).expand(1, -1)
    left = [name for name, tensor in tower.named_buffers() if tensor.is_meta]
    if left:
        raise ValueError(f"buffers without values after loading: {left}; this transformers release is not supported")


def _some(names: list[str], kind: str) -> str:
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{len(names)} {kind}" + (f" ({shown})" if names else "")
