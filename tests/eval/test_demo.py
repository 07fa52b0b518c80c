"""The demo: what it asks about, what it prints and draws, and the whole command on the bundled model."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import tofc
from eval.baselines import CodedFile
from eval.demo import drawing
from eval.demo.__main__ import app, notes, print_picture, print_summary
from eval.demo.drawing import draw
from eval.demo.measure import (
    CODECS,
    PLAIN,
    DemoPicture,
    PictureResult,
    QuestionResult,
    demo_pictures,
    link_seconds,
    measure,
    steps,
)
from eval.lab.figures import require_matplotlib
from tofc.config import resolve
from tofc.errors import UserError
from tofc.examples import PHOTOGRAPHS
from tofc.features import boundaries, tile_box, tinted

ROOT = Path(__file__).parents[2]


def question(prompt: str = "How many cars?", answer: str = "2", truth: str = "2", webp: int | None = 900):
    points = {"WebP": None if webp is None else CodedFile(3, webp), "JPEG": CodedFile(5, 1500)}
    return QuestionResult(prompt, answer, truth, points, {"decode": 0.001, "generate": 0.02})


def result(*questions: QuestionResult, webp: int | None = 900) -> PictureResult:
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, :45] = (200, 40, 40)
    pixels[:, 45:] = (40, 40, 200)
    return PictureResult(
        name="a picture",
        image=Image.fromarray(pixels),
        assignment=np.repeat([[0, 0, 1, 1]], 4, axis=0),
        tile=(0.0, 0.0, 90.0, 60.0),
        quality=4,
        num_tokens=2,
        sections={"header": 11, "payload": 300},
        questions=questions or (question(),),
        baselines={"WebP": None if webp is None else CodedFile(3, webp), "JPEG": CodedFile(5, 1500)},
        reference_sizes={PLAIN: 9000, "PNG": 40000},
        seconds={"vision": 0.03, "code": 0.0004},
    )


def test_photographs_are_asked_about_what_is_there_and_what_is_not():
    pictures = demo_pictures()
    assert [picture.name for picture in pictures[-2:]] == ["china.jpg", "flower.jpg"]
    assert len(pictures) == len({picture.name for picture in pictures}) == len(PHOTOGRAPHS)
    assert all(len(picture.questions) >= 2 for picture in pictures)
    assert all(min(picture.image.size) >= 300 for picture in pictures)
    # Yes and no both occur, so that a model that always says the same cannot look good.
    truths = [truth for picture in pictures for truth in picture.questions.values()]
    assert truths.count("Yes") >= 3
    assert truths.count("No") >= 3


def test_missing_libraries_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match=r"scikit-image.*pip install 'tofc\[demo\]'"):
        demo_pictures()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"matplotlib.*pip install 'tofc\[demo\]'"):
        require_matplotlib("demo")


def test_boundaries_lie_where_clusters_meet():
    assignment = np.array([[0, 1], [0, 0]])
    segments = boundaries(assignment, (0.0, 0.0, 20.0, 10.0))
    assert sorted(segments) == [[(10.0, 0.0), (10.0, 5.0)], [(10.0, 5.0), (20.0, 5.0)]]
    # A tile padded to a square starts above the picture.
    assert sorted(boundaries(assignment, (0.0, -5.0, 20.0, 20.0)))[0] == [(10.0, -5.0), (10.0, 5.0)]


def test_tint_is_the_mean_colour_of_the_cluster():
    picture = result()
    whole = np.asarray(tinted(picture.image, picture.assignment, picture.tile, drawing.TINT), int)
    assert np.abs(whole[:, :45] - (200, 40, 40)).max() <= 1
    one_cluster = np.zeros((4, 4), int)
    left = np.asarray(tinted(picture.image, one_cluster, picture.tile, drawing.TINT), int)[:, :45]
    mixed = (1 - drawing.TINT) * np.array([200, 40, 40]) + drawing.TINT * np.array([120, 40, 120])
    assert np.abs(left - mixed).max() <= 1


def test_drawing_grows_with_pictures_and_survives_odd_answers(tmp_path):
    odd = question(prompt="What costs $5 or $6?\nA. this\nB. that", answer="", truth="x" * 300)
    long = question(answer="word " * 200)
    draw([result()], tmp_path / "one.png", "title", ["a note"])
    draw([result(), result(odd, long, webp=None)], tmp_path / "two.png", "title", ["a note " * 60])
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert one.width == two.width == 1600
        assert two.height >= one.height + 280
        # Not an empty page: our bar's colour is there, and so are the pixels of the picture.
        colours = {colour for _, colour in one.convert("RGB").getcolors(1 << 24)}
    assert (15, 118, 110) in colours
    assert (200, 40, 40) in colours


def test_table_states_bytes_truth_stages_and_failures():
    console = Console(width=100, record=True, file=io.StringIO())
    results = [result(), result(question(answer="3", webp=None), webp=None)]
    for one in results:
        print_picture(console, one)
    print_summary(console, results)
    text = console.export_text()
    assert "311 bytes travelled" in text
    assert "header 11 + payload 300" in text
    assert "900 (q3)" in text
    assert "wrong: 2" in text
    assert "vision 30 ms, code 0.4 ms" in text
    assert "25 ms computed for 100 kbit/s" in text
    assert "at no quality" in text
    assert "1,500 (4.8x)" in text
    assert max(map(len, text.splitlines())) <= 100


def test_notes_mention_only_what_is_there():
    assert len(notes([result(webp=None)])) == len(notes([result()])) + 1


def test_measuring_sends_one_packet_and_compares_with_its_answers(checkpoint_folder, picture):
    device, edge = (
        tofc.Device.from_pretrained(checkpoint_folder),
        tofc.Edge.from_pretrained(checkpoint_folder),
    )
    asked = {"How many cars are there?": "2", "Is there a car?": "Yes"}
    done = []
    demo_picture = DemoPicture("one", picture, asked)
    found = measure(device, edge, demo_picture, 2, lambda: done.append(1))
    packet = device.encode(picture, quality=2)
    assert found.num_bytes == len(bytes(packet))
    assert [answer.answer for answer in found.questions] == [
        edge.answer(packet, question).text for question in asked
    ]
    assert len(done) == steps(demo_picture)
    assert found.assignment.shape == (6, 6)
    assert len(np.unique(found.assignment)) == found.num_tokens == 12
    assert found.tile == (0, 0, *picture.size)
    assert found.reference_sizes["features, float16"] == 36 * 32 * 2
    for codec in CODECS:
        whole = found.baselines[codec.name]
        each = [question.baselines[codec.name] for question in found.questions]
        # A file that keeps all the answers keeps each of them, so none of theirs is larger.
        assert whole is None or all(point.num_bytes <= whole.num_bytes for point in each)


def test_padded_tiles_reach_beyond_the_picture():
    assert tile_box((100, 60), "padded") == (0, -20, 100, 100)
    assert tile_box((60, 100), "padded") == (-20, 0, 100, 100)
    assert tile_box((60, 100), "anyres") == (0, 0, 60, 100)


def test_link_time_is_bytes_over_rate():
    assert link_seconds(12_500) == 1.0


def test_answers_compare_without_case():
    assert question(answer=" Left ", truth="left").right
    assert not question(answer="", truth="left").right


def test_whole_command_on_the_bundled_model(tmp_path):
    figures = tmp_path / "figures.json"
    command = [
        sys.executable,
        "-m",
        "eval.demo",
        "--out",
        str(tmp_path),
        "--json",
        str(figures),
        "--pictures",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text(encoding="utf-8"))
    (picture,) = found["pictures"]
    assert picture["bytes"] == sum(picture["sections"].values()) > 0
    assert picture["tokens"] == resolve("photos-tiny").config.merging.tokens
    assert len(picture["questions"]) >= 2
    for asked in picture["questions"]:
        assert set(asked["baselines"]) == {"WebP", "JPEG"}
        assert asked["edge_seconds"]
    assert f"{picture['bytes']} bytes travelled" in done.stdout
    with Image.open(tmp_path / "demo.png") as image:
        assert image.width == 1600
        assert len(image.convert("RGB").getcolors(1 << 24)) > 1000


@pytest.mark.parametrize("option", ["--model", "--out"])
def test_what_the_user_can_put_right_is_one_line(option, tmp_path):
    taken = tmp_path / "a file"
    taken.write_text("no folder", encoding="utf-8")
    done = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), option, str(taken / "inside")])
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("demo.png"))
