"""What a scene says must be what its picture shows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from eval.scenes.layout import COLOURED, COLOURS, HEIGHT, HELD_OUT, KINDS, SPLITS, WIDTH, WORDS
from eval.scenes.world import Scene, make_scene

GOLDEN = json.loads(Path(__file__).with_name("golden_scenes.json").read_text(encoding="utf-8"))
SAMPLE = 60


@cache
def sample(split: str) -> list[tuple[Scene, np.ndarray, np.ndarray]]:
    return [make_scene(split, index) for index in range(SAMPLE)]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_scene_is_the_same_on_every_machine(name: str) -> None:
    split, index = name.split("/")
    scene, image, owner = make_scene(split, int(index))
    found = {
        "scene": hashlib.sha256(repr(scene).encode()).hexdigest(),
        "image": hashlib.sha256(image.tobytes()).hexdigest(),
        "owner": hashlib.sha256(owner.tobytes()).hexdigest(),
    }
    assert found == GOLDEN[name], (
        "if the change is meant: PYTHONPATH=. python tests/eval/make_golden_scenes.py"
    )


def test_scene_does_not_depend_on_what_was_made_before() -> None:
    first = make_scene("train", 5)
    make_scene("test", 9)
    again = make_scene("train", 5)
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1])
    assert np.array_equal(first[2], again[2])


@pytest.mark.parametrize("split", SPLITS)
def test_owner_map_agrees_with_things(split: str) -> None:
    for scene, image, owner in sample(split):
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert image.dtype == owner.dtype == np.uint8
        assert owner.shape == (HEIGHT, WIDTH)
        assert owner.max() == len(scene.things)
        for label, thing in enumerate(scene.things, start=1):
            rows, columns = np.nonzero(owner == label)
            assert thing.area == len(rows)
            assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            x0, y0, x1, y1 = thing.extent
            assert 0 <= x0 <= thing.box[0] < thing.box[2] <= x1 <= WIDTH
            assert 0 <= y0 <= thing.box[1] < thing.box[3] <= y1 <= HEIGHT


@pytest.mark.parametrize("split", SPLITS)
def test_everything_can_be_seen(split: str) -> None:
    for scene, _, _ in sample(split):
        assert 2 <= len(scene.things) <= 7
        assert [thing.base for thing in scene.things] == sorted(thing.base for thing in scene.things)
        assert max(Counter(thing.kind for thing in scene.things).values()) <= 5
        for thing in scene.things:
            assert thing.area >= 500
            wide, tall = thing.extent[2] - thing.extent[0], thing.extent[3] - thing.extent[1]
            assert max(wide, tall) >= 36


@pytest.mark.parametrize("split", SPLITS)
def test_text_is_open_to_view_and_in_order(split: str) -> None:
    texts = 0
    for scene, _, owner in sample(split):
        said = [thing.text for thing in scene.things if thing.text is not None]
        assert len(said) == len(set(said))
        assert sum(thing.kind == "sign" for thing in scene.things) <= 1
        for label, thing in enumerate(scene.things, start=1):
            assert (thing.kind == "sign") <= (thing.text is not None)
            assert "".join(character for character, _ in thing.glyphs) == (thing.text or "")
            if thing.text is None:
                continue
            texts += 1
            assert thing.text in WORDS or 1 <= int(thing.text) <= 99
            assert thing.kind in ("sign", "bus", "house")
            right = 0
            for _, (x0, y0, x1, y1) in thing.glyphs:
                assert right <= x0
                assert (owner[y0:y1, x0:x1] == label).all()
                assert 44 <= y1 - y0 <= 66
                assert 22 <= x1 - x0 <= 46
                right = x1
    assert texts > SAMPLE // 3


def test_kinds_and_colours_are_named() -> None:
    for split in SPLITS:
        for scene, _, _ in sample(split):
            for thing in scene.things:
                assert thing.kind in KINDS
                assert (thing.colour is not None) == (thing.kind in COLOURED)
                assert thing.colour is None or thing.colour in COLOURS
    assert {kind for _, kind in HELD_OUT} <= COLOURED


def test_held_out_pairs_stay_held_out() -> None:
    for split in SPLITS:
        for scene, _, _ in sample(split):
            clear = [thing.area for thing in scene.things if (thing.colour, thing.kind) in HELD_OUT]
            if split == "heldout":
                assert max(clear) >= 1500
            else:
                assert not clear


def test_every_held_out_pair_is_asked() -> None:
    shown = {
        (thing.colour, thing.kind)
        for index in range(2 * SAMPLE)
        for thing in make_scene("heldout", index)[0].things
    }
    assert shown >= HELD_OUT


def test_splits_share_no_picture() -> None:
    hashes = [hashlib.sha256(image.tobytes()).digest() for split in SPLITS for _, image, _ in sample(split)]
    assert len(set(hashes)) == len(hashes)


def test_repeats_and_singles_are_both_common() -> None:
    counts = Counter(
        number
        for split in SPLITS
        for scene, _, _ in sample(split)
        for number in Counter(thing.kind for thing in scene.things).values()
    )
    assert set(counts) == {1, 2, 3, 4, 5}
    assert sum(counts[number] for number in (2, 3, 4, 5)) > 0.2 * sum(counts.values())


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="train, validation, test, heldout"):
        make_scene("training", 0)
    with pytest.raises(ValueError, match="negative"):
        make_scene("train", -1)
