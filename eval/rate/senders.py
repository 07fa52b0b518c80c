"""Senders: what travels at a rate point, and what the edge has of it.

Beside TOFC and image codecs stand simple codecs for features, what anybody would try before learning one:
they code features float32 [K, C], where both sides know C, and their bytes are counted without a container.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import zstandard
from PIL import Image

import tofc
from eval.baselines import Avif, ImageCodec, Jpeg, JpegXl, WebP
from eval.rate.points import TOKENS_ALL, RatePoint, Tokens
from tofc.edge import Seen
from tofc.familial import FULL

IMAGE_CODECS: Mapping[str, Mapping[str, ImageCodec]] = {
    "jpeg": {"4:2:0": Jpeg(), "4:4:4": Jpeg(subsampling="4:4:4")},
    "webp": {"4:2:0": WebP()},
    "avif": {"4:2:0": Avif(), "4:4:4": Avif(subsampling="4:4:4")},
    "jpegxl": {"4:4:4": JpegXl()},
}
"""Codecs of pictures by system and chroma; WebP knows only 4:2:0, and libjxl codes full chroma."""


@dataclass(frozen=True)
class Received:
    """One picture at the edge: the bytes that travelled, and what is answered from."""

    num_bytes: int
    seen: Seen
    num_tokens: int


class Pictures:
    """Some pictures with their uncoded features, which are computed once for all senders."""

    def __init__(self, device: tofc.Device, images: Sequence[Image.Image]) -> None:
        self.device = device
        self.images = images
        self._features: dict[Tokens, list[tofc.Features]] = {}

    def features(self, tokens: Tokens) -> list[tofc.Features]:
        """Uncoded features of each picture, merged to `tokens`."""
        if tokens not in self._features:
            if tokens == TOKENS_ALL:
                self._features[tokens] = see(self.device, self.images)
            else:
                whole = self.features(TOKENS_ALL)
                self._features[tokens] = [self.device.merge(picture, tokens) for picture in whole]
        return self._features[tokens]


def see(device: tofc.Device, images: Sequence[Image.Image]) -> list[tofc.Features]:
    """Unmerged features of pictures of different prompts; single tiles go through the tower together."""
    if device.config.tiling == "base":
        return device.features_of(images, TOKENS_ALL)
    return [device.features(image, TOKENS_ALL) for image in images]


_SCALE = np.dtype("<f4")


@dataclass(frozen=True)
class Float16:
    """Two bytes a value."""

    def encode(self, tokens: np.ndarray) -> bytes:
        """Code tokens; ValueError for values beyond float16."""
        with np.errstate(over="ignore"):
            halves = tokens.astype("<f2")
        if not np.isfinite(halves).all():
            raise ValueError("these features do not fit into float16")
        return halves.tobytes()

    def decode(self, data: bytes, width: int) -> np.ndarray:
        """Decode tokens."""
        return np.frombuffer(data, "<f2").reshape(-1, width).astype(np.float32)


@dataclass(frozen=True)
class Int8Zstd:
    """Integers of a scale that fits the picture, through zstd at its highest level.

    `levels` is the number of values from minus to plus the largest magnitude, at most 255; fewer give coarser
    features and smaller files. Token after token: channel after channel is 1.4 % smaller with 255 levels, but
    12 % larger with 7.
    """

    levels: int = 255

    def encode(self, tokens: np.ndarray) -> bytes:
        """Code tokens: the step as float32, then a zstd frame without checksum."""
        step = _SCALE.type(max(np.abs(tokens).max(), 1e-12) / (self.levels // 2))
        integers = np.rint(tokens / step).astype(np.int8)  # [K, C]
        frame = zstandard.ZstdCompressor(level=22, write_checksum=False).compress(integers.tobytes())
        return step.tobytes() + frame

    def decode(self, data: bytes, width: int) -> np.ndarray:
        """Decode tokens."""
        step = np.frombuffer(data, _SCALE, 1)[0]
        values = np.frombuffer(zstandard.ZstdDecompressor().decompress(data[_SCALE.itemsize :]), np.int8)
        return values.reshape(-1, width).astype(np.float32) * step


@dataclass(frozen=True)
class GreyPicture:
    """Tokens as a grey picture of K rows and C columns, 8 bits between their least and greatest value.

    The picture is coded by an image codec; the two bounds travel as float32 before its file.
    """

    codec: ImageCodec
    quality: int

    def encode(self, tokens: np.ndarray) -> bytes:
        """Code tokens."""
        low, high = _SCALE.type(tokens.min()), _SCALE.type(tokens.max())
        steps = (tokens - low) * (255 / max(float(high - low), 1e-12))
        grey = np.rint(steps).clip(0, 255).astype(np.uint8)  # [K, C]
        return low.tobytes() + high.tobytes() + self.codec.encode(Image.fromarray(grey), self.quality)

    def decode(self, data: bytes, width: int) -> np.ndarray:
        """Decode tokens."""
        low, high = np.frombuffer(data, _SCALE, 2)
        grey = np.asarray(self.codec.decode(data[2 * _SCALE.itemsize :]).convert("L"), np.float32)
        if grey.shape[1] != width:
            raise ValueError(f"the picture has {grey.shape[1]} columns where tokens have {width} values")
        return low + grey * ((high - low) / 255)


SimpleCodec = Float16 | Int8Zstd | GreyPicture


@dataclass(frozen=True)
class TofcSender:
    """Whole packets; the member `exit` of the family answers. Smaller members are a system of their own."""

    quality: int
    tokens: Tokens
    exit: str = FULL

    @property
    def points(self) -> tuple[RatePoint, ...]:
        """One point."""
        settings = (("quality", self.quality), ("tokens", self.tokens))
        if self.exit == FULL:
            return (RatePoint("tofc", settings),)
        return (RatePoint("tofc_exits", (*settings, ("exit", self.exit))),)

    def send(self, pictures: Pictures) -> list[list[Received]]:
        """The edge gets the bytes of the packet and nothing else."""
        arrived = []
        for features in pictures.features(self.tokens):
            data = bytes(pictures.device.encode_features(features, self.quality))
            arrived.append(Received(len(data), data, features.tokens.shape[0]))
        return [arrived]


@dataclass(frozen=True)
class FeatureSender:
    """Features through a simple codec."""

    point: RatePoint
    codec: SimpleCodec
    tokens: Tokens

    @property
    def points(self) -> tuple[RatePoint, ...]:
        """One point."""
        return (self.point,)

    def send(self, pictures: Pictures) -> list[list[Received]]:
        """The edge knows the picture's size beside the bytes, which are those of the codec alone."""
        parts = [recoded(features, self.codec) for features in pictures.features(self.tokens)]
        return [[Received(num_bytes, found, found.tokens.shape[0]) for num_bytes, found in parts]]


