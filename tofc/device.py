"""The device side: picture -> vision tower -> merging -> codec -> packet. No language model is ever read.

Nothing here needs torch: a `Vision` turns pictures into features, with torch (`tofc.vision`) or with ONNX
Runtime (`tofc.ondevice`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from encoders.merging import cluster_tokens, merge_tokens
from entropy import FeatureCodec
from tofc.budget import BudgetSearch, default_ladder
from tofc.clock import Stopwatch
from tofc.config import Checkpoint, CheckpointConfig, resolve
from tofc.errors import CheckpointError, UserError, is_installed, needs_edge
from tofc.features import Features, as_array
from tofc.images import MAX_PIXELS, open_image
from tofc.packet import TAG_BYTES, Packet
from tofc.tiling import tile_layout

if TYPE_CHECKING:
    import torch

RUNTIMES = ("torch", "onnxruntime")


_PICTURES_AT_ONCE = 16  # of `encode_many`
_Rate = tuple[int | None, int | str | None, int | None]  # quality, tokens, max_bytes


class Vision(Protocol):
    """Pictures to features: arrays or tensors, float32."""

    @property
    def width(self) -> int:
        """Channels C of a feature."""

    @property
    def base_config(self) -> Any:
        """The shape of the tiles: a LlavaOnevisionConfig, or its `tofc.tiling.Geometry`."""

    def stopwatch(self) -> Stopwatch:
        """A clock that waits for whatever computes."""

    def cut(self, images: Sequence[Image.Image], tiling: str) -> Sequence[Any]:
        """Tiles [T, 3, S, S] of each picture, resized and normalised."""

    def see(self, tiles: Sequence[Any]) -> Sequence[Any]:
        """Features [T, N, C] of each picture's tiles."""


