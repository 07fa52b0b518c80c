"""Counted stages: operations against formulas, and those of merging against what runs; times by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from encoders.merging_torch import DenseSearch
from eval.latency.config import Rates
from eval.latency.count import Counts, Work
from tofc.training.cost import count_operations
from tofc.training.estimate import PUBLISHED, base_shape

RATES = Rates(tflops=100, float64_tflops=1, utilisation=0.5, gigabytes=1000, bandwidth_utilisation=0.8)


@pytest.fixture(scope="module")
def model(base_folder: Path) -> LlavaOnevisionForConditionalGeneration:
    return LlavaOnevisionForConditionalGeneration.from_pretrained(base_folder).eval()


@pytest.fixture(scope="module")
def counts(model: LlavaOnevisionForConditionalGeneration) -> Counts:
    return Counts(model.config)


def test_times_by_hand() -> None:
    """5 TFLOP at half of 100 TFLOP/s; 8 GB at four fifths of 1000 GB/s; the longer of the two."""
    compute, memory = Work(5e12).timing(RATES), Work(1.0, 8e9).timing(RATES)
    assert compute.seconds == pytest.approx(0.1)
    assert memory.seconds == pytest.approx(0.01)
    assert Work(5e12, 8e9).timing(RATES).seconds == pytest.approx(0.1)
    assert Work(5e12).timing(RATES, float64=True).seconds == pytest.approx(10.0)
    assert compute.how == "5 TFLOP at 50 TFLOP/s"
    assert memory.how == "8 GB at 800 GB/s"


def test_vision_and_projector(model, counts: Counts) -> None:
    """Patches, then in each of two blocks four projections, attention's two products and the MLP's two."""
    tokens, width, mlp = 36, 32, 64
    block = 2 * tokens * (4 * width**2 + 2 * width * mlp) + 4 * tokens**2 * width
    tile = 2 * tokens * 3 * 8**2 * width + 2 * block
    assert counts.vision(1).flops == tile
    assert counts.vision(3).flops == 3 * tile
    projector = model.model.multi_modal_projector
    assert counts.project(20).flops == 20 * 2 * (width**2 + width**2)
    assert counts.project(20).read == 2 * sum(p.numel() for p in projector.parameters())


def test_prefill(model, counts: Counts) -> None:
    """Causal attention is half of the square and half of the diagonal; the head reads one position."""
    length, width, mlp, layers, vocabulary = 40, 32, 64, 2, len(model.lm_head.weight)
    projections = 2 * width**2 + 2 * width * 16  # query and output; one head of 16 for keys and values
    block = 2 * length * (projections + 3 * width * mlp) + 2 * length * (length + 1) * width
    rotary = 2 * length * 16 / 2  # angles are a product of positions and frequencies
    assert counts.prefill(length).flops == pytest.approx(layers * block + 2 * width * vocabulary, abs=rotary)
    text = sum(p.numel() for p in model.model.language_model.layers.parameters())
    assert counts.prefill(length).read == 2 * (text + model.lm_head.weight.numel())


def test_a_token_reads_the_keys_and_values_before_it(counts: Counts) -> None:
    """One head of 16 for keys and for values, two layers, two bytes each."""
    more = counts.next_token(30).read - counts.next_token(10).read
    assert more == 20 * 2 * 16 * 2 * 2
    assert counts.next_token(30).flops - counts.next_token(10).flops == 4 * 20 * 32 * 2


def test_merging_is_bounded_by_the_products_that_run(counts: Counts) -> None:
    """All denser-token rows at most; the other two products always."""
    features = torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(0))
    everyone = torch.ones(1, 50, dtype=torch.bool)
    search = DenseSearch(features, torch.zeros(1, 32).double(), torch.ones(1).double(), everyone)
    ranks = torch.arange(50)[None]

    def run(wanted: torch.Tensor) -> float:
        def call() -> None:
            search.neighbours(5)
            search.to_denser(ranks, wanted)
            search.nearest_center(torch.arange(8)[None])

        return count_operations(call).total

    assert run(everyone) == counts.merge(50, 8).flops
    assert run(everyone & (ranks < 10)) < counts.merge(50, 8).flops


def test_visual_positions(counts: Counts) -> None:
    """36 tokens and a newline a tile; a grid has a newline after each row; merged tokens have one."""
    assert counts.visual_positions((48, 48), "base", 36) == 37
    assert counts.visual_positions((48, 48), "base", 8) == 9
    assert counts.visual_positions((96, 96), "anyres", 36 + 144) == 36 + 12 * 13


@pytest.mark.parametrize("size, teraflops", [("0.5b", (0.093, 0.595)), ("7b", (1.68, 10.5))])
def test_published_shapes(size: str, teraflops: tuple[float, float]) -> None:
    (name,) = (name for name in PUBLISHED if f"-{size}-" in name)
    counts = Counts(base_shape(name))
    assert counts.vision(1).flops / 1e12 == pytest.approx(0.642, abs=5e-4)
    for tokens, expected in zip((64, 729), teraflops, strict=True):
        assert counts.prefill(64 + tokens).flops / 1e12 == pytest.approx(expected, rel=5e-3)
    assert (
        counts.visual_positions((1080, 1920), "anyres", counts.layout((1080, 1920), "anyres").num_tokens)
        == 7269
    )
