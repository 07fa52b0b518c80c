"""Pictures of every kind come out upright, 8-bit RGB; what is no picture is refused with a remedy."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

import tofc
from tofc.images import open_image


def gradient(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    rgb = np.stack([x, y, 255 - x], axis=-1).round().astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "mode, format",
    [("RGB", "PNG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"),
     ("CMYK", "TIFF"), ("L", "JPEG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("YCbCr", "TIFF"), ("LAB", "TIFF"),
     ("RGB", "PPM")],
)  # fmt: skip
def test_every_mode_becomes_rgb_of_the_same_look(mode: str, format: str) -> None:
    source = gradient(mode)
    # Pillow 12 cannot read the uncompressed YCbCr TIFF that it writes.
    options = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}
    opened = open_image(encoded(source, format, **options))
    assert opened.mode == "RGB"
    assert opened.size == source.size
    difference = np.abs(np.asarray(opened, dtype=int) - np.asarray(source.convert("RGB"), dtype=int))
    assert difference.mean() < (12 if format in ("JPEG", "WEBP") else 3)


def test_path_bytes_file_image_and_array_are_the_same(tmp_path) -> None:
    source = gradient()
    data = encoded(source, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    expected = np.asarray(source)
    with path.open("rb") as file:
        for kind in (path, str(path), data, bytearray(data), file, source, expected):
            np.testing.assert_array_equal(np.asarray(open_image(kind)), expected)


def test_exif_orientation_turns_the_picture_upright() -> None:
    source = gradient(size=(32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn by 90 degrees clockwise
    opened = open_image(encoded(source, "PNG", exif=exif))
    assert opened.size == (16, 32)
    np.testing.assert_array_equal(np.asarray(opened), np.rot90(np.asarray(source), k=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    assert np.asarray(open_image(image)).min() == 255


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert np.asarray(open_image(encoded(image, "PNG", transparency=0))).min() == 255
    assert np.asarray(open_image(encoded(image, "PNG")))[0, 0].tolist() == [10, 20, 30]


def test_sixteen_bits_keep_their_scale() -> None:
    values = np.array([[0, 257 * 10], [257 * 200, 65535]], dtype=np.uint16)
    expected = [[0, 10], [200, 255]]
    for source in (values, encoded(Image.fromarray(values), "PNG"), encoded(Image.fromarray(values), "TIFF")):
        assert np.asarray(open_image(source))[:, :, 0].tolist() == expected


def test_real_values_in_zero_to_one() -> None:
    image = Image.fromarray(np.array([[0.0, 0.5], [1.0, 0.25]], dtype=np.float32))
    assert np.asarray(open_image(encoded(image, "TIFF")))[:, :, 0].tolist() == [[0, 128], [255, 64]]


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("data", [b"", b"hello, this is text", b"<svg xmlns='x'/>", bytes(64)])
def test_no_image(data: bytes) -> None:
    with pytest.raises(tofc.ImageError, match="not an image"):
        open_image(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files_are_refused(format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), format)
    for keep in (len(data) // 4, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(tofc.ImageError):
            open_image(data[:keep])


def test_missing_file_folder_and_wrong_type(tmp_path) -> None:
    with pytest.raises(tofc.ImageError, match="does not exist"):
        open_image(tmp_path / "absent.png")
    with pytest.raises(tofc.ImageError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(tofc.ImageError, match="type dict"):
        open_image({})
    with pytest.raises(tofc.ImageError, match="binary mode"):
        open_image(io.StringIO("text"))


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0)])
def test_zero_sized_arrays(shape: tuple[int, ...]) -> None:
    with pytest.raises(tofc.ImageError, match="no pixels"):
        open_image(np.zeros(shape, dtype=np.uint8))


def test_zero_sized_images() -> None:
    with pytest.raises(tofc.ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))
    with pytest.raises(tofc.ImageError):
        open_image(png_header(0, 5))


@pytest.mark.parametrize("shape, dtype", [((4, 4), np.float32), ((4, 4, 2), np.uint8), ((4,), np.uint8)])
def test_arrays_that_are_no_picture(shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(tofc.ImageError):
        open_image(np.zeros(shape, dtype=dtype))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels: reading them would fail, so the limit must come first."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000)])
def test_the_pixel_limit_names_the_option(size: tuple[int, int]) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(tofc.ImageError, match=r"--max-pixels \d+"):
        open_image(png_header(*size))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_pixel_limit_can_be_set() -> None:
    with pytest.raises(tofc.ImageError, match="--max-pixels 384"):
        open_image(gradient(), max_pixels=383)
    assert open_image(gradient(), max_pixels=384).size == (24, 16)
    with pytest.raises(tofc.ImageError, match="damaged"):
        open_image(png_header(20_000, 20_000), max_pixels=10**9)


def test_truncated_files_are_refused_whatever_the_process_told_pillow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as lmms-eval does on import
    file = io.BytesIO()
    gradient().save(file, "PNG")
    with pytest.raises(tofc.ImageError):
        open_image(io.BytesIO(file.getvalue()[:-40]))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
