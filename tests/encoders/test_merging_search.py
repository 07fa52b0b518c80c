"""Both searches behind DPC-KNN give the same clusters, to the bit, whatever the tokens and the settings."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import (
    Clusters,
    dpc_knn,
    merge_tokens,
    merging_peaks,
    merging_search,
    merging_torch,
)
from encoders.merging_search import ScreenedSearch

GOLDEN = runpy.run_path(str(Path(__file__).with_name("make_golden_clusters.py")))


def random_features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(features: torch.Tensor, *args: object, **options: object) -> Clusters:
    """What `dpc_knn` gives where there are no bytes and no bounds: as on a GPU, but here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging_torch, "_cluster_here", merging_torch._cluster_there)
        return dpc_knn(features, *args, **options)


def screened(features: torch.Tensor) -> ScreenedSearch:
    """The search of arrays on the grid of `dpc_knn`."""
    values, valid = features.numpy(), np.ones(features.shape[:2], dtype=np.bool_)
    values = merging_peaks.as_points(values)
    return ScreenedSearch(values, *merging_peaks.fixed_point(*merging_peaks._range(values, valid), 5), valid)


def assert_same(first: Clusters, second: Clusters) -> None:
    assert torch.equal(first.centers, second.centers)
    assert torch.equal(first.assignment, second.assignment)


def awkward_features() -> dict[str, torch.Tensor]:
    """[1, N, C] each: what makes bounds loose, or distances equal."""
    noise = random_features(20, 1, 90, 24)
    groups = random_features(21, 1, 9, 24)[:, torch.arange(90) % 9]
    channel, token, decades = noise.clone(), noise.clone(), noise.double()
    channel[..., 5] *= 1e6
    token[0, 40] *= 1e4
    decades *= 10.0 ** torch.linspace(-30, 30, 90, dtype=torch.float64)[:, None]
    return {
        "noise": noise,
        "one value": torch.full((1, 90, 24), -7.25),
        "two values": (noise[..., :1] > 0).float().expand(-1, -1, 24),
        "duplicates": groups,
        "close groups": groups + 1e-5 * noise,
        "an outlier channel": channel,
        "an outlier token": token,
        "many decades": decades,
        "heavy tails": noise**9,
        "small integers": noise.round(),
        "a line": torch.arange(90.0)[None, :, None],
        "wide": random_features(22, 1, 40, 5000),
        "more tokens than one block": random_features(23, 1, 389, 12),
        "transposed": random_features(24, 1, 24, 90).transpose(1, 2),
    }


@pytest.mark.parametrize("name", awkward_features())
def test_screening_changes_nothing(name: str) -> None:
    features = awkward_features()[name]
    for num_clusters, k in ((1, 1), (7, 5), (30, 3), (features.shape[1] - 1, features.shape[1])):
        assert_same(dpc_knn(features, num_clusters, k), dense(features, num_clusters, k))
    mask = torch.arange(features.shape[1])[None] % 3 != 1
    assert_same(dpc_knn(features, 7, mask=mask), dense(features, 7, mask=mask))


