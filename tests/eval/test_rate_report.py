"""The report: its numbers come out of the rows again, its gallery keeps its rule, and it asks for nothing."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections import defaultdict
from html.parser import HTMLParser

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from eval.lab.rows import write_rows
from eval.lab.terminal import FEW_PICTURES
from eval.rate.analysis import analyse
from eval.rate.config import RateConfig, Systems
from eval.rate.points import AT_95, EQUAL, AnswerRow, RatePoint
from eval.rate.report.cards import cluster_svg
from eval.rate.report.gallery import EVENLY, HARDEST, choose, tofc_point
from eval.rate.report.page import page

PICTURES, QUESTIONS = 40, 6
ACCURACIES = {
    "raw": {1: (10_000, 0.9)},
    "tofc": {1: (60, 0.7), 2: (110, 0.84), 3: (240, 0.91), 4: (260, 0.8)},
    "jpeg": {1: (300, 0.6), 2: (500, 0.84), 3: (900, 0.93)},
    "webp": {1: (250, 0.75), 2: (420, 0.86), 3: (700, 0.92)},
}


class Reader(HTMLParser):
    """Cells of the two tables by row and heading, as (value, printed) pairs and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: dict[tuple[str, str, str], list[tuple[float, str]]] = defaultdict(list)
        self.words: dict[tuple[str, str, str], str] = defaultdict(str)
        self.links: list[str] = []
        self.row, self.figure, self.value = ("", ""), "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.links += [found[name] for name in ("src", "href", "srcset", "data") if name in found]
        if tag == "tr" and "data-system" in found:
            self.row = (found["data-system"], found.get("data-point", ""))
        if tag == "td":
            self.figure = found.get("data-figure", "")
        self.value = found["value"] if tag == "data" else ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.row, self.figure = ("", ""), ""

    def handle_data(self, data: str) -> None:
        if self.row == ("", ""):
            return
        key = (*self.row, self.figure)
        self.words[key] += data
        if self.value:
            self.cells[key].append((float(self.value), data))
            self.value = ""


def made_rows() -> list[dict]:
    generator = np.random.default_rng(3)
    difficulty = generator.uniform(size=(PICTURES, QUESTIONS))
    rows = []
    for system, points in ACCURACIES.items():
        for number, (size, accuracy) in points.items():
            luck = generator.normal(0, 0.03, (PICTURES, QUESTIONS))
            for picture in range(PICTURES):
                num_bytes = round(size * generator.uniform(0.7, 1.3))
                for question in range(QUESTIONS):
                    rows.append(
                        {
                            "system": system, "point": name(system, number), "picture": f"p{picture:03d}",
                            "bytes": num_bytes, "tokens": 64, "question": question, "form": "yes_no",
                            "category": "count", "truth": "Yes", "answer": "Yes", "of": 1,
                            "right": int(difficulty[picture, question] + luck[picture, question] < accuracy),
                        }
                    )  # fmt: skip
    return rows


def point(system: str, number: int) -> RatePoint:
    return RatePoint(system, () if system == "raw" else (("quality", number),))


def name(system: str, number: int) -> str:
    return point(system, number).name


CONFIG = RateConfig(name="made & <plain>", checkpoint="none", systems=Systems(), resamples=300, seed=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict, list[dict]]:
    """A page of hand-made rows, its summary, and the rows as the csv module reads them."""
    file = tmp_path_factory.mktemp("made") / "rows.parquet"
    write_rows(file, [AnswerRow(**row) for row in made_rows()], AnswerRow)
    points = [point(system, number) for system, some in ACCURACIES.items() for number in some]
    summary = {"name": CONFIG.name, "checkpoint": "none", "data": "made"} | analyse(file, points, CONFIG)
    text = io.BytesIO()
    pyarrow.csv.write_csv(pyarrow.parquet.read_table(file), text)
    rows = list(csv.DictReader(io.StringIO(text.getvalue().decode())))
    return page(summary, [], {"seed": "5"}), summary, rows


def test_few_pictures_are_marked(made: tuple[str, dict, list[dict]]) -> None:
    text, summary, _ = made
    assert f'class="few">{PICTURES} pictures are few' in text
    assert 'class="few"' not in page(summary | {"pictures": FEW_PICTURES}, [], {"seed": "5"})


