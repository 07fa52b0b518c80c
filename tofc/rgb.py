"""Pictures of every mode and depth as 8-bit RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tofc.errors import ImageError

_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
_STRIP_PIXELS = 1 << 20  # pixels that are converted at once, which bounds memory


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode that Pillow knows, decoded, as RGB."""
    transparent = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(np.asarray(image), _white(image), transparent)
    elif image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        image.info["transparency"] = tuple(
            part >> 8 for part in transparent
        )  # of 16 bits, of which 8 are read
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """A picture with alpha laid on white, strip by strip."""
    picture = Image.new("RGB", image.size, "white")
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        picture.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return picture


def _white(image: Image.Image) -> tuple[float, bool]:
    """The largest value that whole numbers of a picture may have, and whether zero is white."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, 16)
    bits = bits[0] if isinstance(bits, tuple) else bits
    return float(2 ** min(max(int(bits), 1), 16) - 1), tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _to_8_bits(values: np.ndarray, white: tuple[float, bool], transparent: Any) -> Image.Image:
    """Grey values of more than 8 bits, or real ones, as 8 bits; with alpha where one value is transparent.

    Whole numbers keep their scale (65535 is white; of 12 bits 4095). Other ranges have no agreed white: real
    values in 0..1 count as such, anything else is stretched from its smallest to its largest finite value.
    """
    largest, is_inverted = white
    is_real = values.dtype.kind == "f"
    low, high = _finite_range(values)
    if is_real and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    elif not is_real and low >= 0.0 and high <= 65535.0:
        low, high = 0.0, largest if high <= largest else 65535.0
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, _STRIP_PIXELS // values.shape[1])
    for top in range(0, len(values), rows):
        strip = values[top : top + rows].astype(np.float64)
        strip = np.nan_to_num(strip, nan=low, posinf=high, neginf=low)
        strip = np.clip((strip - low) * (255.0 / max(high - low, 1e-12)), 0.0, 255.0)
        grey[top : top + rows] = np.rint(255.0 - strip if is_inverted else strip)
    picture = Image.fromarray(grey)
    if isinstance(transparent, int):
        picture.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return picture


def _finite_range(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest finite value, 0 and 0 where there is none."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def from_array(array: np.ndarray) -> Image.Image:
    """A uint8 or uint16 array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as a picture."""
    if array.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"an array of {array.dtype} has no agreed scale; give uint8 (0..255) or uint16 (0..65535), "
            "for values in 0..1: (255 * array).round().astype('uint8')"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        shape = list(array.shape)
        raise ImageError(f"an array of shape {shape} is no picture; give [H, W], [H, W, 3] or [H, W, 4]")
    if array.size == 0:
        raise ImageError(f"an array of shape {list(array.shape)} has no pixels; give at least 1x1")
    if array.dtype == np.uint16:
        array = np.rint(array / 257.0).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))
