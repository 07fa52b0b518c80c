"""From rows to figures: hand-made rows whose accuracies, intervals and savings are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.lab.rows import write_rows
from eval.rate.analysis import analyse
from eval.rate.config import RateConfig, Systems
from eval.rate.points import AT_95, EQUAL, AnswerRow, RatePoint
from tofc.errors import UserError

PICTURES, QUESTIONS = 40, 5
RAW = RatePoint("raw")


def config(**changes) -> RateConfig:
    return RateConfig(
        **{"name": "made", "checkpoint": "none", "systems": Systems(), "resamples": 400, **changes}
    )


def rows(
    point: RatePoint, size: float, right_of_ten: int, form: str = "yes_no", spread: float = 0.0
) -> list[dict]:
    """A point that is right in so many of ten answers, the same in each pair of pictures."""
    made = []
    for picture in range(PICTURES):
        for question in range(QUESTIONS):
            place = (picture % 2) * QUESTIONS + question
            made.append(
                {
                    "system": point.system, "point": point.name, "picture": f"p{picture:03d}",
                    "bytes": round(size * (1 + spread * (picture - PICTURES / 2) / PICTURES)), "tokens": 64,
                    "question": question, "form": form, "category": "count", "truth": "Yes",
                    "answer": "Yes", "right": int(place < right_of_ten), "of": 1,
                }
            )  # fmt: skip
    return made


def summarise(folder: Path, made: dict[RatePoint, list[dict]], **changes) -> dict:
    write_rows(
        folder / "rows.parquet", [AnswerRow(**row) for some in made.values() for row in some], AnswerRow
    )
    return analyse(folder / "rows.parquet", list(made), config(**changes))


def point(system: str, number: int) -> RatePoint:
    return RatePoint(system, (("quality", number),))


def test_savings_of_known_curves(tmp_path: Path) -> None:
    """TOFC needs a quarter of JPEG's bytes at the only accuracies that there are."""
    made = {RAW: rows(RAW, 10_000, 9)}
    for system, factor in (("tofc", 100), ("jpeg", 400)):
        for number, right in ((1, 5), (2, 9)):
            made[point(system, number)] = rows(point(system, number), factor * number, right)
    summary = summarise(tmp_path, made)
    assert summary["reference"]["value"] == pytest.approx(0.9)
    jpeg, tofc = summary["systems"]["jpeg"], summary["systems"]["tofc"]
    # 0.89 lies 39/40 of the way from 0.5 to 0.9, in log-bytes from 100 to 200.
    assert tofc["bytes"][EQUAL]["value"] == pytest.approx(100 * 2 ** (39 / 40))
    assert tofc["bytes"][AT_95]["value"] == pytest.approx(100 * 2 ** (0.355 / 0.4))
    for target in (EQUAL, AT_95):
        assert jpeg["savings"][target]["value"] == pytest.approx(0.75)
        # The same pictures are drawn for both, so that nothing is left of their noise.
        assert jpeg["savings"][target]["low"] == pytest.approx(0.75)
    assert jpeg["bd_rate"]["value"] == pytest.approx(-0.75)
    assert "bd_accuracy" in jpeg
    assert summary["fronts"]["yes_no"]["jpeg"] == ["quality 1", "quality 2"]


def test_intervals_are_those_of_drawn_pictures(tmp_path: Path) -> None:
    """Half of the pictures are all right and half all wrong: the bootstrap is a binomial's."""
    made = {RAW: rows(RAW, 100, 5, spread=1.0)}
    summary = summarise(tmp_path, made, resamples=4000)
    accuracy = summary["points"][0]["accuracy"]["yes_no"]
    assert accuracy["value"] == 0.5
    drawn = np.random.default_rng(1).binomial(PICTURES, 0.5, 200_000) / PICTURES
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert accuracy["low"] == pytest.approx(low, abs=1 / PICTURES)
    assert accuracy["high"] == pytest.approx(high, abs=1 / PICTURES)
    sizes = [round(100 * (0.5 + p / PICTURES)) for p in range(PICTURES)]
    size = summary["points"][0]["bytes"]
    assert size["mean"] == pytest.approx(np.mean(sizes))
    assert (size["p50"], size["p95"]) == (np.quantile(sizes, 0.5), np.quantile(sizes, 0.95))


