"""Image codecs to compare with: the picture itself travels, and the edge looks at what arrives.

A baseline answers one question: how small may the file get before the model's answer changes? Bytes are whole
files as they would travel, with every marker and header of the format, and no metadata.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image, features

from tofc.errors import UserError


@dataclass(frozen=True)
class ImageCodec:
    """An image codec of Pillow with one quality knob: higher means more bytes, mostly.

    `qualities` are those worth trying, ascending: close together where files are small and answers change.
    """

    name: ClassVar[str]
    file_format: ClassVar[str]
    lowest: ClassVar[int] = 0
    highest: ClassVar[int] = 100
    qualities: ClassVar[tuple[int, ...]]

    def settings(self) -> Iterable[dict[str, Any]]:
        """Pillow's settings beside the quality; of several the one with the smallest file counts."""
        raise NotImplementedError  # each format has its own

    def check_installed(self) -> None:
        """UserError where Pillow cannot read and write the format here."""

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Codes a picture into one whole file, as RGB, or as grey if it is grey and the format knows it.

        ValueError for a quality below `lowest` or above `highest`; errors of `check_installed`.
        """
        if not self.lowest <= quality <= self.highest:
            raise ValueError(
                f"{self.name} quality {quality} is out of range: choose {self.lowest} to {self.highest}"
            )
        self.check_installed()
        plain = image if image.mode == "L" else image.convert("RGB")
        # A fresh copy of the pixels carries over no EXIF, ICC profile or comment from the picture's own file.
        pixels = Image.frombytes(plain.mode, plain.size, plain.tobytes())
        return min((self._saved(pixels, quality, options) for options in self.settings()), key=len)

    def decode(self, data: bytes) -> Image.Image:
        """Decodes a file of this codec into an RGB picture of the original size."""
        self.check_installed()
        with Image.open(io.BytesIO(data), formats=[self.file_format]) as image:
            return image.convert("RGB")

    def _saved(self, pixels: Image.Image, quality: int, options: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        pixels.save(buffer, self.file_format, quality=quality, **options)
        return buffer.getvalue()


@dataclass(frozen=True)
class Jpeg(ImageCodec):
    """JPEG through Pillow's libjpeg: optimised Huffman tables, no metadata.

    Sequential or progressive (those of `progressive` are tried), whichever file is smaller: the pixels are
    the same. Some 300 bytes of any colour file are markers and tables. Above quality 95 files grow and
    pictures do not improve.
    """

    name = file_format = "JPEG"
    lowest, highest = 1, 95
    qualities = (1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60, 75, 90, 95)
    subsampling: str = "4:2:0"
    progressive: tuple[bool, ...] = (False, True)

    def settings(self) -> Iterable[dict[str, Any]]:
        """Sequential and progressive."""
        shared = {"subsampling": self.subsampling, "optimize": True}
        return ({**shared, "progressive": progressive} for progressive in self.progressive)


@dataclass(frozen=True)
class WebP(ImageCodec):
    """Lossy WebP through Pillow's libwebp, no metadata; `effort` 6 is its slowest and smallest, 4 its own."""

    name, file_format = "WebP", "WEBP"
    qualities = (0, 1, 2, 4, 7, 10, 15, 20, 30, 45, 60, 75, 90, 100)
    effort: int = 6

    def settings(self) -> Iterable[dict[str, Any]]:
        """The effort."""
        return ({"method": self.effort},)


@dataclass(frozen=True)
class Avif(ImageCodec):
    """AVIF through Pillow's libavif and libaom, no metadata.

    Speed 2: on scenes the files of speed 0 are at most 2 % smaller and take three times as long; those of
    speed 6, Pillow's own, are up to 13 % larger.
    """

    name = file_format = "AVIF"
    qualities = (0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 90)
    subsampling: str = "4:2:0"
    speed: int = 2

    def settings(self) -> Iterable[dict[str, Any]]:
        """Chroma and speed, on one thread."""
        return ({"subsampling": self.subsampling, "speed": self.speed, "max_threads": 1},)

    def check_installed(self) -> None:
        """Pillow's own wheels have AVIF from 11.3 on."""
        if not features.check("avif"):
            raise UserError("this Pillow cannot write AVIF: install one of at least 11.3 from its wheels")


