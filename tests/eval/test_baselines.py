"""The image-codec baselines: whole files, sizes that follow quality, an honest search for the smallest."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from eval.baselines import (
    Avif,
    CodedFile,
    Jpeg,
    JpegXl,
    WebP,
    lowest_qualities_keeping,
    through_image_codec,
)


def lowest_quality_keeping(image, codec, same_answer, qualities=None):
    """For a single answer."""
    return lowest_qualities_keeping(image, codec, lambda decoded: [same_answer(decoded)], 1, qualities)[0]


CODECS = [Jpeg(), WebP(), Avif(), JpegXl()]
FORMATS = {"JPEG XL": "JXL"}  # where Pillow's name is another


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A smooth gradient with texture and a hard edge, 96 x 64."""
    rows, columns = np.mgrid[0:64, 0:96]
    noise = np.random.default_rng(0).normal(0.0, 8.0, (64, 96))
    grey = 2.0 * columns + noise + 60.0 * (rows > 32)
    pixels = np.stack([grey, 255.0 - grey, 3.0 * rows], axis=-1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(10 * np.log10(255.0**2 / np.mean(error**2)))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_round_trip_keeps_size_and_improves_with_quality(codec, picture):
    qualities = codec.qualities
    files = [codec.encode(picture, quality) for quality in (qualities[0], qualities[6], qualities[-1])]
    decoded = [codec.decode(data) for data in files]
    assert all(image.size == picture.size and image.mode == "RGB" for image in decoded)
    assert len(files[0]) < len(files[1]) < len(files[2])
    low, middle, high = (psnr(picture, image) for image in decoded)
    assert low < middle < high
    assert high > 30


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_files_carry_no_metadata_and_any_mode_is_coded(codec, picture):
    tagged = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "x" * 500
    picture.save(tagged, "JPEG", quality=95, exif=exif, comment=b"y" * 500)
    reopened = Image.open(tagged)
    plain = Image.fromarray(np.asarray(reopened))
    assert codec.encode(reopened, 10) == codec.encode(plain, 10)
    assert codec.decode(codec.encode(picture.convert("L"), 10)).mode == "RGB"
    assert codec.decode(codec.encode(picture.convert("RGBA"), 10)).size == picture.size


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_the_file_is_of_the_stated_format(codec, picture):
    with Image.open(io.BytesIO(codec.encode(picture, 20))) as image:
        assert image.format == FORMATS.get(codec.name, codec.name.upper())


def test_jpeg_subsamples_chroma_and_optimises_its_tables(picture):
    ours = Jpeg().encode(picture, 60)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=60, subsampling="4:4:4")
    assert len(ours) < len(buffer.getvalue())
    with Image.open(io.BytesIO(ours)) as image:
        assert [component[1:3] for component in image.layer] == [(2, 2), (1, 1), (1, 1)]


def test_jpeg_takes_the_smaller_of_sequential_and_progressive(picture):
    def saved(image, progressive):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=60, subsampling="4:2:0", optimize=True, progressive=progressive)
        return buffer.getvalue()

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    for image, progressive in ((picture, False), (noise, True)):
        smaller, larger = saved(image, progressive), saved(image, not progressive)
        assert len(smaller) < len(larger)
        assert Jpeg().encode(image, 60) == smaller
        assert np.array_equal(Jpeg().decode(smaller), Jpeg().decode(larger))


@pytest.mark.parametrize("codec", [Jpeg, Avif])
def test_full_chroma_keeps_colours_that_halved_chroma_blurs(codec):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    image = Image.fromarray(stripes)
    halved, full = (codec(subsampling=s) for s in ("4:2:0", "4:4:4"))
    quality = 90
    assert psnr(image, full.decode(full.encode(image, quality))) > 10 + psnr(
        image, halved.decode(halved.encode(image, quality))
    )


def test_grey_pictures_are_coded_as_grey(picture):
    codec, grey = Jpeg(), picture.convert("L")
    data = codec.encode(grey, 50)
    assert len(data) < len(codec.encode(grey.convert("RGB"), 50))
    channels = np.asarray(codec.decode(data))
    assert (channels == channels[..., :1]).all()


@pytest.mark.parametrize(
    "codec, quality",
    [
        (Jpeg(), 0), (Jpeg(), 96), (WebP(), -1), (WebP(), 101), (Avif(), -1), (Avif(), 101), (JpegXl(), 0),
        (JpegXl(), 100),
    ],
)  # fmt: skip
def test_quality_out_of_range_is_refused(codec, quality, picture):
    with pytest.raises(ValueError, match="choose"):
        codec.encode(picture, quality)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_lowest_quality_is_the_first_good_enough(codec, picture):
    wanted = psnr(picture, codec.decode(codec.encode(picture, 30)))
    point = lowest_quality_keeping(picture, codec, lambda image: psnr(picture, image) >= wanted)
    assert point == CodedFile(30, len(codec.encode(picture, 30)))


def test_lowest_quality_is_none_when_no_file_keeps_the_answer(picture):
    tried = []
    codec = Jpeg()
    assert lowest_quality_keeping(picture, codec, lambda image: bool(tried.append(image.size))) is None
    assert len(tried) == len(codec.qualities)


def test_search_stops_at_the_first_hit_and_counts_a_lucky_one(picture):
    codec = WebP()
    calls = []

    def only_the_second_and_the_last(image):
        calls.append(image)
        return len(calls) in (2, len(codec.qualities))

    point = lowest_quality_keeping(picture, codec, only_the_second_and_the_last)
    assert point is not None
    assert len(calls) == 2
    sizes = sorted(len(codec.encode(picture, quality)) for quality in codec.qualities)
    assert point.num_bytes == sizes[1]


def test_files_are_tried_by_size_not_by_quality(picture):
    class Shuffled(Jpeg):
        """A codec whose higher qualities give smaller files."""

        def encode(self, image, quality):
            return super().encode(image, 96 - quality)

    point = lowest_quality_keeping(picture, Shuffled(), lambda image: True, qualities=(5, 50, 95))
    assert point is not None
    assert point.quality == 95


def test_several_answers_share_the_search(picture):
    codec = Jpeg()
    calls = []

    def answers(image):
        calls.append(image)
        return [len(calls) >= 3, True, False]

    third, first, never = lowest_qualities_keeping(picture, codec, answers, 3)
    assert never is None
    assert first is not None
    assert third is not None
    assert first.num_bytes < third.num_bytes
    assert len(calls) == len(codec.qualities)


def test_a_wrong_number_of_answers_is_an_error(picture):
    with pytest.raises(ValueError, match="2 were announced"):
        lowest_qualities_keeping(picture, Jpeg(), lambda image: [True], 2)


def test_image_codecs_are_drawn_at_several_sizes_and_qualities() -> None:
    rng = np.random.default_rng(0)
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    decoded = [through_image_codec(image, rng, (0.25, 0.5, 1.0)) for _ in range(12)]
    assert {each.shape for each in decoded} == {image.shape}
    assert len({each.tobytes() for each in decoded}) == 12
