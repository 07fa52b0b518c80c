"""The laboratory: rows that go on after a kill, one bootstrap, and figures that stay what they were."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from eval.ablation.compare import CodecRow, Levels, compare
from eval.ablation.mergings import MergingResult
from eval.familial.accuracy import analyse as analyse_exits
from eval.familial.members import PolicyTally, summarise
from eval.lab.intervals import Estimate, NotComputable, Tallies, over_resamples, resamples
from eval.lab.rows import Store, read_rows, read_table, write_rows
from eval.rate.analysis import analyse
from eval.rate.config import RateConfig, Systems
from eval.rate.points import AnswerRow, RatePoint
from tests.eval.made_rows import SWEPT, codec_rows, member_rows, sweep_rows, uniform
from tofc.errors import UserError

GOLDEN = json.loads((Path(__file__).parent / "golden_figures.json").read_text())


@dataclass(frozen=True)
class Fact:
    name: str
    count: int
    share: float


FACTS = [Fact("a, with a comma", 1, 0.1), Fact('"', -(2**40), 1e-300)]


def same(found: Any, golden: Any) -> bool:
    """Equal but for the last bits of numbers."""
    if isinstance(golden, dict):
        return found.keys() == golden.keys() and all(same(found[key], golden[key]) for key in golden)
    if isinstance(golden, list):
        return len(found) == len(golden) and all(map(same, found, golden))
    return found == pytest.approx(golden, rel=1e-9) if isinstance(golden, float) else found == golden


def test_a_sweep_has_the_figures_that_it_always_had(tmp_path: Path) -> None:
    """Computed from the same rows before the laboratory was made."""
    write_rows(tmp_path / "rows.parquet", [AnswerRow(**row) for row in sweep_rows()], AnswerRow)
    points = [
        RatePoint(system, (("quality", quality),) if quality else ())
        for system, some in SWEPT.items()
        for quality, _, _ in some
    ]
    config = RateConfig(name="made", checkpoint="none", systems=Systems(), resamples=300)
    found = analyse(tmp_path / "rows.parquet", points, config)
    assert {scale["factor"] for scale in found.pop("scales").values()} == {100}
    assert same(found, GOLDEN["rate"])


def close(found: dict[str, float], golden: dict[str, float]) -> bool:
    """The same value; bounds of other draws of the same pictures: within a tenth of the interval."""
    width = golden["high"] - golden["low"]
    return found["value"] == pytest.approx(golden["value"]) and all(
        found[bound] == pytest.approx(golden[bound], abs=width / 10 + 1e-9) for bound in ("low", "high")
    )


def test_members_have_the_figures_that_they_always_had() -> None:
    found = [asdict(one) for one in analyse_exits(pyarrow.Table.from_pylist(list(member_rows())))]
    assert len(found) == len(GOLDEN["familial"])
    for one, golden in zip(found, GOLDEN["familial"], strict=True):
        names = ("system", "category", "questions")
        assert [one[name] for name in names] == [golden[name] for name in names]
        assert close(one["accuracy"], golden["accuracy"])
        assert close(one["kept"], golden["kept"])


def test_a_policy_has_the_figures_that_it_always_had() -> None:
    pictures = [
        PolicyTally(
            8,
            int(8 * uniform(6, i)),
            int(8 * max(uniform(6, i), uniform(7, i))),
            1000 + int(500 * uniform(8, i)),
            2000 + int(500 * uniform(9, i)),
            Counter({"e1": i % 5, "full": 8 - i % 5}),
        )
        for i in range(20)
    ]
    found, golden = asdict(summarise(pictures)), GOLDEN["choice"]
    assert close(found.pop("kept"), golden["kept"])
    assert close(found.pop("compute"), golden["compute"])
    assert same(found, {key: golden[key] for key in found})


@pytest.mark.parametrize("loss", ["error", "cross_entropy"])
def test_variants_of_the_codec_have_the_figures_that_they_always_had(loss: str) -> None:
    full, other = (
        Levels.from_rows([CodecRow(**row) for row in codec_rows(name, factor)], loss)
        for name, factor in (("full", 1.0), ("no_hyperprior", 1.1))
    )
    found, golden = compare(other, full), dict(GOLDEN["ablation"][loss])
    assert close(
        {"value": found.pop("bytes_change"), "low": found.pop("low"), "high": found.pop("high")},
        {"value": golden.pop("bytes_change"), "low": golden.pop("low"), "high": golden.pop("high")},
    )
    assert same(found, golden)


def test_a_merging_gains_what_it_always_gained() -> None:
    right = [uniform(10, i) * 6 // 1 for i in range(40)]
    more = [min(6.0, of + (uniform(11, i) < 0.4)) for i, of in enumerate(right)]
    asked = np.full(40, 6.0)
    base, better = (
        MergingResult("", 4, 5, asked, asked, asked, np.array(some, dtype=float)) for some in (right, more)
    )
    found, (low, high) = better.gain(base), GOLDEN["mergings"]
    assert close(asdict(found), {"value": found.value, "low": low, "high": high})


@pytest.mark.parametrize("name", ["rows.parquet", "folder/rows.csv"])
def test_rows_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name, FACTS, Fact)
    assert read_rows(tmp_path / name, Fact) == FACTS
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]
    with pytest.raises(UserError, match="does not hold the rows system, point"):
        read_rows(tmp_path / name, AnswerRow)
    with pytest.raises(UserError, match="run what makes it first"):
        read_rows(tmp_path / "none.csv", Fact)


def test_csv_as_other_programs_write_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("share,name,count\r\n0.5,NA,7\r\n")
    assert read_rows(tmp_path / "rows.csv", Fact) == [Fact("NA", 7, 0.5)]


def test_a_store_goes_on_where_it_was_and_mixes_nothing(tmp_path: Path) -> None:
    made_with = {"checkpoint": "1f", "software": {"torch": "2"}}
    store = Store(tmp_path / "out", Fact, made_with)
    store.write("b", FACTS[:1])
    again = Store(tmp_path / "out", Fact, made_with)
    assert again.has("b")
    assert not again.has("b", "a")
    with pytest.raises(UserError, match=r"a.parquet is missing"):
        again.merge(["a", "b"])
    again.write("a", FACTS[1:])
    assert read_rows(again.merge(["a", "b"]), Fact) == FACTS[::-1]
    with pytest.raises(UserError, match="another checkpoint"):
        Store(tmp_path / "out", Fact, {**made_with, "checkpoint": "2e"})
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="something else than a sweep"):
        Store(tmp_path / "else", Fact, made_with)


def test_the_bootstrap_of_a_mean_has_its_deviation() -> None:
    values = np.arange(100.0)
    found = Estimate.of(resamples(100, 4000) @ values / 100)
    assert found.value == 49.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.05)
    assert found.as_json() == {"value": 49.5, "low": found.low, "high": found.high}


def test_differences_are_those_of_the_same_pictures() -> None:
    """Noise that two systems share leaves nothing of their difference's interval."""
    first = np.random.default_rng(0).random(50)
    sums = resamples(50) @ np.stack([first, first + 0.25], axis=1) / 50
    gain = Estimate.of(sums[:, 1] - sums[:, 0])
    assert gain.low == pytest.approx(gain.high) == pytest.approx(0.25)


