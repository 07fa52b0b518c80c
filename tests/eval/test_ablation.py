"""The ablation: variants that differ in what they say, and a summary that agrees with hand-made curves."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from eval.ablation import mergings
from eval.ablation.__main__ import chosen_variants
from eval.ablation.compare import ROWS_NAME, CodecRow, Levels, bytes_at_equal_loss, compare, measure
from eval.ablation.variants import (
    ANSWER_VARIANTS,
    CODEC_VARIANTS,
    PARTS,
    SharedFeatures,
    random_tokens,
    train_together,
)
from eval.lab.intervals import Estimate, NotComputable
from eval.lab.rows import write_rows
from tests.eval.commands import evaluate
from tofc.config import load_yaml
from tofc.errors import UserError
from tofc.training.codec import CodecRun, finish
from tofc.training.settings import TrainConfig

LEVELS, PICTURES = 4, 30


def levels(scale: float, seed: int = 0, noise: float = 0.05) -> Levels:
    """Loss falls with the logarithm of the bytes; pictures scatter around it."""
    rng = np.random.default_rng(seed)
    size = scale * 100.0 * 2.0 ** np.arange(LEVELS)[:, None] * np.exp(noise * rng.normal(size=(1, PICTURES)))
    loss = np.linspace(0.8, 0.2, LEVELS)[:, None] * np.ones((1, PICTURES))
    return Levels(size, loss, *[np.ones_like(loss)] * 3)


def ratio(variant: Levels, reference: Levels) -> float:
    """Of all pictures."""
    return bytes_at_equal_loss(variant.curves()[0], reference.curves()[0])


def test_equal_curves_need_equal_bytes_and_half_the_bytes_are_half() -> None:
    assert ratio(levels(1.0), levels(1.0)) == pytest.approx(1.0)
    assert ratio(levels(0.5), levels(1.0)) == pytest.approx(0.5)
    found = compare(levels(0.9, seed=1), levels(1.0))
    assert found["low"] < found["bytes_change"] < found["high"]
    assert found["low"] < -0.1 < found["high"]


def test_levels_that_are_not_worth_their_bytes_do_not_count() -> None:
    base = levels(1.0, noise=0.0)
    wasteful = dataclasses.replace(base, loss=base.loss.copy())
    wasteful.loss[3] = 0.9  # the dearest level answers worst
    assert ratio(wasteful, base) == pytest.approx(1.0)


def test_a_single_point_is_compared_where_it_lies() -> None:
    # Losses 0.6 and 0.4 of two levels: their geometric mean lies half way between them in log bytes.
    base = levels(1.0, noise=0.0)
    between = Levels(*(np.full((1, PICTURES), value) for value in (100 * 2.0**1.5, 0.24**0.5, 1.0, 1.0, 1.0)))
    assert ratio(between, base) == pytest.approx(1.0)


def test_losses_that_do_not_meet_are_an_error() -> None:
    far = levels(1.0)
    far = dataclasses.replace(far, loss=far.loss + 5)
    with pytest.raises(NotComputable, match="no equal losses"):
        compare(far, levels(1.0))


def test_rows_of_a_missing_picture_are_an_error() -> None:
    rows = [CodecRow("full", p, quality, 10, 0.1, 1.0, 2, 1) for p in (0, 1) for quality in (0, 1, 2)]
    assert Levels.from_rows(rows).bytes.shape == (2, 2)
    assert Levels.from_rows(rows).terms.tolist() == [[2.0, 2.0]] * 2  # cross-entropy is summed over questions
    assert Levels.from_rows(rows, "error").terms.tolist() == [[1.0, 1.0]] * 2
    with pytest.raises(UserError, match="quality 2 of picture 1"):
        Levels.from_rows(rows[:-1])


def test_random_tokens_are_the_same_again_and_others_in_another_picture() -> None:
    features = torch.arange(64.0).reshape(2, 32, 1)
    kept = random_tokens(features, 8)[..., 0]
    assert torch.equal(kept, random_tokens(features, 8)[..., 0])
    assert (kept.diff(dim=1) > 0).all()  # distinct, in raster order
    assert not torch.equal(kept[0], kept[1] - 32)
    assert torch.equal(random_tokens(features, 99), features)


def test_mergings_are_compared_before_one_checkpoint() -> None:
    words = ["--pictures", 2, "--tokens", 4, "--tokens", 196, "--quality", 8]
    code, printed, _ = evaluate("ablation", "mergings", "scenes-tiny", *words)
    assert code == 0
    told = json.loads(printed.splitlines()[-1])["mergings"]
    ways = len(mergings.MERGINGS)
    assert [row["tokens"] for row in told] == [4] * ways + [196] * ways
    assert len({row["nats"] for row in told[:ways]}) == ways
    equal = json.loads(printed.splitlines()[-1])["equal_bytes"]
    assert equal
    assert {row["merging"] for row in equal} <= set(mergings.MERGINGS)
    assert len({(row["bytes"], row["nats"], row["right"]) for row in told[ways:]}) == 1  # nothing is merged
    assert evaluate("ablation", "mergings", "nothing-there")[0] == 2


def test_a_merging_gains_what_more_pictures_have_right() -> None:
    asked = np.full(40, 6.0)
    base = mergings.MergingResult("density peaks", 4, 5, asked, asked, asked, np.full(40, 3.0))
    better = dataclasses.replace(base, right=np.full(40, 4.5))
    assert better.gain(base) == Estimate(0.25, 0.25, 0.25)
    gain = dataclasses.replace(base, right=np.arange(40) % 7.0).gain(base)
    assert gain.low < 0 < gain.high


def test_at_equal_bytes_the_cheaper_merging_gains() -> None:
    asked = np.full(40, 6.0)
    right = np.arange(40) % 7.0

    def points(name: str, scale: float) -> list[mergings.MergingResult]:
        return [
            mergings.MergingResult(name, n, 5, np.full(40, scale * 10.0 * n), asked, asked, right * n / 16)
            for n in (4, 9, 16)
        ]

    results = [
        point
        for place, name in enumerate(mergings.MERGINGS)
        for point in points(name, 0.5 if place == 2 else 1.0)
    ]
    _, told = mergings.report(results, "made")
    gains = {(row["merging"], row["bytes"]): row["gain"] for row in told["equal_bytes"] if row["bytes"] == 90}
    cheaper = gains["averages of blocks", 90]
    assert cheaper[0] > 0.05
    assert gains["random tokens", 90] == [0.0, 0.0]


@pytest.mark.parametrize("part", PARTS)
def test_every_variant_changes_the_configuration_except_the_reference(part: str) -> None:
    config = load_yaml(f"configs/scenes-tiny-ablation-{part}.yaml", TrainConfig)
    changed = {name: variant.change(config) for name, variant in PARTS[part].items()}
    assert changed.pop("full") == config
    distinct = {(repr(each), PARTS[part][name].merge is None) for name, each in changed.items()}
    assert len(distinct) == len(changed)
    assert all(each != config for each in changed.values())


def test_the_papers_variant_has_the_terms_of_its_recipe() -> None:
    ours = load_yaml("configs/scenes-tiny-ablation-terms.yaml", TrainConfig)
    changed, paper = PARTS["terms"]["paper"].change(ours), load_yaml("configs/paper.yaml", TrainConfig)
    for term in ("feature_weight", "feature_steps", "end_weight", "beta2", "uncoded_share", "balance"):
        assert getattr(changed, term) == getattr(paper, term), term
    assert changed.adapters is not None
    assert changed.adapters.tower
    assert paper.adapters == changed.adapters
    assert changed.checkpoint.merging == paper.checkpoint.merging == ours.checkpoint.merging


def test_a_single_rate_codec_has_step_and_weight_of_its_level() -> None:
    config = load_yaml("configs/scenes-tiny-ablation-codec.yaml", TrainConfig)
    single = CODEC_VARIANTS["single_4"].change(config)
    assert single.codec.steps == (config.codec.steps[3],)
    assert single.rate_weights() == pytest.approx([config.rate_weights()[3]])


def test_a_selection_keeps_the_reference_and_refuses_unknown_names() -> None:
    assert list(chosen_variants("answers", ["frozen"])) == ["full", "frozen"]
    assert chosen_variants("answers", None) == ANSWER_VARIANTS
    with pytest.raises(UserError, match="no variant 'experts_1'; choose from full, seed, frozen"):
        chosen_variants("answers", ["experts_1"])


def test_features_are_computed_once_for_equal_pixels_and_tokens() -> None:
    class Task:
        calls = 0

        def merged(self, pixels: torch.Tensor, tokens: int | None) -> torch.Tensor:
            self.calls += 1
            return pixels * (tokens or 1)

    task = Task()
    shared = SharedFeatures(task)  # type: ignore[arg-type]  # all of a task that it uses
    pixels = torch.arange(4.0)
    assert torch.equal(shared(pixels, 2), pixels * 2)
    assert torch.equal(shared(pixels.clone(), 2), pixels * 2)
    assert task.calls == 1
    assert torch.equal(shared(pixels, 3), pixels * 3)
    assert torch.equal(shared(pixels + 1, 3), (pixels + 1) * 3)
    assert task.calls == 3


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    """Two steps of two pictures."""
    whole = load_yaml("configs/scenes-tiny-ablation-codec.yaml", TrainConfig)
    data = dataclasses.replace(whole.data, num_workers=0)
    return dataclasses.replace(
        whole, data=data, feature_steps=2, total_steps=2, batch_size=2, init_pictures=4, validation_pictures=1
    )


@pytest.fixture(scope="module")
def together(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, CodecRun]]:
    """Two variants, with one thread: sums of several may differ in their last bits from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    chosen = {name: CODEC_VARIANTS[name] for name in ("full", "experts_1")}
    yield train_together(config, chosen, tmp_path_factory.mktemp("together"), Console(quiet=True))
    torch.set_num_threads(before)