@pytest.mark.parametrize("name", awkward_features())
def test_arrays_and_tensors_merge_alike(name: str) -> None:
    """To the bit: clusters, averages and counts, with a mask and without."""
    features = awkward_features()[name]
    mask = torch.arange(features.shape[1])[None] % 3 != 1
    for chosen in (None, mask):
        tensors = dpc_knn(features, 7, mask=chosen)
        arrays = dpc_knn(features.numpy(), 7, mask=None if chosen is None else chosen.numpy())
        np.testing.assert_array_equal(arrays.centers, tensors.centers)
        np.testing.assert_array_equal(arrays.assignment, tensors.assignment)
        for ours, theirs in zip(
            merge_tokens(features.numpy(), arrays), merge_tokens(features, tensors), strict=True
        ):
            assert isinstance(ours, np.ndarray)
            assert ours.dtype == theirs.numpy().dtype
            np.testing.assert_array_equal(ours, theirs)


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 40)),
    levels=st.sampled_from([1, 2, 5, 100, 10**6]),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    num_clusters=st.integers(1, 71),
    k=st.integers(1, 12),
)
@settings(max_examples=60)
def test_screening_changes_nothing_whatever_the_tokens(
    seed: int, shape: tuple[int, int, int], levels: int, share: float, num_clusters: int, k: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(levels, shape, generator=generator).float()
    mask = torch.rand(shape[:2], generator=generator) < share
    assert_same(dpc_knn(features, num_clusters, k, mask), dense(features, num_clusters, k, mask))


def test_clusters_are_those_of_earlier_releases() -> None:
    """Devices and edges of different releases must agree: clusters, averages and counts, to the bit."""
    expected = json.loads(GOLDEN["GOLDEN"].read_text(encoding="utf-8"))
    found = {name: GOLDEN["digest"](features, clusters) for name, features, clusters in GOLDEN["cases"]()}
    assert found == expected


def test_bounds_hold_for_every_pair() -> None:
    """What the products miss is at most what is told of it, and hardly more than the nearest are computed."""
    for name, features in awkward_features().items():
        search = screened(features)
        points, norms = search._points[0].astype(np.float64), search._norms[0]
        assert search._products is not None
        missed = abs(search._products[0] - points @ points.T)
        assert (missed <= search._error * np.sqrt(np.outer(norms, norms))).all(), name
    search = screened(random_features(25, 1, 729, 256))
    points, norms = search._points[0].astype(np.float64), search._norms[0]
    distances = norms[:, None] + norms - 2 * points @ points.T
    fifth = np.partition(distances, 4, axis=1)[:, 4:5]
    assert (distances - 4 * search._error * np.sqrt(np.outer(norms, norms)) <= fifth).sum(1).mean() < 6


@pytest.mark.parametrize("num_tokens", [2, 3, 5, 6, 7, 8, 1024, 1025])
def test_products_of_any_number_of_tokens(num_tokens: int) -> None:
    search = screened(random_features(27, 1, num_tokens, 17))
    points, norms = search._points[0].astype(np.float64), search._norms[0]
    assert search._products is not None
    missed = abs(search._products[0] - points @ points.T)
    assert (missed <= search._error * np.sqrt(np.outer(norms, norms))).all()


@pytest.mark.parametrize("width", [1, 2, 63, 1152, merging_peaks.MAX_WIDTH])
def test_distances_are_exact_at_the_extremes(width: int) -> None:
    """Opposite corners of the grid, as far as any tokens can be apart: no sum on the way overflows."""
    features = torch.tensor([-1.0, 1.0, 1.0])[:, None].mul(1 - 2**-20).expand(1, 3, width)
    search = screened(features)
    points = [[int(part) for part in point] for point in search._points[0].tolist()]
    expected = [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in points] for p in points]
    assert expected[0][1] > 2**47
    found, places = search.neighbours(3)
    assert np.take_along_axis(np.array(expected), places[0], 1).tolist() == found[0].tolist()
    assert search.to_denser(np.array([[0, 1, 2]]), np.array([[True, True, True]])).tolist() == [
        expected[0][1]
    ] * 2 + [0]


def test_other_processors_find_the_same() -> None:
    """Compiled for a processor that has no instruction that this one might have, and not compiled at all."""
    script = (
        "import torch; from encoders import dpc_knn\n"
        "features = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(26))\n"
        "print(dpc_knn(features, 20).assignment.tolist())"
    )
    expected = str(dpc_knn(random_features(26, 1, 40, 8), 20).assignment.tolist())
    for setting in ({"NUMBA_CPU_NAME": "generic"}, {"NUMBA_DISABLE_JIT": "1"}):
        other = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **setting}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert other.stdout.strip() == expected


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = random_features(6, 2, 90, 24)
    mask = torch.rand(2, 90, generator=torch.Generator().manual_seed(6)) < 0.8
    whole = dpc_knn(features, 16, mask=mask)
    monkeypatch.setattr(merging_search, "_MAX_PRODUCTS", 90 * 7)
    monkeypatch.setattr(merging_torch, "_MAX_BLOCK_ENTRIES", 2 * 90 * 7)
    assert_same(dpc_knn(features, 16, mask=mask), whole)
    assert_same(dense(features, 16, mask=mask), whole)
    monkeypatch.setattr(merging_search, "_MAX_PRODUCTS", 1)
    assert_same(dpc_knn(features, 16, mask=mask), whole)