def test_a_figure_that_few_resamples_have_gets_no_interval() -> None:
    def positive(value: float) -> float:
        if value < 0:
            raise NotComputable("it is negative")
        return value

    values = np.concatenate([[1.0], np.linspace(-0.04, 0.96, 101)])
    found, computed = over_resamples(positive, values)
    assert isinstance(found, Estimate)
    assert computed == pytest.approx(97 / 101)
    assert over_resamples(positive, np.array([1.0, -1.0, 2.0])) == (1.0, 0.5)
    with pytest.raises(NotComputable, match="negative"):
        over_resamples(positive, np.array([-1.0, 1.0]))


def test_tallies_sum_up_what_belongs_together(tmp_path: Path) -> None:
    rows = list(sweep_rows(pictures=3))
    write_rows(tmp_path / "rows.parquet", [AnswerRow(**row) for row in rows], AnswerRow)
    table = read_table(tmp_path / "rows.parquet", AnswerRow)
    found = Tallies.read(table, system=("system", "point"), group="form", picture_values=("bytes",))
    assert found.pictures == ("p000", "p001", "p002")
    for number, key in enumerate(found.systems):
        own = [row for row in rows if (row["system"], row["point"], row["form"]) == (*key, "choice")]
        assert found.right["choice"][:, number].sum() == sum(row["right"] for row in own)
        assert found.of["choice"][:, number].tolist() == [2, 2, 2]
        assert found.picture_values["bytes"][0, number] == own[0]["bytes"]
    found.check_equal_questions("rows")
    everything = found.accuracy(resamples(3, 10), "yes_no")
    assert everything.shape == (11, len(found.systems))
    lacking = Tallies.read(table.slice(1), system=("system", "point"), group="form")
    with pytest.raises(UserError, match="every yes_no question"):
        lacking.check_equal_questions("rows")
