"""The device side: picture -> vision tower -> merging -> codec -> packet. No language model is ever read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoImageProcessor, BaseImageProcessor, LlavaOnevisionConfig

from encoders import VisionEncoder, dpc_knn, merge_tokens
from entropy import FeatureCodec
from tofc.clock import Stopwatch
from tofc.config import CheckpointConfig, resolve
from tofc.errors import CheckpointError, UserError
from tofc.features import Features
from tofc.images import MAX_PIXELS, open_image
from tofc.model import choose_device, choose_dtype, load_base_config, load_codec
from tofc.packet import TAG_BYTES, Packet
from tofc.tiling import tile_layout

# Tiles in one pass of the tower: a bound on memory that the stock model's largest picture stays below.
_TILES_AT_ONCE = 40


class Device:
    """Turns pictures into packets; holds image processor, vision tower and codec.

    `codec` is None for a plain LLaVA-OneVision model: `features` works, `encode` says what is missing.
    """

    def __init__(
        self,
        encoder: VisionEncoder,
        image_processor: BaseImageProcessor,
        base_config: LlavaOnevisionConfig,
        config: CheckpointConfig,
        codec: FeatureCodec | None,
    ) -> None:
        if codec is not None and codec.width != encoder.width:
            raise CheckpointError(
                f"the codec takes features of width {codec.width}, the vision tower gives {encoder.width}: "
                "they belong to different models"
            )
        self.encoder = encoder
        self.image_processor = image_processor
        self.base_config = base_config
        self.config = config
        self.codec = codec

    @classmethod
    def from_pretrained(
        cls, src: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | str | None = None
    ) -> Device:
        """Loads the device side of a bundled name, a folder or a hub id.

        `dtype` is that of the tower: float32 on a CPU and the checkpoint's own elsewhere, unless given.
        Raises CheckpointError where there is no such checkpoint or its parts do not fit.
        """
        checkpoint = resolve(src)
        codec = load_codec(checkpoint) if checkpoint.has_codec else None
        return cls.from_base(checkpoint.base, checkpoint.config, codec, choose_device(device), dtype)

    @classmethod
    def from_base(
        cls,
        base: str,
        config: CheckpointConfig,
        codec: FeatureCodec | None,
        device: torch.device,
        dtype: torch.dtype | str | None,
    ) -> Device:
        """Loads tower and image processor of a LLaVA-OneVision model, a folder or a hub id."""
        base_config = load_base_config(base)
        chosen = choose_dtype(dtype, device, base_config)
        try:
            encoder = VisionEncoder.from_pretrained(base, dtype=chosen, device=device)
            image_processor = AutoImageProcessor.from_pretrained(base)
        except SafetensorError as error:
            raise CheckpointError(f"{base}: the weights are damaged: {error}") from error
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{base}: {error}") from error
        return cls(encoder.eval().requires_grad_(False), image_processor, base_config, config, codec)

    def features(
        self, image: Any, tokens: int | str | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> Features:
        """Uncoded features of one picture, merged to `tokens` ("all": not merged; None: the checkpoint's)."""
        return self.features_of([image], tokens, max_pixels=max_pixels)[0]

    def features_of(
        self, images: Sequence[Any], tokens: int | str | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> list[Features]:
        """Uncoded features of the pictures of one prompt, one entry a picture.

        As in the stock model, several pictures with tiling "anyres" are one padded tile each.
        """
        count = self._check_tokens(tokens)
        return [self._merge(picture, count) for picture in self._see(images, max_pixels)]

    def encode(
        self,
        images: Any,
        quality: int | None = None,
        tokens: int | str | None = None,
        max_bytes: int | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
    ) -> Packet:
        """Codes one picture, or a list of them, into one packet.

        `quality` 1..8 and `tokens` (a number, or "all") default to the checkpoint's. With `max_bytes` the
        whole packet stays within that many bytes: it gets the highest quality that fits, and fewer tokens
        only where not even the lowest quality does (never fewer than `tokens`, if given). Raises UserError
        where nothing fits, ImageError for what is no picture.
        """
        count = self._check_tokens(tokens)
        if quality is not None and max_bytes is not None:
            raise UserError("quality and max_bytes exclude each other: max_bytes finds the quality itself")
        quality = self._check_quality(quality)
        pictures = self._see(images if isinstance(images, (list, tuple)) else [images], max_pixels)
        if max_bytes is None:
            return self._code([self._merge(picture, count) for picture in pictures], quality)
        return self._fit(pictures, count, max_bytes, may_drop_tokens=tokens is None)

    def _check_quality(self, quality: int | None) -> int:
        levels = self._require_codec().qualities
        quality = self.config.default_quality if quality is None else quality
        if isinstance(quality, bool) or quality not in levels:
            raise UserError(f"quality is {quality!r}; choose {levels[0]} (fewest bytes) to {levels[-1]}")
        return quality

    def _require_codec(self) -> FeatureCodec:
        if self.codec is None:
            raise CheckpointError(
                "this is a plain LLaVA-OneVision model without codec: it gives features, but no packets. "
                "Load a checkpoint of tofc that has it as its base"
            )
        return self.codec

    def _check_tokens(self, tokens: int | str | None) -> int | None:
        """The number of tokens to merge to, None for all."""
        tokens = self.config.merging.tokens if tokens is None else tokens
        if tokens == "all":
            return None
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise UserError(f'tokens is {tokens!r}; give a number of at least 1, or "all"')
        return tokens

    def _see(self, images: Sequence[Any], max_pixels: int) -> list[Features]:
        """Unmerged features of each picture, from one pass of the tower over all tiles."""
        if not images:
            raise UserError("no pictures were given; give at least one")
        watch = Stopwatch(self.encoder_device)
        opened = [open_image(image, max_pixels) for image in images]
        tiling = self.config.tiling if len(images) == 1 or self.config.tiling == "base" else "padded"
        tiles = self._cut(opened, tiling)  # [T, 3, S, S] each
        timing = {"preprocess": watch.lap() / len(images)}
        outputs = self._run_tower(torch.cat(tiles)).split([t.shape[0] for t in tiles])  # [T, N, C] each
        timing["vision"] = watch.lap() / len(images)
        pictures = []
        for image, output in zip(opened, outputs, strict=True):
            size = (image.height, image.width)
            layout = tile_layout(size, tiling, self.base_config)
            pictures.append(Features(layout.select(output), size, tiling, layout, timing=timing))
        return pictures

    def _cut(self, images: list[Image.Image], tiling: str) -> list[torch.Tensor]:
        """Pixels as the stock processor cuts, resizes and normalises them: [T, 3, S, S] of each picture."""
        if tiling == "padded":
            nested: Any = [images]  # the pictures of one prompt
            pixels = self.image_processor(nested, return_tensors="pt")["pixel_values"]  # [n, 1, 3, S, S]
            return list(pixels)
        if tiling == "anyres":
            return [self.image_processor(image, return_tensors="pt")["pixel_values"][0] for image in images]
        side = self.encoder.image_size
        smallest = {"image_grid_pinpoints": [[side, side]]}  # no more grid than the processor insists on
        return [
            self.image_processor(image, return_tensors="pt", **smallest)["pixel_values"][0, :1]
            for image in images
        ]

    @property
    def encoder_device(self) -> torch.device:
        """Where the vision tower computes."""
        return next(self.encoder.parameters()).device

    @torch.no_grad()
    def _run_tower(self, tiles: torch.Tensor) -> torch.Tensor:
        """Tiles [T, 3, S, S] to features float32 [T, N, C]."""
        dtype = next(self.encoder.parameters()).dtype
        parts = [self.encoder(t.to(self.encoder_device, dtype)) for t in tiles.split(_TILES_AT_ONCE)]
        return torch.cat(parts).float()

    @torch.no_grad()
    def _merge(self, picture: Features, count: int | None) -> Features:
        watch = Stopwatch(self.encoder_device)
        tokens = picture.tokens[None]  # [1, M, C]
        count = picture.layout.num_tokens if count is None else count
        clusters = dpc_knn(tokens, count, k=self.config.merging.neighbours)
        merged, _ = merge_tokens(tokens, clusters)  # [1, K, C]
        merged = merged[0].cpu()
        timing = {**picture.timing, "merge": watch.lap()}
        return replace(picture, tokens=merged, clusters=clusters, timing=timing)

    def _code(self, pictures: list[Features], quality: int) -> Packet:
        codec = self._require_codec()
        watch = Stopwatch(torch.device("cpu"))
        try:
            payload = codec.encode(torch.cat([p.tokens for p in pictures]), quality)
        except ValueError as error:
            raise UserError(f"the codec refuses these features: {error}") from error
        stages = pictures[0].timing
        timing = {stage: sum(p.timing[stage] for p in pictures) for stage in stages}
        return Packet(
            payload=payload,
            image_sizes=tuple(p.image_size for p in pictures),
            model_tag=codec.fingerprint[:TAG_BYTES],
            tiling=pictures[0].tiling,
            token_counts=tuple(p.tokens.shape[0] for p in pictures[:-1]),
            timing={**timing, "code": watch.lap()},
        )

    def _fit(
        self, pictures: list[Features], count: int | None, max_bytes: int, may_drop_tokens: bool
    ) -> Packet:
        """The best packet of at most `max_bytes`: a closed loop over features that were computed once."""
        levels = self._require_codec().qualities
        merged = [self._merge(picture, count) for picture in pictures]
        for quality in reversed(levels):
            packet = self._code(merged, quality)
            if len(packet) <= max_bytes:
                return packet
        most = max(p.tokens.shape[0] for p in merged)
        if not may_drop_tokens:
            raise UserError(
                f"{most} tokens need at least {len(packet)} bytes at the lowest quality, max_bytes is "
                f"{max_bytes}: allow more bytes or fewer tokens, or leave tokens out to have them found too"
            )
        # Size grows with tokens but for small exceptions, so what the bisection finds is checked.
        low, high = 1, most - 1
        best = None
        while low <= high:
            middle = (low + high) // 2
            packet = self._code([self._merge(picture, middle) for picture in pictures], levels[0])
            if len(packet) <= max_bytes:
                best, low = packet, middle + 1
            else:
                high = middle - 1
        if best is None:
            raise UserError(
                f"max_bytes is {max_bytes}, and the smallest packet (1 token, quality {levels[0]}) has "
                f"{len(packet)} bytes: allow at least that many"
            )
        return best