def test_threads_and_autocast_change_nothing() -> None:
    features = random_features(7, 2, 700, 256)  # enough work for several threads
    alone = dpc_knn(features, 30)
    assert_same(dense(features, 30), alone)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert_same(dpc_knn(features, 30), alone)
    finally:
        torch.set_num_threads(before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(dpc_knn(features, 30), alone)
        assert_same(dense(features, 30), alone)
        merged, _ = merge_tokens(features, alone)
    assert merged.dtype == torch.float32
    assert torch.equal(merged, merge_tokens(features, alone)[0])


def test_a_fork_merges_without_its_parents_threads() -> None:
    """PyTorch's threads are not in it: whoever waits for them waits forever."""
    script = (
        "import os, sys, torch; from encoders import dpc_knn\n"
        "torch.set_num_threads(2)\n"
        "features = torch.randn(1, 700, 64, generator=torch.Generator().manual_seed(0))\n"
        "before = dpc_knn(features, 20).assignment\n"
        "if child := os.fork(): sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "os._exit(0 if (dpc_knn(features, 20).assignment.numpy() == before.numpy()).all() else 3)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_calls_at_the_same_time_do_not_share_memory() -> None:
    pictures = [random_features(seed, 1, 150 + seed, 40) for seed in range(8)]
    alone = [dpc_knn(picture, 20) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = list(pool.map(lambda picture: dpc_knn(picture, 20), pictures))
            for ours, expected in zip(together, alone, strict=True):
                assert_same(ours, expected)


def test_images_may_come_in_any_order() -> None:
    features = random_features(28, 5, 60, 12)
    mask = torch.rand(5, 60, generator=torch.Generator().manual_seed(28)) < 0.7
    order = torch.tensor([3, 0, 4, 1, 2])
    plain, permuted = dpc_knn(features, 9, mask=mask), dpc_knn(features[order], 9, mask=mask[order])
    assert_same(permuted, Clusters(plain.assignment[order], plain.centers[order]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    features = random_features(9, 3, 729, 1152)
    here, there = dpc_knn(features, 64), dpc_knn(features.cuda(), 64)
    assert torch.equal(here.assignment, there.assignment.cpu())
    assert torch.equal(here.centers, there.centers.cpu())
    torch.testing.assert_close(merge_tokens(features.cuda(), there)[0].cpu(), merge_tokens(features, here)[0])


@pytest.mark.parametrize("num_tokens, k", [(1, 1), (1, 5), (5, 5), (4, 5), (6, 5), (17, 17), (33, 40)])
def test_as_many_neighbours_as_tokens(num_tokens: int, k: int) -> None:
    features = random_features(29, 2, num_tokens, 7)
    for num_clusters in range(1, num_tokens + 1):
        assert_same(dpc_knn(features, num_clusters, k), dense(features, num_clusters, k))


@pytest.mark.parametrize(
    "scale, dtype",
    [(1e-40, torch.float32), (1e-20, torch.float32), (1e20, torch.float32), (3e37, torch.float32)]
    + [(scale, torch.float64) for scale in (1e-320, 1e-250, 1e-150, 1e150, 1e250, 5e307)],
)
def test_any_finite_scale(scale: float, dtype: torch.dtype) -> None:
    features = (random_features(16, 1, 30, 8).clamp(-3, 3).double() * scale).to(dtype)
    clusters = dpc_knn(features, 5)
    assert len(set(clusters.centers[0].tolist())) == 5
    assert_same(clusters, dense(features, 5))
    if (
        1e-300 < scale < 1e-100 or scale > 1e100
    ):  # the same order of scores as at a scale far off, but not as far
        near = features * (1e-60 / scale if scale < 1 else 1e60 / scale)
        assert_same(clusters, dpc_knn(near, 5))
