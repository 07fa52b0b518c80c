"""The vision tower: pixels to patch features, behind one small interface (tower, layer, drop_cls)."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionModel, SiglipVisionModel

from encoders.checkpoint import Tower, TowerCheckpoint

__all__ = ["VisionEncoder"]


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
        checkpoint = TowerCheckpoint.open(source, revision=revision)
        layer = checkpoint.layer if layer is None else layer
        drop_cls = checkpoint.drop_cls if drop_cls is None else drop_cls
        depth = _count_from_start(layer, checkpoint.config.num_hidden_layers)
        return cls(checkpoint.load(depth, dtype=dtype, device=device), depth, drop_cls).eval()

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

    def forward(self, pixel_values: torch.Tensor, interpolate: bool = False) -> torch.Tensor:
        """Features [B, N, C], in the tower's dtype, of normalised images [B, 3, H, W] with H = W =
        image_size.

        With interpolate, H and W may be other multiples of the patch size: positions are interpolated.
        """
        expected = (self.tower.config.num_channels, self.image_size, self.image_size)
        if pixel_values.ndim != 4 or (pixel_values.shape[1:] != expected and not interpolate):
            raise ValueError(
                f"pixel_values must be [B, {expected[0]}, {expected[1]}, {expected[2]}] for this tower, "
                f"got {tuple(pixel_values.shape)}: resize the images with the checkpoint's own processor"
            )
        # [B, N, C], with CLS [B, N + 1, C]
        hidden = self._body.embeddings(pixel_values, interpolate_pos_encoding=interpolate)
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
