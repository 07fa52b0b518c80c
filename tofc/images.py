"""Opens pictures of every kind as plain 8-bit RGB, and refuses what is none with one clear line."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from tofc.errors import ImageError

MAX_PIXELS = 50_000_000

# What Pillow's decoders raise on damaged files; they promise no single type.
_DECODER_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_limit_lock = threading.Lock()


def open_image(source: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens `source` as an RGB picture, upright as its EXIF orientation says.

    `source` is a path, the bytes of a file, an open binary file, a PIL image, or a uint8 or uint16 array
    [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. Alpha is laid on white, 16 bits become 8, of an animation the
    first frame counts. Raises ImageError on anything else, and above `max_pixels` before decoding any pixel.
    """
    if isinstance(source, np.ndarray):
        return _upright(_from_array(source), "the array", max_pixels)
    if isinstance(source, Image.Image):
        return _upright(source, "the image", max_pixels)
    with _opened(source) as (stream, name):
        return _upright(_open(stream, name), name, max_pixels)


def _upright(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """The picture in RGB, once its size is known to be within the limit."""
    width, height = image.size
    if width == 0 or height == 0:
        raise ImageError(f"{name} has no pixels ({width}x{height}); give a picture of at least 1x1")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width * height / 1e6:.1f} megapixels ({width}x{height}), the limit is "
            f"{max_pixels / 1e6:g}: shrink it, or raise the limit with --max-pixels {width * height} "
            f"(max_pixels={width * height} in Python)"
        )
    try:
        with _whole_pictures_alone():
            image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except _DECODER_FAULTS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"{name} is damaged or cut short ({reason}); get the whole file, or save it anew in an editor"
        ) from error


@contextmanager
def _opened(source: Any) -> Iterator[tuple[IO[bytes], str]]:
    """A file to read, and what to call it in errors; one that is opened here is closed at the end."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source), "the data"
    elif isinstance(source, (str, Path)):
        path, name = Path(source), str(source)
        if path.is_dir():
            raise ImageError(f"{name} is a folder; give one image file")
        if not path.exists():
            raise ImageError(f"{name} does not exist; check the path")
        try:
            stream = path.open("rb")
        except OSError as error:
            raise ImageError(f"{name} cannot be opened as an image: {error}") from error
        with stream:
            yield stream, name
    elif hasattr(source, "read"):
        yield _seekable(source), str(getattr(source, "name", "the stream"))
    else:
        raise ImageError(
            f"an object of type {type(source).__name__} is no image; give a path, bytes, a file opened in "
            "binary mode, a PIL image or a uint8 array"
        )


def _open(stream: IO[bytes], name: str) -> Image.Image:
    """The picture with its pixels still undecoded."""
    try:
        with _pillow_without_limit():
            return Image.open(stream)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image that Pillow can open ({_contents(stream)})") from error
    except _DECODER_FAULTS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} cannot be opened as an image: {reason}") from error


def _seekable(source: Any) -> IO[bytes]:
    """The open file itself, or what a pipe still holds."""
    if hasattr(source, "seekable") and source.seekable() and not isinstance(source, io.TextIOBase):
        return source
    data = source.read()
    if isinstance(data, str):
        raise ImageError('the file is open in text mode; open it in binary mode: open(path, "rb")')
    return io.BytesIO(data)


def _contents(stream: IO[bytes]) -> str:
    """A word on what the file holds instead."""
    stream.seek(0)
    start = stream.read(8)
    return f"it starts with {bytes(start)!r}" if start else "it is empty"


@contextmanager
def _pillow_without_limit() -> Iterator[None]:
    """Lets `max_pixels` alone decide on the size: Pillow's limit is lower than what it may allow.

    The setting is Pillow's own and process-wide, so it is held for reading a header only, and one at a time.
    """
    with _limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _whole_pictures_alone() -> Iterator[None]:
    """Lets Pillow refuse a file that ends early, although somebody in this process told it not to.

    lmms-eval does, for one. The setting is process-wide, so it is held for decoding only, and one at a time.
    """
    with _limit_lock:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode that Pillow knows, decoded, as RGB."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(np.asarray(image))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> Image.Image:
    """Grey values of more than 8 bits, or real ones, as 8 bits.

    16-bit values keep their scale (65535 is white). Other ranges have no agreed white: real values in 0..1
    count as such, anything else is stretched from its smallest to its largest value.
    """
    is_real = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if is_real and low >= 0.0 and high <= 1.0:
        scaled = values * 255.0
    elif not is_real and low >= 0.0 and high <= 65535.0:
        scaled = values / 257.0
    else:
        scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _from_array(array: np.ndarray) -> Image.Image:
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