@dataclass(frozen=True)
class JpegXl(ImageCodec):
    """Lossy JPEG XL through libjxl at effort 9: bare codestream, no container, no metadata.

    Effort 10 searches twice as long for files of the same size, within 3 % either way. Quality 100 would be
    lossless.
    """

    name, file_format = "JPEG XL", "JXL"
    lowest, highest = 1, 99
    qualities = (1, 3, 5, 8, 12, 20, 30, 45, 60, 75, 90)
    effort: int = 9

    def settings(self) -> Iterable[dict[str, Any]]:
        """Effort, and a bare codestream."""
        return ({"effort": self.effort, "use_container": False, "num_threads": 0},)

    def check_installed(self) -> None:
        """Importing the plugin makes the format known to Pillow."""
        try:
            importlib.import_module("pillow_jxl")
        except ImportError as error:
            raise UserError(f"JPEG XL needs pillow-jxl-plugin ({error}): pip install 'tofc[eval]'") from error


@dataclass(frozen=True)
class CodedFile:
    """One coded picture: the quality it was coded at, and the bytes of its file."""

    quality: int
    num_bytes: int


def lowest_qualities_keeping(
    image: Image.Image,
    codec: ImageCodec,
    same_answers: Callable[[Image.Image], Sequence[bool]],
    num_answers: int,
    qualities: Sequence[int] | None = None,
) -> list[CodedFile | None]:
    """Finds for each of several answers the smallest file of a picture from which the model still gives it.

    `same_answers` says of a decoded picture whether each of the `num_answers` is the wanted one; it is called
    for one file after another, smallest first, until all are found. None where no tried quality (those of the
    codec by default) keeps an answer. ValueError where it gives another number of answers.

    Answers are not monotone in quality: a model may be right at quality 4, wrong at 6 and right from 8 on.
    This takes the smallest file *at all* that keeps the answer, so a lucky hit counts for the baseline;
    asking that every higher quality keeps it too would give the baseline larger files.
    """
    found: list[CodedFile | None] = [None] * num_answers
    for point, data in _files_by_size(image, codec, qualities if qualities is not None else codec.qualities):
        if all(known is not None for known in found):
            break
        kept = same_answers(codec.decode(data))
        if len(kept) != num_answers:
            raise ValueError(f"same_answers gave {len(kept)} answers where {num_answers} were announced")
        found = [known or (point if keeps else None) for known, keeps in zip(found, kept, strict=True)]
    return found


def _files_by_size(
    image: Image.Image, codec: ImageCodec, qualities: Sequence[int]
) -> list[tuple[CodedFile, bytes]]:
    """Code a picture at every quality, smallest file first: a higher quality may be the smaller file."""
    files = [(quality, codec.encode(image, quality)) for quality in qualities]
    points = [(CodedFile(quality, len(data)), data) for quality, data in files]
    return sorted(points, key=lambda item: (item[0].num_bytes, item[0].quality))


MOST_QUALITY = 60  # of what a model learns to see through: beyond, hardly anything is lost


def through_image_codec(image: np.ndarray, rng: np.random.Generator, scales: Sequence[float]) -> np.ndarray:
    """A picture, uint8 [H, W, 3], as JPEG or WebP leave it at one of `scales` and a quality of 1 to 60."""
    codecs: tuple[ImageCodec, ...] = (Jpeg(), WebP())
    codec, scale = codecs[int(rng.integers(len(codecs)))], scales[int(rng.integers(len(scales)))]
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    decoded = codec.decode(codec.encode(small, int(rng.integers(1, MOST_QUALITY + 1))))
    return np.array(decoded.resize((width, height), Image.Resampling.BICUBIC))
