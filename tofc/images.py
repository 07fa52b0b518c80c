"""Opens pictures of every kind as plain 8-bit RGB, and refuses what is none with one clear line."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from tofc.errors import ImageError
from tofc.rgb import from_array, to_rgb

MAX_PIXELS = 50_000_000
# What a server reads from strangers, and what is read at every other door: nothing that runs a program, as
# EPS does. The one list of the project; whoever opens a picture opens it here.
WEB_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
FORMATS = (*WEB_FORMATS, "TIFF", "PPM", "AVIF", "HEIF", "JPEG2000", "ICO", "QOI", "DIB")
# The first bytes of what people give and is not read, from which byte on, and what to say about it.
_REFUSED = (
    (4, b"ftyphei", "is HEIC: convert it to JPEG, or pip install pillow-heif"),
    (4, b"ftypmif1", "is HEIF: convert it to JPEG, or pip install pillow-heif"),
    (4, b"ftyphevc", "is HEIC: convert it to JPEG, or pip install pillow-heif"),
    (0, b"%!PS", "is PostScript (EPS), a program, and not run: convert it to PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "is EPS, a program, and not run: convert it to PNG"),
    (0, b"%PDF", "is a PDF: export its page as PNG"),
    (0, b"\x89HDF\r\n", "is HDF5, which holds arrays: read one with h5py and give it as uint8"),
    (0, b"\x93NUMPY", "is an array of numpy: give numpy.load of it"),
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the picture: run git lfs pull"),
)
# The only chunks of a PNG that decide how it looks. Others may be damaged, or as large as they like.
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf")
_ORIENTATION = 274  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip

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
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_limit_lock = threading.Lock()


def open_image(source: Any, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Opens `source` as an RGB picture, upright as its EXIF orientation says.

    `source` is a path, a file:// address, the bytes of a file, an open binary file, a PIL image, a row
    {"bytes": ..., "path": ...} of `datasets`, a uint8 or uint16 array [H, W], [H, W, 1], [H, W, 3] or
    [H, W, 4], or a tensor of one of these shapes or [C, H, W], uint8 or from 0 to 1. Alpha is laid on white,
    16 bits become 8, of an animation the first frame counts. Raises ImageError on anything else, files of
    other `formats` among it, and above `max_pixels` before decoding any pixel.
    """
    if hasattr(source, "is_floating_point"):  # a tensor, without importing its library
        source = _array_of(source)
    if isinstance(source, np.ndarray):
        return _checked(from_array(source), "the array", max_pixels)
    if isinstance(source, Image.Image):
        if getattr(source, "tile", None) and source.format not in (*formats, "MPO"):
            raise ImageError(f"the image is {source.format}, which is not decoded here: convert it to PNG")
        return _checked(source, "the image", max_pixels)
    with _opened(source) as (stream, name):
        return _checked(_open(stream, name, formats), name, max_pixels)


def _array_of(tensor: Any) -> np.ndarray:
    """A tensor in torchvision's shape and scale, or ours, as an array."""
    is_float = tensor.is_floating_point()
    array: np.ndarray = (tensor.detach().float() if is_float else tensor.detach()).cpu().numpy()
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if is_float:
        if not (array.size and array.min() >= 0 and array.max() <= 1):
            raise ImageError("a tensor of floats is a picture where its values are from 0 to 1; scale it so")
        array = np.rint(255 * array).astype(np.uint8)
    return array


