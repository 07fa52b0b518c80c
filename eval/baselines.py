"""Image codecs to compare with: the picture itself travels, and the edge looks at what arrives.

A baseline answers one question: how small may the file get before the model's answer changes? Bytes are whole
files as they would travel, with every marker and header of the format, and no metadata.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


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
    """Baseline JPEG through Pillow's libjpeg: 4:2:0 chroma, optimised Huffman tables, no metadata."""

    name: str = "JPEG"
    qualities: tuple[int, ...] = (1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60, 75, 90, 95)

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Code a picture as a JPEG file.

        Args:
            image: any picture; it is coded as RGB.
            quality: libjpeg's scale, 1 to 95 (above 95 files grow and pictures do not improve).

        Raises:
            ValueError: quality out of range.
        """
        _check_quality(self.name, quality, lowest=1, highest=95)
        return _save(image, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)

    def decode(self, data: bytes) -> Image.Image:
        """Decode a JPEG file into an RGB picture."""
        return _load(data, "JPEG")


@dataclass(frozen=True)
class WebP:
    """Lossy WebP through Pillow's libwebp, at its slowest and smallest effort (method 6), no metadata."""

    name: str = "WebP"
    qualities: tuple[int, ...] = (0, 1, 2, 4, 7, 10, 15, 20, 30, 45, 60, 75, 90, 100)

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Code a picture as a lossy WebP file.

        Args:
            image: any picture; it is coded as RGB.
            quality: libwebp's scale, 0 to 100.

        Raises:
            ValueError: quality out of range.
        """
        _check_quality(self.name, quality, lowest=0, highest=100)
        return _save(image, "WEBP", quality=quality, method=6)

    def decode(self, data: bytes) -> Image.Image:
        """Decode a WebP file into an RGB picture."""
        return _load(data, "WEBP")


@dataclass(frozen=True)
class Point:
    """One coded picture: the quality it was coded at, and the bytes of its file."""

    quality: int
    num_bytes: int


def lowest_quality_keeping(
    image: Image.Image,
    codec: ImageCodec,
    same_answer: Callable[[Image.Image], bool],
    qualities: Sequence[int] | None = None,
) -> Point | None:
    """Find the smallest file of a picture from which the model still gives the same answer.

    Answers are not monotone in quality: a model may be right at quality 4, wrong at 6 and right from 8 on.
    This takes the smallest file *at all* that keeps the answer, so a lucky hit counts for the baseline;
    asking that every higher quality keeps it too would give the baseline larger files.

    Args:
        image: the picture.
        codec: the baseline.
        same_answer: whether the model's answer from this decoded picture is the wanted one. It is called for
            one file after another, smallest first, until it says yes.
        qualities: the qualities to try; None tries `codec.qualities`.

    Returns:
        The file's quality and bytes; None where no tried quality keeps the answer.
    """
    return lowest_qualities_keeping(image, codec, lambda decoded: [same_answer(decoded)], 1, qualities)[0]


def lowest_qualities_keeping(
    image: Image.Image,
    codec: ImageCodec,
    same_answers: Callable[[Image.Image], Sequence[bool]],
    num_answers: int,
    qualities: Sequence[int] | None = None,
) -> list[Point | None]:
    """Do `lowest_quality_keeping` for several answers about one picture, which share the decoded files.

    Args:
        image: the picture.
        codec: the baseline.
        same_answers: for a decoded picture, whether each of the `num_answers` answers is the wanted one.
        num_answers: how many answers there are.
        qualities: the qualities to try; None tries `codec.qualities`.

    Returns:
        For each answer its smallest file, or None where no tried quality keeps it.

    Raises:
        ValueError: `same_answers` gave another number of answers than `num_answers`.
    """
    found: list[Point | None] = [None] * num_answers
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
) -> list[tuple[Point, bytes]]:
    """Code a picture at every quality, smallest file first: a higher quality may be the smaller file."""
    files = [(quality, codec.encode(image, quality)) for quality in qualities]
    points = [(Point(quality, len(data)), data) for quality, data in files]
    return sorted(points, key=lambda item: (item[0].num_bytes, item[0].quality))


def _check_quality(codec: str, quality: int, *, lowest: int, highest: int) -> None:
    if not lowest <= quality <= highest:
        raise ValueError(f"{codec} quality {quality} is out of range: choose {lowest} to {highest}")


def _save(image: Image.Image, file_format: str, **options: object) -> bytes:
    # A fresh copy of the pixels carries over no EXIF, ICC profile or comment from the picture's own file.
    rgb = image.convert("RGB")
    pixels = Image.frombytes("RGB", rgb.size, rgb.tobytes())
    buffer = io.BytesIO()
    pixels.save(buffer, file_format, **options)
    return buffer.getvalue()


def _load(data: bytes, file_format: str) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=[file_format]) as image:
        return image.convert("RGB")