def test_the_best_of_a_group_is_its_cheaper_member(tmp_path: Path) -> None:
    made = {RAW: rows(RAW, 10_000, 9)}
    for system, sizes in (("tofc", (50, 100)), ("jpeg", (300, 800)), ("webp", (200, 1000))):
        for number, right in ((1, 5), (2, 9)):
            made[point(system, number)] = rows(point(system, number), sizes[number - 1], right)
    systems = summarise(tmp_path, made)["systems"]
    best = systems["best of JPEG, WebP"]["bytes"]
    assert best[EQUAL]["value"] == pytest.approx(
        200 * 4 ** (39 / 40)
    )  # from WebP's low end to JPEG's high end
    assert "best of AVIF, JPEG XL" not in systems


def test_what_cannot_be_computed_says_why(tmp_path: Path) -> None:
    made = {RAW: rows(RAW, 10_000, 9)}
    for system, right in (("tofc", 9), ("jpeg", 7), ("webp", 9)):
        made[point(system, 1)] = rows(point(system, 1), 100, right)
    systems = summarise(tmp_path, made)["systems"]
    assert systems["tofc"]["bytes"][EQUAL]["bound"] == "at most"
    assert "89.0 % is not reached: the best is 70.0 %" in systems["jpeg"]["bytes"][EQUAL]["not_computed"]
    assert "not reached" in systems["jpeg"]["savings"][EQUAL]["not_computed"]
    assert "both begin above" in systems["webp"]["savings"][EQUAL]["not_computed"]
    assert "single point" in systems["jpeg"]["bd_rate"]["not_computed"]


def test_resamples_that_do_not_reach_the_accuracy_leave_the_interval_open(tmp_path: Path) -> None:
    """JPEG is level with the reference by luck: in every other draw of pictures it is not."""
    made = {RAW: rows(RAW, 10_000, 9), point("tofc", 1): rows(point("tofc", 1), 50, 9)}
    lucky = rows(point("jpeg", 1), 500, 9)
    for row in lucky:  # right on other pictures than the reference, on as many
        row["right"] = int(int(row["picture"][1:]) >= PICTURES / 10)
    made[point("jpeg", 1)] = lucky
    jpeg = summarise(tmp_path, made)["systems"]["jpeg"]
    needed = jpeg["bytes"][EQUAL]
    assert (needed["value"], needed["low"], needed["high"]) == (500, 500, "not reached")
    # TOFC begins above the accuracy, so that of JPEG's bytes no share can be given.
    assert "both begin above" in jpeg["savings"][EQUAL]["not_computed"]
    made[point("jpeg", 2)] = rows(point("jpeg", 2), 250, 5)
    savings = summarise(tmp_path, made)["systems"]["jpeg"]["savings"][EQUAL]
    assert savings["bound"] == "at least"
    assert savings["value"] == pytest.approx(1 - 50 / (250 * 2 ** (39 / 40)))
    assert savings["high"] == 1, "where JPEG does not get there at all, all of its bytes are saved"
    assert savings["low"] > 0.7


def test_rows_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    made = {RAW: rows(RAW, 100, 9), point("tofc", 1): rows(point("tofc", 1), 50, 9)[:-1]}
    with pytest.raises(UserError, match="answered every yes_no question"):
        summarise(tmp_path, made)
    with pytest.raises(UserError, match="headline is 'free'; the questions have the forms yes_no"):
        summarise(tmp_path, {RAW: rows(RAW, 100, 9)}, headline="free")
