"""The vision tower: pixels to patch features, behind one small interface (tower, layer, drop_cls).

Its weights are read out of a checkpoint without touching those of the language model.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from encoders.files import open_tensors
from encoders.tower_files import TowerFiles

__all__ = ["Tower", "TowerConfig", "VisionEncoder", "build_tower"]

Tower = CLIPVisionModel | SiglipVisionModel
TowerConfig = CLIPVisionConfig | SiglipVisionConfig

# Weights that features never pass through: they may be there, and are not read.
_UNUSED = re.compile(r"head\.|visual_projection\.|embeddings\.position_ids$")


class VisionEncoder(nn.Module):
    """Features of a CLIP or SigLIP tower: one of its hidden states, before any last norm, pooling or head.

    tower: a transformers `SiglipVisionModel` or `CLIPVisionModel`; its modules are shared, not copied.
    layer: the index of that state in transformers' `hidden_states`: 0 is the embeddings, i the output of
    block i, negative ones count from the end. Blocks after it are never computed. drop_cls: leave out the
    CLS token; only for towers that have one (CLIP).

    Raises ValueError on a tower of another kind, a layer out of range, or drop_cls without a CLS token.
    """

    def __init__(self, tower: Tower, layer: int = -1, drop_cls: bool = False) -> None:
        super().__init__()
        if not isinstance(tower, (SiglipVisionModel, CLIPVisionModel)):
            raise ValueError(
                f"a vision tower is a SiglipVisionModel or a CLIPVisionModel, not a {type(tower).__name__}; "
                "encoders.open_clip_import converts open_clip's towers"
            )
        self.tower = tower
        self.has_cls = isinstance(tower, CLIPVisionModel)
        if drop_cls and not self.has_cls:
            raise ValueError(
                "a SigLIP tower has no CLS token to drop: pass drop_cls=False "
                '(in a LLaVA-OneVision config: "vision_feature_select_strategy": "full")'
            )
        self.drop_cls = drop_cls
        self.layer = _count_from_start(layer, len(self._body.encoder.layers))

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        layer: int | None = None,
        drop_cls: bool | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> VisionEncoder:
        """Read the vision tower alone out of a checkpoint, and of that only the blocks that are computed.

        source: a folder or a hub id, with config.json and safetensors weights, sharded or not, of a
        LLaVA-OneVision model, a CLIP or SigLIP model, or a vision tower by itself. layer and drop_cls
        default to what its config says (vision_feature_layer, vision_feature_select_strategy); where it
        says nothing, to the last hidden state without CLS token. The encoder comes in evaluation mode, on
        device, in dtype.

        Raises FileNotFoundError where there is no such checkpoint, ValueError where its config or weights
        are not those of a tower known here; missing and unexpected weights are named.
        """
        files = TowerFiles.open(source, revision)
        config = (CLIPVisionConfig if files.is_clip else SiglipVisionConfig)(**files.settings)
        depth = _count_from_start(files.layer if layer is None else layer, config.num_hidden_layers)
        tower = _load_tower(files, config, depth, dtype, torch.device(device))
        return cls(tower, depth, files.drop_cls if drop_cls is None else drop_cls).eval()

    @property
    def width(self) -> int:
        """Channels C of a feature."""
        return self.tower.config.hidden_size

    @property
    def image_size(self) -> int:
        """Height and width, in pixels, of the square images that the tower takes."""
        size = self.tower.config.image_size
        assert isinstance(size, int)  # the towers' own embeddings compute with a single number
        return size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        patch_size = self.tower.config.patch_size
        assert isinstance(patch_size, int)
        return self.image_size // patch_size, self.image_size // patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens N of an image: its patches in raster order, after the CLS token where that is kept."""
        rows, columns = self.grid
        return rows * columns + int(self.has_cls and not self.drop_cls)

    def forward(
        self, pixel_values: torch.Tensor, interpolate: bool = False, patches: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features [B, N, C], in the tower's dtype, of normalised images [B, 3, H, W] with H = W =
        image_size.

        With interpolate, H and W may be other multiples of the patch size: positions are interpolated.
        patches: int64 [B, K], which patches the tower sees, counted in raster order; N is K then, in their
        order. The others cost nothing and are not there for it, as when a tower learns from a part of each
        image. Raises ValueError for towers with a CLS token.
        """
        expected = (self.tower.config.num_channels, self.image_size, self.image_size)
        if pixel_values.ndim != 4 or (pixel_values.shape[1:] != expected and not interpolate):
            raise ValueError(
                f"pixel_values must be [B, {expected[0]}, {expected[1]}, {expected[2]}] for this tower, "
                f"got {tuple(pixel_values.shape)}: resize the images with the checkpoint's own processor"
            )
        # [B, N, C], with CLS [B, N + 1, C]
        hidden = self._body.embeddings(pixel_values, interpolate_pos_encoding=interpolate)
        if patches is not None:
            if self.has_cls:
                raise ValueError("patches are chosen for SigLIP towers alone: this one has a CLS token")
            hidden = hidden.gather(1, patches[..., None].expand(-1, -1, hidden.shape[-1]))
        if self.has_cls:
            hidden = self._body.pre_layrnorm(hidden)
        for block in self._body.encoder.layers[: self.layer]:
            hidden = block(hidden, None)
        return hidden[:, 1:] if self.drop_cls else hidden

    @property
    def _body(self) -> Any:
        # Earlier transformers 5 releases keep the tower's parts one level deeper.
        return getattr(self.tower, "vision_model", self.tower)


def _count_from_start(layer: int, num_layers: int) -> int:
    """The index of a hidden state counted from the embeddings, 0..num_layers."""
    if not -num_layers - 1 <= layer <= num_layers:
        raise ValueError(
            f"layer {layer} is out of range: a tower of {num_layers} blocks has hidden states "
            f"0 to {num_layers}, or {-num_layers - 1} to -1"
        )
    return layer % (num_layers + 1)


def build_tower(config: TowerConfig, weights: Mapping[str, torch.Tensor]) -> Tower:
    """The tower that config describes, in evaluation mode, around exactly these weights (not copied).

    weights: by canonical name, all on one device. Raises ValueError where names or shapes differ.
    """
    expected = _shapes(config)
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(f"the weights do not fit the tower: {_described(missing, unexpected)}")
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


def _load_tower(
    files: TowerFiles, config: TowerConfig, num_layers: int, dtype: torch.dtype, device: torch.device
) -> Tower:
    """The tower with its first num_layers blocks, of which alone the weights are read.

    Raises ValueError if the checkpoint's weights are not exactly those that its config describes, in name or
    in shape.
    """
    expected = _shapes(config).keys()
    missing = sorted(name for name in expected - files.weights.keys() if not _UNUSED.match(name))
    unexpected = sorted(name for name in files.weights.keys() - expected if not _UNUSED.match(name))
    if missing or unexpected:
        raise ValueError(
            f"{files.source}: the weights of the vision tower do not fit its config: "
            f"{_described(missing, unexpected)}"
        )
    config = copy.deepcopy(config)
    config.num_hidden_layers = num_layers
    if isinstance(config, SiglipVisionConfig):
        config.vision_use_head = False
    try:
        return build_tower(config, _read(files, _shapes(config).keys(), dtype, device))
    except ValueError as error:
        raise ValueError(f"{files.source}: {error}") from error


def _read(
    files: TowerFiles, wanted: Iterable[str], dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    by_file: dict[Path, list[str]] = {}
    for name in sorted(wanted):
        by_file.setdefault(files.weights[name][0], []).append(name)
    tensors = {}
    for file, names in by_file.items():
        with open_tensors(file) as handle:
            for name in names:
                stored = handle.get_tensor(files.weights[name][1])
                # A copy, because what safetensors hands out is a view of the mapped file.
                tensors[name] = stored.to(device=device, dtype=dtype, copy=True)
    return tensors


def _shapes(config: TowerConfig) -> dict[str, torch.Size]:
    """The shapes of all weights of a tower, by canonical name (`encoder.layers.0.layer_norm1.weight`)."""
    return {_canonical(key): value.shape for key, value in _on_meta(config).state_dict().items()}


def _on_meta(config: TowerConfig) -> Tower:
    """The module tree of a tower, without memory behind its weights."""
    with torch.device("meta"):
        if isinstance(config, CLIPVisionConfig):
            return CLIPVisionModel(config)
        return SiglipVisionModel(config)


def _canonical(key: str) -> str:
    return key.removeprefix("vision_model.")


def _described(missing: list[str], unexpected: list[str]) -> str:
    """A short text that counts missing and unexpected names and shows the first of each."""
    parts = []
    for kind, names in (("missing", missing), ("unexpected", unexpected)):
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        parts.append(f"{len(names)} {kind}" + (f" ({shown})" if names else ""))
    return ", ".join(parts)
