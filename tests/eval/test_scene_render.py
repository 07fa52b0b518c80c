"""The parts that pictures are made of: font, textures, primitives, colours."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from eval.asking.question import Draw
from eval.scenes.layout import COLOURS, WORDS
from eval.scenes.render import COLUMNS, cast_shadow, paint, silhouette
from eval.scenes.render_ground import expose, soften
from eval.scenes.shapes import STROKES, Pen, segments
from eval.scenes.textures import SIZE, bells, hash_grid, tables
from eval.scenes.world import COLOUR_RGB, make_scene, paint_of


def pen_at(x: float, base: float, scale: float = 1.0) -> Pen:
    return Pen(x, base, scale, flip=1.0, sun=0.0, phase=0.0)


def mask_of(pen: Pen) -> tuple[np.ndarray, tuple[int, ...]]:
    mask = np.zeros((100, 120), dtype=np.uint8)
    found = silhouette(mask, *pen.arrays(), tables())
    return mask, found


def test_font_covers_what_is_written() -> None:
    assert set("".join(WORDS)) | set("0123456789") <= set(STROKES)
    for character in STROKES:
        lines = np.array(segments(character))
        assert lines.min() >= -0.06
        assert lines.max() <= 1.1


def test_glyphs_differ_from_one_another() -> None:
    pictures = {}
    for character in STROKES:
        pen = pen_at(60.0, 50.0)
        pen.text(character, 0.0, 0.0, 36.0, 56.0, 8.0, (0.0, 0.0, 0.0))
        pictures[character] = mask_of(pen)[0].astype(bool)
    for a, b in combinations(sorted(STROKES), 2):
        if {a, b} == {"0", "O"}:  # words hold no digits, so the two never meet
            continue
        differing = (pictures[a] ^ pictures[b]).sum() / (pictures[a] | pictures[b]).sum()
        assert differing > 0.1, (a, b)


def test_box_and_ellipse_have_their_areas() -> None:
    pen = pen_at(50.0, 60.0)
    pen.box(0.0, 0.0, 20.0, 10.0, (0.0, 0.0, 0.0))
    assert mask_of(pen)[1] == (800, 30, 50, 70, 70)
    pen = pen_at(50.0, 50.0)
    pen.ellipse(0.0, 0.0, 30.0, 20.0, (0.0, 0.0, 0.0))
    assert mask_of(pen)[1][0] == pytest.approx(3.14159 * 600, rel=0.01)


def test_polygon_and_flipped_polygon_mirror_each_other() -> None:
    corners = ((-20.0, 0.0), (25.0, 0.0), (5.0, 40.0))
    masks = []
    for flip in (1.0, -1.0):
        pen = Pen(60.0, 80.0, 1.0, flip, 0.0, 0.0)
        pen.polygon(corners, (0.0, 0.0, 0.0))
        masks.append(mask_of(pen)[0])
    assert masks[0].sum() == pytest.approx(900, rel=0.03)
    assert np.array_equal(masks[0], masks[1][:, ::-1])


def test_hollow_and_unmarked_shapes_leave_pixels_free() -> None:
    pen = pen_at(50.0, 50.0)
    pen.ellipse(0.0, 0.0, 30.0, 30.0, (0.0, 0.0, 0.0), ring=2.0)
    pen.line(-10.0, 0.0, 10.0, 0.0, 2.0, (0.0, 0.0, 0.0), solid=False)
    mask, _ = mask_of(pen)
    assert mask[50, 50] == 0
    assert mask[50, 22] == 1


def test_paint_covers_and_blends() -> None:
    image = np.full((40, 40, 3), 100.0, dtype=np.float32)
    pen = pen_at(20.0, 20.0)
    pen.box(0.0, 0.0, 10.0, 10.0, (200.0, 0.0, 50.0), lift=0.0, side=0.0, amplitude=0.0)
    primitives, vertices = pen.arrays()
    assert primitives.shape == (1, COLUMNS)
    paint(image, primitives, vertices, tables())
    assert image[20, 20].tolist() == [200.0, 0.0, 50.0]
    assert image[2, 2].tolist() == [100.0, 100.0, 100.0]


def test_shadow_lies_beside_the_foot() -> None:
    mask = np.zeros((100, 120), dtype=np.uint8)
    mask[20:80, 50:60] = 1
    shadow = np.zeros((100, 120), dtype=np.float32)
    cast_shadow(shadow, mask, (50, 20, 60, 80), 80.0, 0.5, 0.25)
    rows, columns = np.nonzero(shadow)
    assert rows.min() >= 64
    assert rows.max() <= 80
    assert columns.max() == pytest.approx(60 + 30, abs=3)


def test_soften_keeps_flat_parts_and_the_sum() -> None:
    plane = np.zeros((20, 24), dtype=np.float32)
    plane[10, 12] = 9.0
    soften(plane, 1)
    assert plane.sum() == pytest.approx(9.0)
    assert plane[9:12, 11:14] == pytest.approx(np.ones((3, 3)))
    flat = np.full((20, 24), 3.0, dtype=np.float32)
    soften(flat, 2)
    assert flat == pytest.approx(np.full((20, 24), 3.0))


def test_expose_scales_clips_and_adds_noise() -> None:
    image = np.empty((448, 448, 3), dtype=np.float32)
    image[:] = (100.0, 50.0, 400.0)
    out = np.empty(image.shape, dtype=np.uint8)
    gains = np.array([1.1, 1.0, 1.0], dtype=np.float32)
    expose(image, gains, 0.0, 1.0, 1.0, 5, bells(), 0.0, 7, out)
    assert (out == np.array([110, 50, 255], dtype=np.uint8)).all()
    expose(image, gains, 0.0, 1.0, 1.0, 5, bells(), 3.0, 7, out)
    assert 2.5 < out[:, :, 0].std() < 3.5
    expose(image, gains, 0.25, 0.0, 0.0, 1, bells(), 0.0, 7, out)
    assert out[0, 0, 0] < 90 < out[224, 224, 0]


def test_textures_are_steady_and_bounded() -> None:
    assert tables().shape == (6, SIZE, SIZE)
    assert np.abs(tables()).max() <= 1.2
    values = hash_grid(64, 64, 3)
    assert values.min() >= -1.0
    assert values.max() < 1.0
    assert abs(values.mean()) < 0.05
    assert bells().std() == pytest.approx(1.0, abs=0.02)


def test_draws_cover_their_ranges_and_repeat() -> None:
    draws, again = Draw.seeded(1, 2), Draw.seeded(1, 2)
    numbers = [draws.integer(2, 5) for _ in range(2000)]
    assert set(numbers) == {2, 3, 4, 5}
    assert numbers == [again.integer(2, 5) for _ in range(2000)]
    assert Draw.seeded(1, 3).unit() != Draw.seeded(1, 2).unit()


def test_examples_of_a_colour_stay_nearest_to_its_name() -> None:
    draws = Draw.seeded(4)
    centres = np.array([COLOUR_RGB[colour] for colour in COLOURS])
    for number, colour in enumerate(COLOURS):
        for _ in range(200):
            distance = np.square(centres - np.array(paint_of(colour, draws))).sum(axis=1)
            assert distance.argmin() == number


def test_boards_show_their_colour_in_the_picture() -> None:
    """The strip of a board above its text, as photographed, is nearest to the colour that is told."""
    centres = np.array([COLOUR_RGB[colour] for colour in COLOURS])
    boards = right = 0
    for index in range(80):
        scene, image, owner = make_scene("test", index)
        for label, thing in enumerate(scene.things, start=1):
            if thing.kind != "sign":
                continue
            (x0, y0, _, _), (_, _, x1, _) = thing.glyphs[0][1], thing.glyphs[-1][1]
            assert (owner[y0 - 6 : y0 - 3, x0:x1] == label).all()
            seen = np.median(image[y0 - 6 : y0 - 3, x0:x1].reshape(-1, 3).astype(float), axis=0)
            boards += 1
            right += COLOURS[int(np.square(centres - seen).sum(axis=1).argmin())] == thing.colour
    assert boards > 25
    assert right == boards
