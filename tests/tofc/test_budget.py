"""A byte budget is kept to the byte, and used: on made-up sizes of every shape, and on real pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tofc
from eval.scenes.world import make_scene
from tofc.budget import WELL_USED, BudgetSearch, default_ladder
from tofc.config import MergingConfig

QUALITIES = range(1, 9)


class Coded(tuple):
    """Stands in for a packet: (quality, tokens), as many bytes as its table says."""

    size: int

    def __len__(self) -> int:
        return self.size


def search_in(sizes: np.ndarray, max_bytes: int) -> tuple[BudgetSearch, list[tuple[int, int]]]:
    asked: list[tuple[int, int]] = []

    def code(quality: int, tokens: int) -> Any:
        asked.append((quality, tokens))
        packet = Coded((quality, tokens))
        packet.size = int(sizes[quality - 1, tokens - 1])
        return packet

    return BudgetSearch(code, QUALITIES, sizes.shape[1], max_bytes), asked


def point(packet: Any) -> tuple[int, int]:
    quality, tokens = tuple.__iter__(packet)
    return quality, tokens


@st.composite
def growing_sizes(draw) -> np.ndarray:
    """Sizes [8, most] that grow with quality and tokens, with jumps of any kind."""
    most = draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    steps = rng.integers(0, draw(st.sampled_from([2, 10, 300])), (8, most)) * (rng.random((8, most)) < 0.5)
    return 12 + np.cumsum(np.cumsum(steps, axis=0), axis=1)


@settings(max_examples=300)
@given(growing_sizes(), st.integers(1, 6000), st.integers(1, 64))
def test_a_budget_is_used_wherever_any_point_uses_it(sizes, max_bytes: int, tokens: int) -> None:
    search, asked = search_in(sizes, max_bytes)
    ladder = default_ladder(QUALITIES, 4, tokens, sizes.shape[1])
    if sizes[0, 0] > max_bytes:
        with pytest.raises(tofc.UserError, match=rf"max_bytes is {max_bytes}, .* has {sizes[0, 0]} bytes"):
            search.along(ladder)
        return
    packet = search.along(ladder)
    assert len(packet) <= max_bytes
    fitting = sizes[sizes <= max_bytes]
    if fitting.max() >= WELL_USED * max_bytes:
        assert len(packet) >= WELL_USED * max_bytes or point(packet) == (8, sizes.shape[1])
    else:
        assert len(packet) == fitting.max()
    assert len(asked) == len(set(asked)), "a point was coded twice"


@settings(max_examples=200)
@given(growing_sizes(), st.integers(1, 6000), st.integers(0, 2**32))
def test_sizes_that_do_not_always_grow_never_break_the_budget(sizes, max_bytes: int, seed: int) -> None:
    noisy = np.maximum(1, sizes + np.random.default_rng(seed).integers(-40, 41, sizes.shape))
    search, _ = search_in(noisy, max_bytes)
    try:
        assert len(search.along(default_ladder(QUALITIES, 4, 16, sizes.shape[1]))) <= max_bytes
    except tofc.UserError:
        assert noisy[0, 0] > max_bytes


@settings(max_examples=100)
@given(growing_sizes(), st.integers(1, 6000), st.integers(1, 8))
def test_with_one_of_both_fixed_the_other_is_the_most_that_fits(sizes, max_bytes: int, quality: int) -> None:
    search, _ = search_in(sizes, max_bytes)
    fitting = np.flatnonzero(sizes[quality - 1] <= max_bytes)
    if fitting.size:
        assert point(search.at_quality(quality)) == (quality, fitting[-1] + 1)
    else:
        with pytest.raises(tofc.UserError, match=f"1 token, quality {quality}"):
            search.at_quality(quality)
    tokens = (sizes.shape[1] + 1) // 2
    levels = np.flatnonzero(sizes[:, tokens - 1] <= max_bytes)
    if levels.size:
        assert point(search.at_tokens(tokens)) == (levels[-1] + 1, tokens)
    else:
        with pytest.raises(tofc.UserError, match=f"{tokens} tokens need at least {sizes[0, tokens - 1]}"):
            search.at_tokens(tokens)


def test_the_search_is_short_where_sizes_are_nearly_proportional() -> None:
    """As sizes are: 729 tokens by halving alone would take ten packets at one quality."""
    tokens = np.arange(1, 730)
    sizes = 12 + np.outer(1.35 ** np.arange(8), 4 * tokens**0.95).round().astype(int)
    for max_bytes in (60, 300, 1000, 3000, 8000):
        search, asked = search_in(sizes, max_bytes)
        packet = search.along(default_ladder(QUALITIES, 4, 64, 729))
        assert len(packet) >= WELL_USED * max_bytes
        assert len(asked) <= 12, max_bytes


def test_the_highest_step_of_the_ladder_that_fits_gives_the_quality() -> None:
    sizes = np.outer(np.arange(1, 9) * 10, np.arange(1, 101))
    ladder = [4, 8, 16, 32, 50, 60, 70, 80]
    for number, tokens in enumerate(ladder):
        exact = int(sizes[number, tokens - 1])
        assert point(search_in(sizes, exact)[0].along(ladder)) == (number + 1, tokens)
        quality, found = point(search_in(sizes, exact + 10 * number + 10)[0].along(ladder))
        assert (quality, found) == (number + 1, tokens + 1), "what is left over is filled with tokens"


def test_the_default_ladder_doubles_through_the_default_point() -> None:
    assert default_ladder(QUALITIES, 4, 64, 196) == [8, 16, 32, 64, 128, 196, 196, 196]
    assert default_ladder(QUALITIES, 1, 1, 3) == [3] * 8
    with pytest.raises(tofc.UserError, match="8 numbers that do not fall"):
        MergingConfig(ladder=(1, 2, 3))
    with pytest.raises(tofc.UserError, match="8 numbers that do not fall"):
        MergingConfig(ladder=(9, 8, 7, 6, 5, 4, 3, 2))
    with pytest.raises(tofc.UserError, match="begins with 0"):
        MergingConfig(ladder=(0, 1, 2, 3, 4, 5, 6, 7))


# -- real pictures through the bundled model --


@pytest.fixture(scope="module")
def device() -> tofc.Device:
    return tofc.Device.from_pretrained("scenes-tiny")


@pytest.fixture(scope="module")
def seen(device) -> list[Any]:
    """Features of three scenes: the tower looks at each once."""
    return [device._see([Image.fromarray(make_scene("test", i)[1])], 10**8) for i in range(3)]


BUDGETS = [*range(60, 200, 10), *range(200, 1000, 100), *range(1000, 5001, 500)]


def test_budgets_on_real_pictures(device, seen) -> None:
    for features in seen:
        # What is coded is kept from budget to budget.
        search = device._search(features, max_bytes=0, progressive=False)
        top = search._packet(8, search.most)
        for search.max_bytes in BUDGETS:
            packet = search.along(device.ladder(search.most))
            assert len(bytes(packet)) <= search.max_bytes
            assert len(packet) >= WELL_USED * search.max_bytes or packet is top
        assert len(search._coded) < 15 * len(BUDGETS)


def test_a_budget_with_quality_or_tokens_given(device) -> None:
    picture = Image.fromarray(make_scene("test", 0)[1])
    edge = tofc.Edge.from_pretrained("scenes-tiny")
    best = device.encode(picture, quality=6, max_bytes=700)
    count = edge.decode(best).shape[0]
    assert best == device.encode(picture, quality=6, tokens=count)
    assert len(best) <= 700 < len(device.encode(picture, quality=6, tokens=count + 1))
    packet = device.encode(picture, tokens=40, max_bytes=700)
    sizes = {quality: len(device.encode(picture, quality=quality, tokens=40)) for quality in QUALITIES}
    assert len(packet) == max(size for size in sizes.values() if size <= 700)
    assert edge.decode(packet).shape[0] == 40
    whole = device.encode(picture, max_bytes=100_000)
    assert whole == device.encode(picture, quality=8, tokens="all")
    assert {"merge", "code", "search"} <= set(whole.timing)
    with pytest.raises(tofc.UserError, match="nothing to choose"):
        device.encode(picture, quality=3, tokens=4, max_bytes=100)


def test_a_checkpoint_may_bring_its_own_ladder(checkpoint_folder, picture) -> None:
    device = tofc.Device.from_pretrained(checkpoint_folder)
    low, high = (MergingConfig(tokens=12, ladder=(tokens,) * 8) for tokens in (2, 36))
    edge = tofc.Edge.from_pretrained(checkpoint_folder)
    budget = len(device.encode(picture, quality=4, tokens=9))
    counts = []
    for merging in (low, high):
        device.config = tofc.config.CheckpointConfig(merging=merging)
        counts.append(edge.decode(device.encode(picture, max_bytes=budget)).shape[0])
    assert counts[0] < 9 < counts[1]