def sums(rows: list[dict], key: tuple[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right answers, questions and bytes of a point, by picture."""
    right, of, size = np.zeros(PICTURES), np.zeros(PICTURES), np.zeros(PICTURES)
    for row in rows:
        if (row["system"], row["point"]) == key:
            picture = int(row["picture"][1:])
            right[picture] += int(row["right"])
            of[picture] += int(row["of"])
            size[picture] = int(row["bytes"])
    return right, of, size


def needed(curve: list[tuple[float, float]], target: float) -> float:
    """Bytes of the cheapest straight way, in log-bytes, up the points that nothing cheaper matches."""
    best: list[tuple[float, float]] = []
    for size, accuracy in sorted(curve, key=lambda one: (one[0], -one[1])):
        if not best or accuracy > best[-1][1]:
            best.append((size, accuracy))
    for (low, worse), (high, better) in itertools.pairwise(best):
        if worse < target <= better:
            share = (target - worse) / (better - worse)
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    raise AssertionError("the made curves cross every target")


def printed(value: float, factor: float, digits: int) -> str:
    return f"{factor * value:,.{digits}f}".replace("-", "−")


def test_every_point_of_the_page_comes_out_of_the_rows_again(made) -> None:
    text, _, rows = made
    cells = Reader(text).cells
    drawn = np.random.default_rng(CONFIG.seed).multinomial(
        PICTURES, [1 / PICTURES] * PICTURES, CONFIG.resamples
    )
    for system, some in ACCURACIES.items():
        for number in some:
            key = (system, name(system, number))
            right, of, size = sums(rows, key)
            expected = {"mean": size.mean(), "p50": np.median(size), "p95": np.quantile(size, 0.95)}
            for figure, value in expected.items():
                ((found, words),) = cells[(*key, figure)]
                assert found == pytest.approx(value, rel=1e-12)
                assert words == printed(value, 1, 0)
            resampled = sorted((drawn * right).sum(1) / (drawn * of).sum(1))
            low, high = resampled[math.floor(0.025 * 299)], resampled[math.ceil(0.975 * 299)]
            found = cells[(*key, "accuracy/yes_no")]
            wanted = (right.sum() / of.sum(), low, high)
            assert [value for value, _ in found] == pytest.approx(wanted)
            assert [words for _, words in found] == [printed(value, 100, 1) for value in wanted]


def test_every_saving_of_the_page_comes_out_of_the_rows_again(made) -> None:
    text, _, rows = made
    reader = Reader(text)
    totals = {}
    for system, some in ACCURACIES.items():
        counted = [sums(rows, (system, name(system, number))) for number in some]
        totals[system] = [(size.mean(), right.sum() / of.sum()) for right, of, size in counted]
    totals["best of JPEG, WebP"] = totals["jpeg"] + totals["webp"]
    reference = totals.pop("raw")[0][1]
    for target, at in ((EQUAL, reference - 0.01), (AT_95, 0.95 * reference)):
        ours = needed(totals["tofc"], at)
        for system, curve in totals.items():
            size, *_ = reader.cells[system, "", f"bytes/{target}"]
            assert size == (pytest.approx(needed(curve, at)), printed(needed(curve, at), 1, 0))
            if system != "tofc":
                saved = 1 - ours / needed(curve, at)
                value, low, high = reader.cells[system, "", f"savings/{target}"]
                assert value == (pytest.approx(saved), printed(saved, 100, 1))
                assert low[0] <= value[0] <= high[0]
    for system in ("jpeg", "webp", "best of JPEG, WebP"):
        assert len(reader.cells[system, "", "bd_rate"]) == 3


def test_what_has_no_figure_has_a_reason(made) -> None:
    text, summary, _ = made
    why = summary["systems"]["raw"]["bd_rate"]["not_computed"]
    reader = Reader(text)
    assert not reader.cells["raw", "", "bd_rate"]
    assert "none" in reader.words["raw", "", "bd_rate"]
    assert why in text.split("<h3>Notes</h3>")[1]


def test_the_chart_draws_the_numbers_of_the_table(made) -> None:
    text, summary, _ = made
    cells = Reader(text).cells
    island = text.split('id="curves-data">')[1].split("</script>")[0]
    drawn = json.loads(island)
    count = 0
    for system in drawn["systems"]:
        for one in system["points"]:
            key = (system["key"], one["name"])
            assert one["bytes"] == [cells[(*key, figure)][0][0] for figure in ("mean", "p50", "p95")]
            assert one["accuracy"]["yes_no"] == [value for value, _ in cells[(*key, "accuracy/yes_no")]]
            count += 1
        names = [system["points"][index]["name"] for index in system["front"]["yes_no"]]
        assert names == summary["fronts"]["yes_no"][system["key"]]
    assert count == sum(map(len, ACCURACIES.values()))


def test_the_page_escapes_what_it_is_given_and_needs_nothing(made) -> None:
    text, _, _ = made
    assert "<plain>" not in text
    assert "made &amp; &lt;plain&gt;" in text
    assert all(link.startswith(("#", "data:")) for link in Reader(text).links)
    for needle in ("http://", "https://", "@import", "url("):
        assert needle not in text.replace("http://www.w3.org/2000/svg", "")


def test_pictures_are_chosen_evenly_and_then_by_what_tofc_gets_wrong() -> None:
    pictures = [f"p{i}" for i in range(100)]
    wrong = dict.fromkeys(pictures, 1) | {"p5": 3, "p6": 3, "p50": 9, "p99": 20, "p7": 2}
    chosen = choose(pictures, wrong)
    assert [index for index, hardest in chosen if not hardest] == [0, 14, 28, 42, 57, 71, 85, 99]
    assert [index for index, hardest in chosen if hardest] == [50, 5, 6, 7], "of equals the earlier"
    assert len(chosen) == EVENLY + HARDEST
    assert choose(["a", "b", "c"], {"a": 0, "b": 0, "c": 9}) == [(0, False), (1, False), (2, False)]


def test_tofc_is_shown_where_it_first_is_within_a_point(made) -> None:
    _, summary, _ = made
    assert tofc_point(summary) == ("tofc", "quality 3")
    # Where it is never there, at its best.
    unreached = {**summary, "reference": {"value": 1.0}}
    assert tofc_point(unreached) == ("tofc", "quality 3")


def test_clusters_cover_every_patch_once() -> None:
    from PIL import Image

    assignment = np.array([[0, 0, 1], [2, 0, 1]])
    svg = cluster_svg(Image.new("RGB", (60, 40), (10, 20, 30)), assignment, "base")
    assert 'd="M0 0h2v1h-2zM1 1h1v1h-1z" fill="#0a141e"' in svg
    assert "one token: 3 of 6 patches" in svg
    assert "scale(20 20)" in svg
    assert svg.split('class="seams" d="')[1].split('"')[0] == "M2 0v1M1 1v1M2 1v1M0 1h1"
    padded = cluster_svg(Image.new("RGB", (60, 40)), assignment, "padded")
    assert "translate(0 -10) scale(20 30)" in padded
