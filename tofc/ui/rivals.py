"""What a packet competes with: smaller packets, and the same picture as image files."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from tofc.device import Device
from tofc.errors import CheckpointError
from tofc.packet import Packet

# What people send when nobody thinks about bytes: the qualities that cameras and image services use.
JPEG_QUALITY, WEBP_QUALITY = 90, 80
SMALL_JPEG_QUALITY = 75  # Pillow's own, for a picture scaled down to what the model sees

Condition = Callable[[Image.Image], bool]
# The bytes of the smallest file of a picture that, decoded, satisfies a condition; None where none does.
Search = Callable[[Image.Image, Condition], int | None]


def image_sizes(image: Image.Image, as_given: int, side: int) -> list[dict[str, Any]]:
    """Bytes of the same picture as image files, the one that people send without a thought first.

    `as_given` are those of its own file, `side` the pixels at which the model sees it.
    """
    small = _shrunk(image, side)
    shrunk = f"JPEG, quality {SMALL_JPEG_QUALITY}, at {small.width}x{small.height}"
    sizes = {
        f"JPEG, quality {JPEG_QUALITY}": _size(image, "JPEG", JPEG_QUALITY),
        f"WebP, quality {WEBP_QUALITY}": _size(image, "WEBP", WEBP_QUALITY),
        shrunk: _size(small, "JPEG", SMALL_JPEG_QUALITY),
        "the picture's own file": as_given,
    }
    return [{"name": name, "bytes": size} for name, size in sizes.items()]


def packets_by_size(device: Device, image: Image.Image) -> list[Packet]:
    """A packet of each quality, with the tokens that go best with it, smallest first."""
    if device.codec is None:
        raise CheckpointError("a model without codec makes no packets")
    seen = device.features(image, "all")
    points = zip(
        device.codec.qualities, device.ladder(seen.layout.num_tokens), strict=False
    )  # maybe fewer than 8
    packets = [device.encode_features(device.merge(seen, tokens), quality) for quality, tokens in points]
    return sorted(packets, key=len)


def smallest_file(image: Image.Image, side: int, search: Search, keeps: Condition) -> int | None:
    """The bytes of the smallest file of a picture that `keeps` an answer, None where none does.

    It is tried at the size that the model sees and at half of it, and at twice that only where both lose the
    answer: more pixels than the model sees are more bytes for nothing.
    """
    found = [search(_shrunk(image, most), keeps) for most in (side // 2, side)]
    return min((size for size in found if size is not None), default=None) or search(
        _shrunk(image, 2 * side), keeps
    )


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _size(image: Image.Image, kind: str, quality: int) -> int:
    file = io.BytesIO()
    image.save(file, kind, quality=quality, optimize=True)
    return file.tell()