def test_variants_trained_together_equal_those_trained_alone(
    config: TrainConfig, together: dict[str, CodecRun], tmp_path: Path
) -> None:
    alone = CodecRun(CODEC_VARIANTS["experts_1"].change(config), tmp_path / "alone", Console(quiet=True))
    alone.run()
    expected = alone.task.codec.state_dict()
    found = together["experts_1"].task.codec.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert together["full"].task.codec.config.experts == 4


def test_errors_are_taken_in_the_coordinates_of_the_reference(together: dict[str, CodecRun]) -> None:
    run = together["experts_1"]
    exported = finish(run)[1]
    wider = copy.deepcopy(together["full"].task.codec)
    wider.forward_transform *= 2.0
    rows, doubled = (
        measure("experts_1", run, exported, 2, reference)
        for reference in (together["full"].task.codec, wider)
    )
    assert [row.bytes for row in rows] == [row.bytes for row in doubled]
    assert [4 * row.error for row in rows] == pytest.approx([row.error for row in doubled], rel=1e-4)
    coded = [row.error for row in rows if row.quality == 1]
    assert min(coded) > max(row.error for row in rows if row.quality == 8) > 0


def test_training_together_refuses_what_is_not_shared(tmp_path: Path) -> None:
    config = load_yaml("configs/scenes-tiny-ablation-answers.yaml", TrainConfig)
    with pytest.raises(UserError, match="adapters: null"):
        train_together(config, CODEC_VARIANTS, tmp_path, Console(quiet=True))


def write(folder: Path, name: str, made: Levels) -> None:
    rows = [
        CodecRow(name, picture, level + 1, round(made.bytes[level, picture] * 1000), loss, loss, 1, 1)
        for level in range(LEVELS)
        for picture, loss in enumerate(made.loss[level].tolist())
    ]
    write_rows(folder / name / ROWS_NAME, rows, CodecRow)
    (folder / name / "codec-report.json").write_text('[{"usage": [0.9, 0.1]}, {"usage": [0.8, 0.2]}]')


def test_the_table_compares_what_is_there(tmp_path: Path) -> None:
    words = ["ablation", "codec", "unread.yaml", "--out", tmp_path, "--table-only"]
    code, _, said = evaluate(*words)
    assert code == 2
    assert "run it first" in said
    write(tmp_path, "full", levels(1.0))
    write(tmp_path, "experts_1", levels(1.25))
    write(tmp_path, "single_2", dataclasses.replace(levels(1.0), loss=levels(1.0).loss + 5))
    code, shown, _ = evaluate(*words)
    assert code == 0
    assert '"variant": "single_2", "not_computed": "the variant' in shown
    assert "+25.0%" in shown
    assert "15.0%" in shown  # the least used entropy model
