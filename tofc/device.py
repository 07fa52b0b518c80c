"""The device side: picture -> vision tower -> merging -> codec -> packet. No language model is ever read."""

from __future__ import annotations

import functools
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
from tofc.adapters import TOWER, add_adapters
from tofc.budget import BudgetSearch, default_ladder
from tofc.clock import Stopwatch
from tofc.config import Checkpoint, CheckpointConfig, resolve
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
        return cls.from_checkpoint(checkpoint, codec, choose_device(device), dtype)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        codec: FeatureCodec | None,
        device: torch.device,
        dtype: torch.dtype | str | None,
    ) -> Device:
        """Loads tower and image processor of a checkpoint that was found, with a codec that was read."""
        base = checkpoint.base
        base_config = load_base_config(base)
        chosen = choose_dtype(dtype, device, base_config)
        try:
            encoder = VisionEncoder.from_pretrained(base, dtype=chosen, device=device)
            image_processor = AutoImageProcessor.from_pretrained(base)
        except SafetensorError as error:
            raise CheckpointError(f"{base}: the weights are damaged: {error}") from error
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{base}: {error}") from error
        if checkpoint.adapters:
            add_adapters(encoder.tower, checkpoint.adapters, TOWER)
        encoder.eval().requires_grad_(False)
        return cls(encoder, image_processor, base_config, checkpoint.config, codec)

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
        progressive: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> Packet:
        """Codes one picture, or a list of them, into one packet.

        `quality` 1..8 and `tokens` (a number, or "all") default to the checkpoint's. With `max_bytes` the
        whole packet stays within that many bytes, and whichever of the two is not given is chosen: both along
        the checkpoint's ladder (`MergingConfig.ladder`), so that at least nine tenths are used where any
        choice does, or the highest quality, or the most tokens, that fit. `progressive` lets the tokens that
        stand for most of a picture travel first, so that more is left of a packet that is truncated, for
        some bytes more (8 at 64 tokens). Raises UserError where nothing fits, ImageError for what is no
        picture.
        """
        count, level = self._check_tokens(tokens), self._check_quality(quality)
        if max_bytes is not None and quality is not None and tokens is not None:
            raise UserError("quality and tokens leave max_bytes nothing to choose; give two of the three")
        pictures = self._see(images if isinstance(images, (list, tuple)) else [images], max_pixels)
        if max_bytes is None:
            return self._code([self._merge(picture, count) for picture in pictures], level, progressive)
        search = self._search(pictures, max_bytes, progressive)
        watch = Stopwatch(torch.device("cpu"))
        if quality is not None:
            packet = search.at_quality(quality)
        elif tokens is not None:
            packet = search.at_tokens(search.most if count is None else min(count, search.most))
        else:
            packet = search.along(self._ladder(search.most))
        spent = watch.lap() - packet.timing["merge"] - packet.timing["code"]  # on all that was not sent
        return replace(packet, timing={**packet.timing, "search": spent})

    def merge(self, features: Features, tokens: int | str | None = None) -> Features:
        """Unmerged features merged to `tokens`, as `features` would have given them."""
        return self._merge(features, self._check_tokens(tokens))

    def encode_features(self, features: Features | Sequence[Features], quality: int | None = None) -> Packet:
        """Codes features, merged or not, into one packet; several are the pictures of one prompt."""
        pictures = [features] if isinstance(features, Features) else list(features)
        return self._code(pictures, self._check_quality(quality))

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
        tiles = self.cut(opened, tiling)  # [T, 3, S, S] each
        timing = {"preprocess": watch.lap() / len(images)}
        outputs = self._run_tower(torch.cat(tiles)).split([t.shape[0] for t in tiles])  # [T, N, C] each
        timing["vision"] = watch.lap() / len(images)
        pictures = []
        for image, output in zip(opened, outputs, strict=True):
            size = (image.height, image.width)
            layout = tile_layout(size, tiling, self.base_config)
            pictures.append(Features(layout.select(output), size, tiling, layout, timing=timing))
        return pictures

    def cut(self, images: list[Image.Image], tiling: str) -> list[torch.Tensor]:
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

    def _code(self, pictures: list[Features], quality: int, progressive: bool = False) -> Packet:
        codec = self._require_codec()
        watch = Stopwatch(torch.device("cpu"))
        tokens = torch.cat([p.tokens for p in pictures])  # [sum K, C]
        try:
            payload, ends = codec.encode_with_ends(tokens, quality, _leading(pictures) if progressive else ())
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
            token_ends=tuple(ends.tolist()),
        )

    def _search(self, pictures: list[Features], max_bytes: int, progressive: bool) -> BudgetSearch:
        """A closed loop over features that were computed once, merged once for each number of tokens."""

        @functools.cache
        def merge(tokens: int) -> list[Features]:
            return [self._merge(picture, tokens) for picture in pictures]

        return BudgetSearch(
            lambda quality, tokens: self._code(merge(tokens), quality, progressive),
            self._require_codec().qualities,
            max(picture.layout.num_tokens for picture in pictures),
            max_bytes,
        )

    def _ladder(self, most: int) -> Sequence[int]:
        """Preferred tokens at each quality: the checkpoint's own, or doubling through its default point."""
        merging = self.config.merging
        if merging.ladder:
            return [min(tokens, most) for tokens in merging.ladder]
        tokens = most if merging.tokens == "all" else int(merging.tokens)
        return default_ladder(self._require_codec().qualities, self.config.default_quality, tokens, most)


def _leading(pictures: Sequence[Features]) -> list[int]:
    """The quarter of each picture's tokens that most of its patches were merged into, ascending."""
    places: list[int] = []
    first = 0
    for picture in pictures:
        size = picture.tokens.shape[0]
        if picture.is_merged and picture.clusters is not None:
            counts = torch.bincount(picture.clusters.assignment[0].cpu(), minlength=size)
            order = torch.argsort(counts, descending=True, stable=True)
            places += (first + order[: size // 4].sort().values).tolist()
        first += size
    return places
