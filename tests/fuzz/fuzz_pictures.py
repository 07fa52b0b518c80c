"""Coverage-guided fuzzing of pictures from strangers: `make fuzz TARGET=pictures`.

An input is a file, given as bytes. Whatever it is, it is a picture within the limit, upright and in RGB, or
an ImageError. Pillow's decoders are compiled, so coverage is that of its readers of headers and of our code.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

if __name__ == "__main__":
    import atheris  # before what it instruments

    sys.path.insert(0, str(Path(__file__).parents[2]))
    with atheris.instrument_imports(include=["tofc.images", "tofc.rgb", "PIL"]):
        import tofc.images

        tofc.images._decoders()

import numpy as np
from PIL import Image

from tofc.errors import ImageError
from tofc.images import FORMATS, open_image

MAX_PIXELS = 1 << 16


def fuzz_one(data: bytes) -> None:
    """One input of the fuzzer."""
    check(data)


def check(data: bytes) -> bool:
    """Whether an input is accepted; raises AssertionError, or anything, where our code is wrong."""
    try:
        picture = open_image(data, MAX_PIXELS)
    except ImageError:
        return False
    assert picture.mode == "RGB"
    assert 0 < picture.width * picture.height <= MAX_PIXELS
    assert np.asarray(picture).shape == (picture.height, picture.width, 3)
    return True


def seeds() -> list[bytes]:
    """A small picture in each format that is read, and in the modes that take a way of their own."""
    grey = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
    colour = Image.fromarray(np.stack([grey, grey[::-1], 255 - grey], axis=-1))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [
        written(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        written(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"),
        written(colour.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        written(colour.convert("P"), "PNG", transparency=0),
        written(colour.convert("RGBA"), "WEBP", lossless=True),
        written(colour, "JPEG", exif=exif, progressive=True),
        written(colour, "GIF", save_all=True, append_images=[colour.rotate(180)]),
    ]
    Image.init()
    for name in sorted((set(FORMATS) & set(Image.SAVE)) - {"HEIF"}):
        found.append(written(colour, name))
    return found


def found() -> list[bytes]:
    """What fuzzing found."""
    avif = written(Image.new("RGB", (6, 4), "red"), "AVIF")
    return [avif.replace(b"pitm\0\0\0\0\0\1", b"pitm\0\0\0\0\0\7")]  # Pillow raised RuntimeError


def written(picture: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, name, **options)
    return file.getvalue()


if __name__ == "__main__":
    for number, seed in enumerate(seeds()):
        Path(sys.argv[-1], f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