class Device:
    """Turns pictures into packets; holds a `vision` (image processor and vision tower) and a codec.

    `codec` is None for a plain LLaVA-OneVision model: `features` works, `encode` says what is missing.
    """

    def __init__(self, vision: Vision, config: CheckpointConfig, codec: FeatureCodec | None) -> None:
        if codec is not None and codec.width != vision.width:
            raise CheckpointError(
                f"the codec takes features of width {codec.width}, the vision tower gives {vision.width}: "
                "they belong to different models"
            )
        self.vision = vision
        self.config = config
        self.codec = codec

    def __repr__(self) -> str:
        codec = "no codec" if self.codec is None else f"qualities 1 to {self.codec.qualities[-1]}"
        return f"Device({type(self.vision).__name__}, width {self.vision.width}, {codec})"

    @classmethod
    def from_pretrained(
        cls,
        src: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
        runtime: str | None = None,
    ) -> Device:
        """Loads the device side of a bundled name, a folder or a hub id.

        `runtime` is what runs the tower: "torch", or "onnxruntime", which starts ten times as fast and runs
        on the CPU alone. Left out, it is torch where that is installed; a folder that `tofc export-device`
        wrote always takes ONNX Runtime. `device` and `dtype` are torch's; left out, the tower is computed in
        the checkpoint's own type elsewhere than on a CPU, and there in float32, or in bfloat16 where it is
        large and the CPU has instructions for it. Raises CheckpointError where there is no such checkpoint or
        its parts do not fit, MissingLibraryError where what it needs is not installed.
        """
        from tofc.ondevice import is_export, load_checkpoint, load_export

        asked = str(device) != "cpu" or dtype is not None
        if is_export(src):
            if asked or runtime == "torch":
                raise UserError(
                    f"{src} is an export for devices, which ONNX Runtime runs on the CPU: leave device and "
                    "dtype out, and runtime, or load the checkpoint that it was made from"
                )
            return cls(*load_export(src))
        if choose_runtime(runtime, asked) == "onnxruntime":
            return cls(*load_checkpoint(src))
        with needs_edge(f"a checkpoint such as {src}, run by torch,"):
            from tofc.hub import load_codec
            from tofc.model import choose_device

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
        from tofc.vision import TorchVision

        return cls(TorchVision.from_checkpoint(checkpoint, device, dtype), checkpoint.config, codec)

    @property
    def base_config(self) -> Any:
        """The shape of the tiles, for `tofc.tiling.tile_layout`."""
        return self.vision.base_config

    def tiling_of(self, num_images: int) -> str:
        """How the pictures of one prompt are cut: as in the stock model, "anyres" pads each of several."""
        return self.config.tiling if num_images == 1 or self.config.tiling == "base" else "padded"

    def with_tiling(self, tiling: str) -> Device:
        """The same device that cuts pictures in another way, one of `tofc.config.TILINGS`."""
        return Device(self.vision, replace(self.config, tiling=tiling), self.codec)

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
        some bytes more (8 at 64 tokens); nothing changes where tokens stand for equal blocks. Raises
        UserError where nothing fits, ImageError for what is no picture.
        """
        rate = self._check_rate(quality, tokens, max_bytes)
        pictures = self._see(images if isinstance(images, (list, tuple)) else [images], max_pixels)
        return self._packet(pictures, rate, progressive)

    def encode_many(
        self,
        images: Iterable[Any],
        quality: int | None = None,
        tokens: int | str | None = None,
        max_bytes: int | None = None,
        *,
        progressive: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Packet]:
        """Codes each picture into a packet of its own, in order; the tower sees many at a time.

        Arguments and errors are those of `encode`, of which it gives what single pictures give.
        """
        rate = self._check_rate(quality, tokens, max_bytes)
        every, packets = list(images), []
        for first in range(0, len(every), _PICTURES_AT_ONCE):
            seen = self._see(every[first : first + _PICTURES_AT_ONCE], max_pixels, self.config.tiling)
            packets += [self._packet([picture], rate, progressive) for picture in seen]
        return packets

    def _packet(self, pictures: list[Features], rate: _Rate, progressive: bool) -> Packet:
        """Unmerged features of pictures, merged and coded at a rate."""
        quality, tokens, max_bytes = rate
        count, chosen = self._check_tokens(tokens), self._check_quality(quality)
        if max_bytes is None:
            return self._code([self._merge(picture, count) for picture in pictures], chosen, progressive)
        search = self._search(pictures, max_bytes, progressive)
        watch = Stopwatch()
        if quality is not None:
            packet = search.at_quality(quality)
        elif tokens is not None:
            packet = search.at_tokens(search.most if count is None else min(count, search.most))
        else:
            packet = search.along(self.ladder(search.most))
        spent = watch.lap() - packet.timing["merge"] - packet.timing["code"]  # on all that was not sent
        return replace(packet, timing={**packet.timing, "search": spent})

    def merge(self, features: Features, tokens: int | str | None = None) -> Features:
        """Unmerged features merged to `tokens`, as `features` would have given them."""
        return self._merge(features, self._check_tokens(tokens))

    def encode_features(self, features: Features | Sequence[Features], quality: int | None = None) -> Packet:
        """Codes features, merged or not, into one packet; several are the pictures of one prompt."""
        pictures = [features] if isinstance(features, Features) else list(features)
        return self._code(pictures, self._check_quality(quality))

    def _check_rate(self, quality: int | None, tokens: int | str | None, max_bytes: int | None) -> _Rate:
        self._check_tokens(tokens)
        self._check_quality(quality)
        if max_bytes is not None and quality is not None and tokens is not None:
            raise UserError("quality and tokens leave max_bytes nothing to choose; give two of the three")
        return quality, tokens, max_bytes

    def _check_quality(self, quality: int | None) -> int:
        levels = self._check_codec().qualities
        quality = self.config.default_quality if quality is None else quality
        if isinstance(quality, bool) or quality not in levels:
            raise UserError(f"quality is {quality!r}; choose {levels[0]} (fewest bytes) to {levels[-1]}")
        return quality

    def _check_codec(self) -> FeatureCodec:
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

    def _see(self, images: Sequence[Any], max_pixels: int, tiling: str | None = None) -> list[Features]:
        """Unmerged features of each picture, from one pass of the tower over all tiles.

        `tiling` None: that of the pictures of one prompt.
        """
        if not images:
            raise UserError("no pictures were given; give at least one")
        watch = self.vision.stopwatch()
        opened = [open_image(image, max_pixels) for image in images]
        if tiling is None:
            tiling = self.tiling_of(len(images))
        tiles = self.vision.cut(opened, tiling)  # [T, 3, S, S] each
        timing = {"preprocess": watch.lap() / len(images)}
        outputs = self.vision.see(tiles)  # [T, N, C] each
        timing["vision"] = watch.lap() / len(images)
        pictures = []
        for image, output in zip(opened, outputs, strict=True):
            size = (image.height, image.width)
            layout = tile_layout(size, tiling, self.base_config)
            pictures.append(Features(layout.select(output), size, tiling, layout, timing=timing))
        return pictures

    def _merge(self, picture: Features, count: int | None) -> Features:
        watch = self.vision.stopwatch()
        tokens = picture.tokens[None]  # [1, M, C]
        count = picture.layout.num_tokens if count is None else count
        merging, parts = self.config.merging, picture.layout.parts
        if merging.way != "dpc_knn" and count < len(parts):
            raise UserError(
                f"tokens is {count}; this checkpoint spreads them over the picture and its tiles: give at "
                f"least {len(parts)}"
            )
        if merging.way != "blocks":
            _load_kernels("encoders.merging_search", "_nearest_of_rows")
        clusters = cluster_tokens(tokens, count, merging.way, parts, k=merging.neighbours)
        merged, _ = merge_tokens(tokens, clusters)  # [1, K, C]
        merged = merged[0] if isinstance(merged, np.ndarray) else merged[0].cpu()
        timing = {**picture.timing, "merge": watch.lap()}
        return replace(picture, tokens=merged, clusters=clusters, timing=timing)

    def _code(self, pictures: list[Features], quality: int, progressive: bool = False) -> Packet:
        codec = self._check_codec()
        watch = Stopwatch()
        tokens = np.concatenate([as_array(p.tokens) for p in pictures])  # [sum K, C]
        if codec.takes_kernels(len(tokens)):
            _load_kernels("entropy.kernels", "encode")
        leading = _leading(pictures) if progressive and self.config.merging.way != "blocks" else ()
        try:
            payload, ends = codec.encode_with_ends(tokens, quality, leading)
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
            self._check_codec().qualities,
            max(picture.layout.num_tokens for picture in pictures),
            max_bytes,
        )

    def ladder(self, most: int) -> Sequence[int]:
        """Preferred tokens at each quality: the checkpoint's own, or doubling through its default point."""
        merging = self.config.merging
        if merging.ladder:
            return [min(tokens, most) for tokens in merging.ladder]
        tokens = most if merging.tokens == "all" else int(merging.tokens)
        return default_ladder(self._check_codec().qualities, self.config.default_quality, tokens, most)


