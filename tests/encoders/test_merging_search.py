"""Both searches behind DPC-KNN give the same clusters, to the bit, whatever the tokens and the settings."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import (
    Clusters,
    dpc_knn,
    merge_tokens,
    merging,
    merging_dense,
    merging_kernels,
    merging_products,
    merging_screened,
    merging_torch,
)
from encoders.merging_dense import DenseSearch
from encoders.merging_screened import ScreenedSearch


def random_features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(features: torch.Tensor, *args: object, **options: object) -> Clusters:
    """What `dpc_knn` gives where there are no bytes and no bounds: as on a GPU, but here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging_torch, "_search", lambda tokens, mask, *grid: DenseSearch(tokens, *grid, mask))
        return dpc_knn(features, *args, **options)


def screened(features: torch.Tensor) -> ScreenedSearch:
    """The search of arrays, on the grid that `dpc_knn` puts them on."""
    values = merging.as_points(features.numpy())
    grid = merging.fixed_point(*merging._range(values, None), 5)
    return ScreenedSearch(values, *grid, np.ones(values.shape[:2], dtype=np.bool_), threads=1)


def search_offset(features: torch.Tensor) -> np.ndarray:
    """What the search moves the points by, [C]."""
    values = merging.as_points(features.numpy())
    middle, step = merging.fixed_point(*merging._range(values, None), 5)
    offset = np.empty((1, values.shape[2]), dtype=np.int32)
    everything = np.ones(values.shape[:2], dtype=np.bool_)
    merging_kernels.typical(0, values, middle, 1.0 / step, everything, offset)
    return offset[0]


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
@pytest.mark.parametrize("bytes_multiply", [True, False])
def test_screening_changes_nothing(name: str, bytes_multiply: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not bytes_multiply:  # where bytes have no fast product, float32 multiplies them
        monkeypatch.setattr(merging_products, "multiplies_bytes", lambda: False)
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
@settings(max_examples=60, deadline=None)
def test_screening_changes_nothing_whatever_the_tokens(
    seed: int, shape: tuple[int, int, int], levels: int, share: float, num_clusters: int, k: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(levels, shape, generator=generator).float()
    mask = torch.rand(shape[:2], generator=generator) < share
    assert_same(dpc_knn(features, num_clusters, k, mask), dense(features, num_clusters, k, mask))


def test_bounds_hold_for_every_pair() -> None:
    """Whatever the bytes are: what rounding takes away is at most the error, whose bound decides."""
    for name, features in awkward_features().items():
        tokens = screened(features)._tokens
        width = features.shape[2]
        rounded = tokens.rounded[0, :, :width].astype(np.float64) * tokens.scales[0][:, None]
        assert abs(tokens.rounded.astype(int)).max() <= 127, name
        assert (tokens.rounded[..., width:] == 0).all(), name
        assert (tokens.rounded.sum(2, dtype=np.int32) == tokens.sums).all(), name
        points = tokens.points[0] - search_offset(features).astype(np.float64)
        assert (np.linalg.norm(points - rounded, axis=1) <= tokens.errors[0]).all(), name


def test_few_pairs_are_computed_exactly() -> None:
    """The bounds are worth their cost: of the pairs of 729 tokens of noise no more than one in thirty."""
    search = screened(random_features(25, 1, 729, 256))
    tokens = search._tokens
    products = search._products(tokens, tokens, is_symmetric=True)[0].astype(np.float64)
    points = torch.from_numpy(tokens.points[0]).double()
    distances = torch.cdist(points, points).square().numpy()
    scales, norms, lengths, errors = (values[0] for values in tokens[:4])
    missed = np.outer(lengths, errors) + np.outer(errors, lengths) + np.outer(errors, errors)
    bounds = norms[:, None] + norms - 2 * (products * np.outer(scales, scales) + missed)
    assert (bounds <= distances * (1 + 1e-9) + 1e-3).all()
    fifth = np.partition(distances, 4, axis=1)[:, 4:5]
    assert (bounds <= fifth).mean() < 1 / 30


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 64), (1, 70, 9, 130), (2, 150, 150, 200)])
def test_products_of_bytes_are_exact(shape: tuple[int, int, int, int]) -> None:
    """At the extremes too, for whatever rows and columns are left over from whole tiles and panels."""
    if not merging_products.multiplies_bytes():
        pytest.skip("this processor has no AVX-512 VNNI")
    batch, rows, columns, width = shape
    generator = np.random.default_rng(31)
    left, right = (generator.choice([-127, -1, 0, 126, 127], (batch, n, width)) for n in (rows, columns))
    for is_symmetric in {False, rows == columns}:
        right = left if is_symmetric else right
        expected = left @ right.swapaxes(1, 2)
        padding = ((0, 0), (0, 0), (0, -width % merging_products.STEP))
        bytes_left, bytes_right = (np.pad(part, padding).astype(np.int8) for part in (left, right))
        out = np.full(expected.shape, 7, dtype=np.int32)
        rows_per_unit = 8
        for unit in range(batch * -(-rows // rows_per_unit)):
            sums = right.sum(2).astype(np.int32)
            merging_products.multiply(unit, rows_per_unit, bytes_left, bytes_right, sums, is_symmetric, out)
        np.testing.assert_array_equal(out, expected)


def test_other_processors_find_the_same() -> None:
    """Compiled for a processor without instructions for products of bytes."""
    script = (
        "import torch; from encoders import dpc_knn, merging_products\n"
        "assert not merging_products.multiplies_bytes()\n"
        "features = torch.randn(1, 150, 64, generator=torch.Generator().manual_seed(26))\n"
        "print(dpc_knn(features, 20).assignment.tolist())"
    )
    without = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "NUMBA_CPU_NAME": "generic"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert without.stdout.strip() == str(dpc_knn(random_features(26, 1, 150, 64), 20).assignment.tolist())


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = random_features(6, 2, 90, 24)
    mask = torch.rand(2, 90, generator=torch.Generator().manual_seed(6)) < 0.8
    whole = dpc_knn(features, 16, mask=mask)
    monkeypatch.setattr(merging_screened, "_MAX_BLOCK_ENTRIES", 90 * 7)
    monkeypatch.setattr(merging_dense, "_MAX_BLOCK_ENTRIES", 2 * 90 * 7)
    assert_same(dpc_knn(features, 16, mask=mask), whole)
    assert_same(dense(features, 16, mask=mask), whole)
    monkeypatch.setattr(merging_screened, "_MAX_BLOCK_ENTRIES", 1)
    assert_same(dpc_knn(features, 16, mask=mask), whole)


def test_threads_and_autocast_change_nothing() -> None:
    features = random_features(7, 2, 700, 256)  # enough work for several threads
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(dpc_knn(features, 30))
    finally:
        torch.set_num_threads(before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results.append(dpc_knn(features, 30))
        results.append(dense(features, 30))
        merged, _ = merge_tokens(features, results[-1])
    assert merged.dtype == torch.float32
    assert torch.equal(merged, merge_tokens(features, results[0])[0])
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")  # TF32 on a GPU, bfloat16 on some CPUs
        results.append(dpc_knn(features, 30))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(merging_products, "multiplies_bytes", lambda: False)
            results.append(dpc_knn(features, 30))
    finally:
        torch.set_float32_matmul_precision(precision)
    for other in results[1:]:
        assert_same(other, results[0])


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
