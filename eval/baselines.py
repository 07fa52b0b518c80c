"""Image codecs to compare with: the picture itself travels, and the edge looks at what arrives.

A baseline answers one question: how small may the file get before the model's answer changes? Bytes are whole
files as they would travel, with every marker and header of the format, and no metadata.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image, features

from tofc.errors import UserError

SUBSAMPLINGS = ("4:2:0", "4:4:4")


class ImageCodec(Protocol):
    """An image codec with one quality knob: higher means more bytes, as a rule but not without exception."""

    @property
    def name(self) -> str:
        """Name for tables and plots."""
        ...

    @property
    def qualities(self) -> Sequence[int]:
        """Qualities worth trying, ascending: close together where files are small and answers change."""
        ...

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Code a picture into one whole file."""
        ...

    def decode(self, data: bytes) -> Image.Image:
        """Decode a file of this codec into an RGB picture of the original size."""
        ...


@dataclass(frozen=True)
class Jpeg:
    """JPEG through Pillow's libjpeg: optimised Huffman tables, no metadata.

    Sequential or progressive (those of `progressive` are tried), whichever file is smaller: the pixels are
    the same. Some 300 bytes of any colour file are markers and tables.
    """

    name: str = "JPEG"
    qualities: tuple[int, ...] = (1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60, 75, 90, 95)
    subsampling: str = "4:2:0"
    progressive: tuple[bool, ...] = (False, True)

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Codes a picture as RGB, or as grey if it is grey; quality 1 to 95, else ValueError.

        Above 95 files grow and pictures do not improve.
        """
        _check_quality(self.name, quality, lowest=1, highest=95)
        options = {"quality": quality, "subsampling": self.subsampling, "optimize": True}
        return min((_save(image, "JPEG", **options, progressive=p) for p in self.progressive), key=len)

    def decode(self, data: bytes) -> Image.Image:
        """Decode a JPEG file into an RGB picture."""
        return _load(data, "JPEG")


@dataclass(frozen=True)
class WebP:
    """Lossy WebP through Pillow's libwebp, no metadata; `effort` 6 is its slowest and smallest, 4 its own."""

    name: str = "WebP"
    qualities: tuple[int, ...] = (0, 1, 2, 4, 7, 10, 15, 20, 30, 45, 60, 75, 90, 100)
    effort: int = 6

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Codes a picture as RGB; quality 0 to 100, else ValueError."""
        _check_quality(self.name, quality, lowest=0, highest=100)
        return _save(image, "WEBP", quality=quality, method=self.effort)

    def decode(self, data: bytes) -> Image.Image:
        """Decode a WebP file into an RGB picture."""
        return _load(data, "WEBP")


@dataclass(frozen=True)
class Avif:
    """AVIF through Pillow's libavif and libaom, no metadata.

    Speed 2: on scenes the files of speed 0 are at most 2 % smaller and take three times as long; those of
    speed 6, Pillow's own, are up to 13 % larger.
    """

    name: str = "AVIF"
    qualities: tuple[int, ...] = (0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 90)
    subsampling: str = "4:2:0"
    speed: int = 2

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Codes a picture as RGB; quality 0 to 100, else ValueError. UserError for a Pillow without AVIF."""
        _check_quality(self.name, quality, lowest=0, highest=100)
        if not features.check("avif"):
            raise UserError("this Pillow cannot write AVIF: install one of at least 11.3 from its wheels")
        return _save(
            image, "AVIF", quality=quality, subsampling=self.subsampling, speed=self.speed, max_threads=1
        )

    def decode(self, data: bytes) -> Image.Image:
        """Decode an AVIF file into an RGB picture."""
        return _load(data, "AVIF")


@dataclass(frozen=True)
class JpegXl:
    """Lossy JPEG XL through libjxl at effort 9: bare codestream, no container, no metadata.

    Effort 10 searches twice as long for files of the same size, within 3 % either way.
    """

    name: str = "JPEG XL"
    qualities: tuple[int, ...] = (1, 3, 5, 8, 12, 20, 30, 45, 60, 75, 90)
    effort: int = 9

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Codes a picture as RGB, or as grey if it is grey; quality 1 to 99, else ValueError.

        100 would be lossless. UserError where pillow-jxl-plugin is not installed.
        """
        _check_quality(self.name, quality, lowest=1, highest=99)
        _register_jpeg_xl()
        return _save(image, "JXL", quality=quality, effort=self.effort, use_container=False, num_threads=0)

    def decode(self, data: bytes) -> Image.Image:
        """Decode a JPEG XL file into an RGB picture."""
        _register_jpeg_xl()
        return _load(data, "JXL")


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


def _check_quality(codec: str, quality: int, *, lowest: int, highest: int) -> None:
    if not lowest <= quality <= highest:
        raise ValueError(f"{codec} quality {quality} is out of range: choose {lowest} to {highest}")


def _register_jpeg_xl() -> None:
    try:
        importlib.import_module("pillow_jxl")
    except ImportError as error:
        raise UserError(f"JPEG XL needs pillow-jxl-plugin ({error}): pip install 'tofc[eval]'") from error


def _save(image: Image.Image, file_format: str, **options: object) -> bytes:
    plain = image if image.mode == "L" else image.convert("RGB")
    # A fresh copy of the pixels carries over no EXIF, ICC profile or comment from the picture's own file.
    pixels = Image.frombytes(plain.mode, plain.size, plain.tobytes())
    buffer = io.BytesIO()
    pixels.save(buffer, file_format, **options)
    return buffer.getvalue()


def _load(data: bytes, file_format: str) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=[file_format]) as image:
        return image.convert("RGB")
