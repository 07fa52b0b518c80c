"""Seeing with torch: the stock image processor and the vision tower of a LLaVA-OneVision checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, BaseImageProcessor, LlavaOnevisionConfig

from encoders import VisionEncoder
from tofc.adapters import TOWER, add_adapters
from tofc.clock import Stopwatch
from tofc.config import Checkpoint
from tofc.hub import checkpoint_faults, small_files
from tofc.model import load_base_config, tower_dtype
from tofc.tiling import tiles_at_once

# Bytes that one pass of the tower may take beside its weights; a CPU gains nothing from more.
_CPU_BUDGET, _ACCELERATOR_BUDGET = 1 << 29, 1 << 32


class TorchVision:
    """Pixels of tiles as the stock processor makes them, and their features. See `tofc.device.Vision`."""

    def __init__(
        self, encoder: VisionEncoder, image_processor: BaseImageProcessor, base_config: LlavaOnevisionConfig
    ) -> None:
        self.encoder = encoder
        self.image_processor = image_processor
        self.base_config = base_config

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype | str | None
    ) -> TorchVision:
        """Loads tower and image processor; CheckpointError where they are not whole."""
        base = checkpoint.base
        base_config = load_base_config(base)
        chosen = tower_dtype(dtype, device, base_config)
        with checkpoint_faults():
            encoder = VisionEncoder.from_pretrained(base, dtype=chosen, device=device)
            image_processor = AutoImageProcessor.from_pretrained(small_files(base), trust_remote_code=False)
        if checkpoint.adapters:
            add_adapters(encoder.tower, checkpoint.adapters, TOWER)
        encoder.eval().requires_grad_(False)
        return cls(encoder, image_processor, base_config)

    @property
    def width(self) -> int:
        """Channels C of a feature."""
        return self.encoder.width

    @property
    def device(self) -> torch.device:
        """Where the tower computes."""
        return next(self.encoder.parameters()).device

    def stopwatch(self) -> Stopwatch:
        """A clock that waits for the tower."""
        return Stopwatch(self.device)

    def cut(self, images: Sequence[Image.Image], tiling: str) -> list[torch.Tensor]:
        """Pixels as the stock processor cuts, resizes and normalises them: [T, 3, S, S] of each picture."""
        if tiling == "padded":
            nested: Any = [list(images)]  # the pictures of one prompt
            pixels = self.image_processor(nested, return_tensors="pt")["pixel_values"]  # [n, 1, 3, S, S]
            return list(pixels)
        if tiling == "anyres":
            return [self.image_processor(image, return_tensors="pt")["pixel_values"][0] for image in images]
        side = self.encoder.image_size
        smallest: Any = {"image_grid_pinpoints": [[side, side]]}  # no more grid than the processor insists on
        return [
            self.image_processor(image, return_tensors="pt", **smallest)["pixel_values"][0, :1]
            for image in images
        ]

    @torch.no_grad()
    def see(self, tiles: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Features float32 [T, N, C] of each picture's tiles [T, 3, S, S], in passes that fit into memory."""
        dtype = next(self.encoder.parameters()).dtype
        together = torch.cat(list(tiles))
        budget = _CPU_BUDGET if self.device.type == "cpu" else _ACCELERATOR_BUDGET
        step = tiles_at_once(self.encoder.num_tokens, self.width, budget)
        parts = [self.encoder(t.to(self.device, dtype)) for t in together.split(step)]
        return list(torch.cat(parts).float().split([t.shape[0] for t in tiles]))
