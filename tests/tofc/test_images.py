"""Pictures of every kind come out upright, 8-bit RGB; what is no picture is refused with a remedy."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import threading
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


# -- what people's own files hold --


def chunk(kind: bytes, data: bytes, right: bool = True) -> bytes:
    checksum = zlib.crc32(kind + data) ^ (0 if right else 1)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def with_chunk(png: bytes, added: bytes) -> bytes:
    """Behind the header of a PNG, one more chunk."""
    return png[:33] + added + png[33:]


@pytest.mark.parametrize(
    "added",
    [
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"zTXt", b"text\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"tEXt", b"text\0value", right=False),
        chunk(b"eXIf", b"MM\0*damaged", right=False),
        chunk(b"eXIf", b"MM\0*damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_metadata_that_is_not_used_decides_nothing(added: bytes) -> None:
    png = encoded(gradient(), "PNG")
    np.testing.assert_array_equal(np.asarray(open_image(with_chunk(png, added))), np.asarray(gradient()))


def test_a_strange_number_beside_the_orientation_changes_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    data = encoded(gradient(size=(32, 16)), "JPEG", exif=exif, quality=95)
    strange = data.replace(struct.pack(">II", 72, 1), struct.pack(">iI", -1, 0))
    strange = strange.replace(struct.pack("<II", 72, 1), struct.pack("<iI", -1, 0))
    assert strange != data
    np.testing.assert_array_equal(np.asarray(open_image(strange)), np.asarray(open_image(data)))
    assert open_image(strange).size == (16, 32)


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A grey TIFF, uncompressed, with other tags than Pillow would write (`b258=12` for 12 bits)."""
    data = bytearray(encoded(Image.fromarray(values), "TIFF"))
    for name, value in tags.items():
        entry = data.index(struct.pack("<HHI", int(name[1:]), 3, 1))
        data[entry + 8 : entry + 10] = struct.pack("<H", value)
    return bytes(data)


def test_values_that_are_not_finite_leave_the_others_their_range() -> None:
    values = np.linspace(0, 100, 64, dtype=np.float32).reshape(8, 8)
    values[0, :3] = np.inf, -np.inf, np.nan
    opened = np.asarray(open_image(tiff(values)))[..., 0]
    assert opened[0, :3].tolist() == [255, 0, 0]
    assert opened[7, 7] == 255
    assert 100 < opened[4, 0] < 140
    assert np.asarray(open_image(tiff(np.full((2, 2), np.nan, np.float32)))).max() == 0


def test_white_is_zero_where_the_file_says_so() -> None:
    values = np.array([[0, 65535], [257, 0]], dtype=np.uint16)
    assert np.asarray(open_image(tiff(values, b262=0)))[..., 0].tolist() == [[255, 0], [254, 255]]


def test_twelve_bits_end_at_4095() -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00])  # rows 0 4095 and 2048 0, three bytes a pair
    data = bytearray(tiff(np.zeros((2, 2), np.uint16), b258=12))
    (start,) = struct.unpack("<I", data[data.index(struct.pack("<HHI", 273, 4, 1)) + 8 :][:4])
    data[start : start + 6] = packed
    assert np.asarray(open_image(bytes(data)))[..., 0].tolist() == [[0, 255], [128, 0]]


def test_a_transparent_grey_of_sixteen_bits_is_white() -> None:
    png = encoded(Image.fromarray(np.array([[0, 700], [701, 65535]], dtype=np.uint16)), "PNG")
    opened = open_image(with_chunk(png, chunk(b"tRNS", struct.pack(">H", 700))))
    assert np.asarray(opened)[..., 0].tolist() == [[0, 255], [3, 255]]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC: convert it to JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a program, and not run"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, data: bytes, message: str) -> None:
    """Whatever their names say."""
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    for source in (path, data, io.BytesIO(data)):
        with pytest.raises(tofc.ImageError, match=message):
            open_image(source)


def test_a_program_is_not_run_for_an_image_that_somebody_opened() -> None:
    eps = encoded(gradient(), "EPS")
    with pytest.raises(tofc.ImageError, match="EPS"):
        open_image(Image.open(io.BytesIO(eps)))


def test_a_pipe_is_read_once(tmp_path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for data, fault in ((encoded(gradient(), "PNG"), None), (b"no picture", "not an image")):
        writer = threading.Thread(target=path.write_bytes, args=(data,))
        writer.start()
        if fault is None:
            assert open_image(path).size == (24, 16)
        else:
            with pytest.raises(tofc.ImageError, match=fault):
                open_image(path)
        writer.join()


def test_texts_that_are_no_paths_are_refused(tmp_path) -> None:
    for text in ("x" * 300, base64.b64encode(encoded(gradient(), "PNG")).decode(), "a\0b"):
        with pytest.raises(tofc.ImageError, match=r"cannot be opened|does not exist"):
            open_image(text)


def test_large_pictures_of_sixteen_bits_take_little_memory() -> None:
    """In a process of its own: 12 megapixels, of which 24 MB are the values and 36 MB the result."""
    script = (
        "import io, resource, numpy as np; from PIL import Image; from tofc.images import open_image\n"
        "values = np.zeros((3000, 4000), np.uint16); file = io.BytesIO()\n"
        "Image.fromarray(values).save(file, 'PNG'); open_image(Image.new('L', (2, 2)))\n"
        "del values; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "open_image(file.getvalue()); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200_000  # KiB