def _checked(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """The picture upright and in RGB, once its size is known to be within the limit."""
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
        return _upright(to_rgb(image), image)
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
        with _open_path(_local(source)) as stream:
            yield stream, _short(source)
    elif isinstance(source, Mapping) and {"bytes", "path"} & source.keys():  # a row of `datasets`
        with _opened(source.get("path") if source.get("bytes") is None else source["bytes"]) as opened:
            yield opened
    elif hasattr(source, "read"):
        yield _seekable(source), str(getattr(source, "name", "the stream"))
    else:
        raise ImageError(
            f"an object of type {type(source).__name__} is no image; give a path, bytes, a file opened in "
            "binary mode, a PIL image, a tensor or a uint8 array"
        )


def _local(path: str | Path) -> str | Path:
    """The path of a file:// address; ImageError for an address elsewhere."""
    if not isinstance(path, str) or "://" not in path:
        return path
    address = urlsplit(path)
    if address.scheme == "file":
        return unquote(address.path)
    raise ImageError(f"{_short(path)} is an address, and nothing is fetched here: download the picture first")


def _open(stream: IO[bytes], name: str, formats: Sequence[str]) -> Image.Image:
    """The picture with its pixels still undecoded."""
    start = _peek(stream)
    for first, magic, advice in _REFUSED:
        if start[first:].startswith(magic) and not ("HEI" in advice and "HEIF" in _decoders()):
            raise ImageError(f"{name} is not an image that is read here: it {advice}")
    if start.startswith(_PNG_START):
        stream = io.BytesIO(_bare_png(stream.read()))
    try:
        with _pillow_without_limit():
            return Image.open(stream, formats=[one for one in formats if one in _decoders()])
    except UnidentifiedImageError as error:
        found = f"it starts with {start[:8]!r}" if start else "it is empty"
        raise ImageError(
            f"{name} is not an image that is read here, or damaged ({found}); read are {', '.join(formats)}"
            f"{'. A packet is what an edge answers about' if name.endswith('.tofc') else ''}"
        ) from error
    except _DECODER_FAULTS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} cannot be opened as an image: {reason}") from error


@cache
def _decoders() -> frozenset[str]:
    """The formats that there is a decoder for."""
    try:
        import pillow_heif  # type: ignore[import-not-found]  # used where it is there
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    Image.init()
    return frozenset(Image.OPEN)


def _open_path(path: str | Path) -> IO[bytes]:
    """The file, open; what is no file, such as a pipe, is read once and whole."""
    file = Path(path)
    try:
        if file.is_dir():
            raise ImageError(f"{_short(path)} is a folder; give one image file")
        if file.is_file():
            return file.open("rb")
        return io.BytesIO(file.read_bytes())
    except FileNotFoundError as error:
        raise ImageError(f"{_short(path)} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        hint = "; of base64 give the bytes, base64.b64decode(text)" if len(str(path)) > 255 else ""
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{_short(path)} cannot be opened ({reason}): check the path{hint}") from error


def _short(path: str | Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:80]}... ({len(text)} letters)"


def _seekable(source: Any) -> IO[bytes]:
    """The open file itself, or what a pipe still holds."""
    if hasattr(source, "seekable") and source.seekable() and not isinstance(source, io.TextIOBase):
        return source
    data = source.read()
    if isinstance(data, str):
        raise ImageError('the file is open in text mode; open it in binary mode: open(path, "rb")')
    return io.BytesIO(data)


def _peek(stream: IO[bytes]) -> bytes:
    """The first bytes of a picture, which is then where it was."""
    place = stream.tell()
    start = stream.read(32)
    stream.seek(place)
    return bytes(start)


def _bare_png(data: bytes) -> bytes:
    """A PNG of the chunks that decide how it looks, without metadata, whatever is wrong with that."""
    kept, place = [_PNG_START], len(_PNG_START)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind, is_whole = data[place + 4 : place + 8], end <= len(data)
        right = is_whole and zlib.crc32(data[place + 4 : end - 4]) == int.from_bytes(
            data[end - 4 : end], "big"
        )
        if kind in _PNG_CHUNKS and (right or kind != b"eXIf"):
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


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


def _upright(picture: Image.Image, original: Image.Image) -> Image.Image:
    """A picture turned as the EXIF orientation of its file says; no other metadata counts."""
    try:
        turn = _TURNS.get(original.getexif().get(_ORIENTATION, 1))
    except _DECODER_FAULTS:
        turn = None
    return picture if turn is None else picture.transpose(turn)
