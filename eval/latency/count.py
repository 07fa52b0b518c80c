"""Times on paper: floating-point operations and bytes of a stage, over what an accelerator achieves.

A stage takes max(operations / (peak * utilisation), bytes / (bandwidth * utilisation)), the roofline of
Williams et al. 2009. Bytes are the weights, read once, and for a token decoded also the keys and values so
far. Operations are counted on tensors without values; causal attention is half a square.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import LlavaOnevisionConfig, SiglipVisionModel

from encoders import VisionEncoder
from eval.latency.config import Rates
from eval.latency.rows import MODELLED, Timing
from tofc.features import Features
from tofc.language.load import language_skeleton
from tofc.model import visual_embeddings
from tofc.tiling import TileLayout, tile_layout
from tofc.training.cost import count_operations

_BYTES = 2  # of a number in bfloat16 or float16


@dataclass(frozen=True)
class Work:
    """Operations of a stage and the bytes that it reads."""

    flops: float
    read: float = 0.0

    def timing(self, rates: Rates, *, float64: bool = False) -> Timing:
        """The time that an accelerator takes."""
        peak = rates.float64_tflops if float64 else rates.tflops
        compute = self.flops / (1e12 * peak * rates.utilisation)
        memory = self.read / (1e9 * rates.gigabytes * rates.bandwidth_utilisation)
        how = (
            f"{self.flops / 1e12:.4g} TFLOP at {peak * rates.utilisation:.4g} TFLOP/s"
            if compute >= memory
            else f"{self.read / 1e9:.4g} GB at {rates.gigabytes * rates.bandwidth_utilisation:.4g} GB/s"
        )
        return Timing(max(compute, memory), MODELLED, how)


class Counts:
    """Work of each stage for a LLaVA-OneVision shape; there are no weights, and hardly any memory is used."""

    @torch.no_grad()
    def __init__(self, shape: LlavaOnevisionConfig) -> None:
        self.shape = shape
        vision: Any = shape.vision_config
        with torch.device("meta"):
            self._encoder = VisionEncoder(SiglipVisionModel(vision)).eval()
            self._tile = torch.empty(1, vision.num_channels, vision.image_size, vision.image_size)
        self._model = language_skeleton(shape)
        self._prefill = cache(self._count_prefill)  # pictures of one size come often
        self._vision = count_operations(lambda: self._encoder(self._tile)).total

    def layout(self, image_size: tuple[int, int], tiling: str) -> TileLayout:
        """Where the tokens of a picture of (height, width) lie."""
        return tile_layout(image_size, tiling, self.shape)

    def vision(self, num_tiles: int) -> Work:
        """The vision tower on some tiles."""
        return Work(num_tiles * self._vision, _bytes(self._encoder))

    def merge(self, num_tokens: int, num_clusters: int) -> Work:
        """DPC-KNN as it computes on accelerators: distances in float64 as products of C + 2 columns.

        Of each token to all, to all denser ones and to the centres. Only tokens without a denser one among
        their neighbours need the second product: this is an upper bound.
        """
        width = self._encoder.width + 2
        return Work(2 * num_tokens * (2 * num_tokens + num_clusters) * width, 8.0 * num_tokens * width)

    @torch.no_grad()
    def project(self, num_positions: int) -> Work:
        """The projector on some features."""
        projector = self._model.model.multi_modal_projector
        features = torch.empty(1, num_positions, self._encoder.width, device="meta")
        return Work(count_operations(lambda: projector(features)).total, _bytes(projector))

    def visual_positions(self, image_size: tuple[int, int], tiling: str, tokens: int) -> int:
        """Positions that a picture of which `tokens` tokens are left takes in the language model."""
        layout = self.layout(image_size, tiling)
        values = torch.empty(tokens, self._encoder.width, device="meta")
        (embedded,) = visual_embeddings(self._model, [Features(values, image_size, tiling, layout)])
        return embedded.shape[0]

    def prefill(self, positions: int) -> Work:
        """The language model on a prompt, and its head on the last position: the first token."""
        return self._prefill(positions)

    def next_token(self, positions: int) -> Work:
        """One more token after `positions` others: all weights, keys and values are read for it."""
        text: Any = self.shape.text_config
        head_size = text.hidden_size // text.num_attention_heads
        cached = 2 * positions * text.num_key_value_heads * head_size * text.num_hidden_layers
        attention = 4 * positions * text.hidden_size * text.num_hidden_layers
        one = self._prefill(1)
        return Work(one.flops + attention, one.read + _BYTES * cached)

    @torch.no_grad()
    def _count_prefill(self, positions: int) -> Work:
        text: Any = self.shape.text_config
        embeds = torch.empty(1, positions, text.hidden_size, device="meta")
        no_mask = {"full_attention": None}  # making one would look at values
        counted = count_operations(
            lambda: self._model(
                inputs_embeds=embeds, attention_mask=no_mask, use_cache=False, logits_to_keep=1
            )
        )
        causal = counted.attention * (positions + 1) / (2 * positions)
        weights = _bytes(self._model.model.language_model.layers) + _bytes(self._model.lm_head)
        return Work(counted.total - counted.attention + causal, weights)


def _bytes(module: torch.nn.Module) -> float:
    return float(_BYTES * sum(parameter.numel() for parameter in module.parameters()))
