"""What the photographs' tower learns from: parts of pictures, maps and boxes that belong together."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.photos.facts import NUMBER, UNKNOWN, View, patches, presence
from eval.photos.records import WHOLE, Photo, PhotoObject
from eval.photos.teacher import CLASSES, SHAPES, classify, read_cache, write_cache
from eval.photos.tower import TowerCorpus, cut, cut_map, draw_crop
from tests.eval.photo_sets import write_detections, write_lines


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 12), ("val", 3)):
        write_detections(root / "boxes", split, count)
        write_lines(root / "people", split, [{"qa": [{"question": "what is it", "answer": "grey"}]}] * 4)
    return root


@pytest.fixture(scope="module")
def cache(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose maps are made up, so that no teacher is needed."""
    folder = tmp_path_factory.mktemp("cache")
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    rng = np.random.default_rng(0)
    for name, (shape, dtype) in SHAPES.items():
        values = (
            rng.integers(0, 255, (len(files), *shape))
            if dtype is np.uint8
            else rng.normal(size=(len(files), *shape))
        )
        np.save(folder / f"{name}.npy", values.astype(dtype))
    head = {"first": rng.normal(size=(320, 8)), "first_bias": np.zeros(8)}
    head |= {"second": rng.normal(size=(8, CLASSES)), "second_bias": np.zeros(CLASSES)}
    moments = {}
    for name in ("stride_16", "stride_32"):
        channels = SHAPES[name][0][-1]
        moments |= {f"{name}_mean": np.zeros(channels), f"{name}_deviation": np.ones(channels)}
    np.savez(folder / "teacher.npz", **{k: v.astype(np.float32) for k, v in (head | moments).items()})
    (folder / "index.json").write_text(json.dumps(files))
    return folder


def corpus_of(root: Path, cache: Path) -> TowerCorpus:
    return TowerCorpus(str(cache), {"0": 64, "20": 128}, root=str(root))


def test_pictures_are_the_same_on_every_call_and_in_every_process(root, cache):
    corpus = corpus_of(root, cache)
    again = pickle.loads(pickle.dumps(corpus))  # as loader processes get it
    for index in (0, 1, 25):
        one, other = corpus.picture("train", index, 3), again.picture("train", index, 3)
        assert np.array_equal(one.pixels, other.pixels)
        assert all(np.array_equal(one.maps[name], other.maps[name]) for name in one.maps)
        assert np.array_equal(one.labels["kind"], other.labels["kind"])


def test_pictures_grow_where_the_configuration_says_so(root, cache):
    corpus = corpus_of(root, cache)
    assert [corpus.picture("train", index, 0).pixels.shape[-1] for index in (0, 19, 20)] == [64, 64, 128]
    picture = corpus.picture("train", 20, 0)
    assert {name: values.shape for name, values in picture.maps.items()} == {
        "stride_16": (64, 112),
        "stride_32": (64, 320),
    }
    assert picture.distribution.sum() == pytest.approx(1, abs=1e-5)
    assert corpus.num_pictures("validation") == 3


def test_a_picture_without_boxes_says_nothing_of_patches_or_absence(root, cache):
    photos = read_cache(root, cache).photos
    people = next(photo for photo in photos if photo.source == "people")
    kind, regions = patches(View(people), 4)
    assert set(kind) == {UNKNOWN}
    assert np.isnan(regions).all()
    assert np.isnan(presence(View(people))).all()


def test_patches_know_their_object_after_a_crop_and_a_flip():
    dog, cat = PhotoObject("dog", (0.0, 0.0, 0.5, 1.0)), PhotoObject("cat", (0.25, 0.5, 0.5, 1.0))
    photo = Photo("set", Path("x"), (dog, cat), frozenset({"dog", "cat", "car"}))
    kind, regions = patches(View(photo, WHOLE, False), 4)
    assert kind.reshape(4, 4)[0].tolist() == [NUMBER["dog"] + 1] * 2 + [0] * 2
    assert kind.reshape(4, 4)[3].tolist() == [NUMBER["dog"] + 1, NUMBER["cat"] + 1, 0, 0]  # smaller in front
    assert regions[13].tolist() == pytest.approx([0.375, 0.75, 0.25, 0.5])
    kind, regions = patches(View(photo, (0.0, 0.5, 0.5, 1.0), True), 2)
    assert kind.tolist() == [NUMBER["cat"] + 1, NUMBER["dog"] + 1] * 2
    assert regions[0].tolist() == pytest.approx([0.25, 0.5, 0.5, 1.0])
    there = presence(View(photo))
    assert (there[NUMBER["dog"]], there[NUMBER["car"]]) == (1.0, 0.0)
    assert np.isnan(there[NUMBER["bus"]])


def test_pixels_and_maps_are_cut_at_the_same_place():
    grid = 16
    columns, rows = np.meshgrid((np.arange(grid) + 0.5) / grid, (np.arange(grid) + 0.5) / grid)
    places = np.stack([columns, rows], axis=-1)  # a map that tells where it is
    picture = np.asarray(
        Image.fromarray((np.stack([columns, rows, rows], -1) * 255).astype(np.uint8)).resize((256, 256))
    )
    rng = np.random.default_rng(4)
    for _ in range(20):
        crop, flip = draw_crop(rng, 0.3)
        seen = cut_map(places, crop, flip, 7).reshape(7, 7, 2)
        # The middle of the part, away from the picture's edges where a map ends.
        along = crop[0] + (crop[2] - crop[0]) * 0.5
        assert seen[3, 3, 0] == pytest.approx(along, abs=0.03)
        assert (np.diff(seen[3, :, 0]) < 0).all() == flip
        pixels = cut(picture, crop, flip, 112)[:2] / 255
        coarse = pixels.reshape(2, 7, 16, 7, 16).mean((2, 4)).transpose(1, 2, 0)
        assert np.abs(coarse - seen)[1:-1, 1:-1].max() < 0.05


def test_the_whole_map_at_its_own_size_is_itself():
    values = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    assert np.allclose(cut_map(values, WHOLE, False, 8), values.reshape(64, 3), atol=1e-6)


def test_a_cache_of_the_real_teacher_goes_on_and_classifies(root, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    steps = []
    write_cache(root, ["boxes"], tmp_path, lambda done, count: steps.append((done, count)))
    assert steps == [(15, 15)]
    whole = read_cache(root, tmp_path)
    (tmp_path / "done.json").write_text("0")
    write_cache(root, ["boxes"], tmp_path, lambda done, count: None)
    again = read_cache(root, tmp_path)
    assert np.array_equal(whole.stride_32, again.stride_32)
    import torch

    from eval.photos.teacher import LiteTeacher

    teacher = LiteTeacher()
    pixels = torch.from_numpy(np.array(whole.pixels[0])).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        theirs = teacher.net((pixels - 127) / 128).softmax(-1)[0].numpy()
    ours = classify(whole.head, np.asarray(whole.stride_32[0]).reshape(-1, 320))
    assert np.abs(theirs - ours).max() < 2e-3