@dataclass(frozen=True)
class PictureSender:
    """The picture itself, shrunk by `scale` (a side's share; Lanczos) and coded as a whole file.

    The edge has the same model and sees the decoded file as its processor scales it, in the tiles of `tiling`
    (none: of the checkpoint); no feature is coded. Each number of `tokens` to which features are merged
    before the language model is a point.
    """

    system: str
    scale: float
    subsampling: str
    quality: int
    tokens: tuple[Tokens, ...]
    tiling: str | None = None

    @property
    def points(self) -> tuple[RatePoint, ...]:
        """A point for each number of tokens."""
        shared: tuple[tuple[str, Any], ...] = (("quality", self.quality), ("scale", self.scale))
        shared = (*shared, ("chroma", self.subsampling))
        if self.tiling is not None:
            shared = (*shared, ("tiling", self.tiling))
        return tuple(RatePoint(self.system, (*shared, ("tokens", tokens))) for tokens in self.tokens)

    def send(self, pictures: Pictures) -> list[list[Received]]:
        """Files are coded, decoded and seen once for all points."""
        codec = IMAGE_CODECS[self.system][self.subsampling]
        files = [self.code(image) for image in pictures.images]
        device = pictures.device if self.tiling is None else pictures.device.with_tiling(self.tiling)
        decoded = Pictures(device, [codec.decode(data) for data in files])
        return [
            [
                Received(len(data), features, features.tokens.shape[0])
                for data, features in zip(files, decoded.features(tokens), strict=True)
            ]
            for tokens in self.tokens
        ]

    def code(self, image: Image.Image) -> bytes:
        """The file that travels for a picture."""
        return IMAGE_CODECS[self.system][self.subsampling].encode(shrink(image, self.scale), self.quality)


def recoded(features: tofc.Features, codec: SimpleCodec) -> tuple[int, tofc.Features]:
    """The bytes that a simple codec takes for a picture's features, and what it leaves of them."""
    data = codec.encode(features.tokens.numpy())
    decoded = torch.from_numpy(codec.decode(data, features.tokens.shape[1]).copy())
    return len(data), replace(features, tokens=decoded)


Sender = TofcSender | FeatureSender | PictureSender
"""Sends pictures at `points` that share their work; `send` gives what arrives, by point and picture."""


def shrink(image: Image.Image, scale: float) -> Image.Image:
    """A picture of `scale` times the sides, at least one pixel; the same picture at scale 1."""
    if scale == 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
