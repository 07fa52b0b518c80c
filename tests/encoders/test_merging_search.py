"""Both searches behind DPC-KNN give the same clusters, to the bit, whatever the tokens and the settings."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

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
from encoders.merging_memory import Memory
from encoders.merging_screened import ScreenedSearch
from encoders.merging_threads import Team


def random_features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(features: torch.Tensor, *args: object, **options: object) -> Clusters:
    """What `dpc_knn` gives where there are no bytes and no bounds: as on a GPU, but here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging_torch, "_cluster_here", merging_torch._cluster_there)
        return dpc_knn(features, *args, **options)


def screened(features: torch.Tensor) -> tuple[ScreenedSearch, np.ndarray, np.ndarray]:
    """The search of arrays on the grid of `dpc_knn`, the points [N, C] there, and these less the offset."""
    values, valid = merging.as_points(features.numpy()), np.ones(features.shape[:2], dtype=np.bool_)
    grid = merging.fixed_point(*merging._range(values, valid, Team(1)), 5)
    search = ScreenedSearch(values, *grid, valid, Team(1))
    halves = search._tokens.halves[0, :, :, : values.shape[2]].astype(np.int64)
    points = (halves[:, 0] << search._low_bits) + halves[:, 1]
    assert (points == np.rint((values[0].astype(np.float64) - grid.middle) / grid.step)).all()
    offset = np.empty((1, values.shape[2]), dtype=np.int32)
    merging_kernels.typical(0, values, grid.middle, 1.0 / grid.step, valid, offset)
    return search, points, points - offset[0].astype(np.float64)


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


def test_bounds_hold_for_every_token() -> None:
    """What rounding takes away, and what the low bits hold, is at most the length that is told of it."""
    for name, features in awkward_features().items():
        search, _, moved = screened(features)
        tokens, width = search._tokens, features.shape[2]
        rounded = tokens.rounded[0, :, :width].astype(np.float64) * tokens.scales[0][:, None]
        assert abs(tokens.rounded.astype(int)).max() <= 127, name
        assert (tokens.rounded[..., width:] == 0).all(), name
        assert (tokens.halves[..., width:] == 0).all(), name
        assert (tokens.rounded.sum(2, dtype=np.int32) == tokens.sums).all(), name
        assert (np.linalg.norm(moved - rounded, axis=1) <= tokens.errors[0]).all(), name
        assert (np.linalg.norm(tokens.halves[0, :, 1].astype(float), axis=1) <= tokens.blurs[0]).all(), name


def test_few_pairs_are_computed_exactly() -> None:
    """The bounds are worth their cost: of the pairs of 729 tokens of noise no more than one in thirty is
    looked at again, and hardly more than the five that are wanted are computed to the last bit."""
    search, points, _ = screened(random_features(25, 1, 729, 256))
    products = search._products[0].astype(np.float64)
    places = torch.from_numpy(points).double()
    distances = torch.cdist(places, places).square().numpy()
    fifth = np.partition(distances, 4, axis=1)[:, 4:5]
    scales, norms, lengths, errors, blurs = (values[0] for values in search._tokens[:5])
    missed = np.outer(lengths, errors) + np.outer(errors, lengths) + np.outer(errors, errors)
    bounds = norms[:, None] + norms - 2 * (products * np.outer(scales, scales) + missed)
    assert (bounds <= distances * (1 + 1e-9) + 1e-3).all()
    assert (bounds <= fifth).mean() < 1 / 30
    high = torch.from_numpy(search._tokens.halves[0, :, 0].astype(np.float64))
    apart = torch.cdist(high, high).numpy() * 2.0**search._low_bits - blurs[:, None] - blurs
    assert (apart <= np.sqrt(distances) + 1e-3).all()
    assert (apart <= np.sqrt(fifth)).sum(1).mean() < 6


@pytest.mark.parametrize("width", [1, 2, 63, 1152, merging_products.MAX_WIDTH])
def test_distances_are_exact_at_the_extremes(width: int) -> None:
    """Opposite corners of the grid, as far as any tokens can be apart: no sum on the way overflows."""
    features = torch.tensor([-1.0, 1.0, 1.0])[:, None].mul(1 - 2**-20).expand(1, 3, width)
    search, points, _ = screened(features)
    expected = [[sum(int(part) ** 2 for part in row - other) for other in points] for row in points]
    assert expected[0][1] > 2**47
    found, places = search.neighbours(3)
    assert np.take_along_axis(np.array(expected), places[0], 1).tolist() == found[0].tolist()
    assert search.to_denser(np.array([[0, 1, 2]]), np.array([[True, True, True]])).tolist() == [
        expected[0][1]
    ] * 2 + [0]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 64), (1, 70, 9, 130), (2, 150, 150, 200)])
def test_products_of_bytes_are_exact(shape: tuple[int, int, int, int]) -> None:
    """At the extremes too, for whatever rows and columns are left over from whole tiles and panels."""
    batch, rows, columns, width = shape
    generator = np.random.default_rng(31)
    left, right = (generator.choice([-127, -1, 0, 126, 127], (batch, n, width)) for n in (rows, columns))
    for is_symmetric in {False, rows == columns}:
        right = left if is_symmetric else right
        expected = left @ right.swapaxes(1, 2)
        padding = ((0, 0), (0, 0), (0, -width % merging_products.STEP))
        bytes_left, bytes_right = (np.pad(part, padding).astype(np.int8) for part in (left, right))
        out = np.full(expected.shape, 7, dtype=np.int32)
        sums, units = right.sum(2).astype(np.int32), batch * -(-rows // 8)
        assert merging_products.multiply(Team(2), units, 8, bytes_left, bytes_right, sums, is_symmetric, out)
        np.testing.assert_array_equal(out, expected)


def test_other_processors_find_the_same() -> None:
    """Compiled for a processor without the instruction for products of bytes."""
    script = (
        "import torch; from encoders import dpc_knn, merging_products\n"
        "assert not merging_products._has_vnni()\n"
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
    alone = dpc_knn(features, 30)
    assert_same(dense(features, 30), alone)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert_same(dpc_knn(features, 30), alone)
    finally:
        torch.set_num_threads(before)
    values, valid = features.numpy(), np.ones((2, 700), dtype=np.bool_)
    for threads in (1, 2, 7):  # of our own
        arrays = merging.cluster(values, 30, 5, valid, None, Team(threads))
        assert_same(Clusters(*map(torch.from_numpy, arrays)), alone)
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


def test_memory_is_used_again_by_nobody_else() -> None:
    first = Memory(((5, 7), np.int16), ((3,), np.int32))
    second = Memory(((5, 7), np.int16))
    assert [array.shape for array in first.arrays] == [(5, 7), (3,)]
    assert all(array.ctypes.data % 64 == 0 for array in first.arrays + second.arrays)
    for number, array in enumerate(first.arrays + second.arrays):
        array[...] = number
    values = [array.ravel().tolist() for array in first.arrays + second.arrays]
    assert values == [[0] * 35, [1] * 3, [2] * 35]
    place = first.arrays[0].ctypes.data
    del first, array
    assert Memory(((5, 7), np.int16)).arrays[0].ctypes.data == place


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