def choose_runtime(runtime: str | None, asked: bool = False) -> str:
    """What runs a checkpoint's tower: `runtime`, where it is given; else torch where that is installed.

    asked: a device or a type was asked for, which torch alone has. Raises UserError for another runtime.
    """
    if runtime not in (None, *RUNTIMES):
        raise UserError(f"runtime is {runtime!r}; choose {' or '.join(RUNTIMES)}")
    if runtime == "onnxruntime" and asked:
        raise UserError("ONNX Runtime runs on the CPU as it is: leave device and dtype out, or take torch")
    if runtime is None:
        return "torch" if asked or is_installed("torch") else "onnxruntime"
    return runtime


def _load_kernels(module: str, used: str) -> None:
    from tofc.compiled import load_kernels  # here, because numba takes half a second to import

    load_kernels(module, used)


def _leading(pictures: Sequence[Features]) -> list[int]:
    """The quarter of each picture's tokens that most of its patches were merged into, ascending."""
    places: list[int] = []
    first = 0
    for picture in pictures:
        size = picture.tokens.shape[0]
        if picture.is_merged and picture.clusters is not None:
            counts = np.bincount(as_array(picture.clusters.assignment[0]), minlength=size)
            order = np.argsort(-counts, kind="stable")
            places += (first + np.sort(order[: size // 4])).tolist()
        first += size
    return places
