"""The ablation: variants that differ in what they say, and a summary that agrees with hand-made curves."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.ablation.__main__ import ROWS_NAME, main, print_table, read_rows
from eval.ablation.measure import Row
from eval.ablation.summary import Curve, bytes_at_equal_loss, interval
from eval.ablation.variants import VARIANTS, pool
from tofc.config import load_yaml
from tofc.errors import UserError
from tofc.training.settings import TrainConfig

LEVELS, PICTURES = 4, 30


def curve(scale: float, seed: int = 0, noise: float = 0.05) -> Curve:
    """Loss falls with the logarithm of the bytes; pictures scatter around it."""
    rng = np.random.default_rng(seed)
    size = scale * 100.0 * 2.0 ** np.arange(LEVELS)[:, None] * np.exp(noise * rng.normal(size=(1, PICTURES)))
    loss = np.linspace(0.8, 0.2, LEVELS)[:, None] * np.ones((1, PICTURES))
    return Curve(size, loss, np.ones_like(loss), np.ones_like(loss))


def test_equal_curves_need_equal_bytes_and_half_the_bytes_are_half() -> None:
    everything = np.arange(PICTURES)
    assert bytes_at_equal_loss(curve(1.0), curve(1.0), everything) == pytest.approx(1.0)
    assert bytes_at_equal_loss(curve(0.5), curve(1.0), everything) == pytest.approx(0.5)
    ratio, low, high = interval(curve(0.9, seed=1), curve(1.0), seed=0)
    assert low < ratio < high
    assert low < 0.9 < high


def test_levels_that_are_not_worth_their_bytes_do_not_count() -> None:
    base = curve(1.0, noise=0.0)
    wasteful = dataclasses.replace(base, cross_entropy=base.cross_entropy.copy())
    wasteful.cross_entropy[3] = 0.9  # the dearest level answers worst
    assert bytes_at_equal_loss(wasteful, base, np.arange(PICTURES)) == pytest.approx(1.0)


def test_a_single_point_is_compared_where_it_lies() -> None:
    base = curve(1.0, noise=0.0)
    between = Curve(*(np.full((1, PICTURES), value) for value in (100 * 2.0**1.5, 0.5, 1.0, 1.0)))
    assert bytes_at_equal_loss(between, base, np.arange(PICTURES)) == pytest.approx(1.0)


def test_losses_that_do_not_meet_are_an_error() -> None:
    far = curve(1.0)
    far = dataclasses.replace(far, cross_entropy=far.cross_entropy + 5)
    with pytest.raises(ValueError, match="no equal losses"):
        interval(far, curve(1.0))


def test_rows_of_a_missing_picture_are_an_error() -> None:
    rows = [Row("full", picture, quality, 10, 1.0, 2, 1) for picture in (0, 1) for quality in (0, 1, 2)]
    assert Curve.from_rows(rows).bytes.shape == (2, 2)
    with pytest.raises(ValueError, match="quality 2 of picture 1"):
        Curve.from_rows(rows[:-1])


def test_pooling_averages_blocks() -> None:
    features = torch.arange(16.0).reshape(1, 16, 1)
    assert pool(features, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    with pytest.raises(ValueError, match="pool"):
        pool(features, 9)


def test_every_variant_changes_the_configuration_except_the_reference() -> None:
    config = load_yaml("configs/scenes-tiny-ablation.yaml", TrainConfig)
    changed = {name: variant.change(config) for name, variant in VARIANTS.items()}
    assert changed.pop("full") == config
    distinct = {(repr(each), VARIANTS[name].merge is None) for name, each in changed.items()}
    assert len(distinct) == len(changed)
    assert all(each != config for each in changed.values())
    single = changed["single_4"]
    assert single.codec.steps == (config.codec.steps[3],)
    assert single.rate_weights() == pytest.approx([config.rate_weights()[3]])


def write(folder: Path, name: str, made: Curve) -> None:
    (folder / name).mkdir()
    with (folder / name / ROWS_NAME).open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        for level in range(LEVELS):
            for picture in range(PICTURES):
                size, loss = made.bytes[level, picture], made.cross_entropy[level, picture]
                row = Row(name, picture, level + 1, round(size * 1000), float(loss), 1, 1)
                writer.writerow(row.as_dict())
    (folder / name / "codec-report.json").write_text('[{"usage": [0.9, 0.1]}, {"usage": [0.8, 0.2]}]')


def test_the_table_compares_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="run it first"):
        print_table(tmp_path, "full")
    write(tmp_path, "full", curve(1.0))
    write(tmp_path, "experts_1", curve(1.25))
    assert read_rows(tmp_path / "full" / ROWS_NAME)[0].quality == 1
    print_table(tmp_path, "full")
    shown = capsys.readouterr().out
    assert "+25.0%" in shown
    assert "15.0%" in shown  # the least used entropy model


def test_a_run_without_reference_ends_in_a_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["ablation", "configs/scenes-tiny-ablation.yaml", "--out", str(tmp_path), "--table-only"]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 2
