"""Centres spread over blocks of the picture: the blocks, and the clusters against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import cluster_tokens, dpc_knn, merge_tokens
from encoders.merging import cut
from encoders.merging_peaks import density_peaks
from encoders.merging_torch import DenseSearch

GRIDS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3).map(tuple)


@given(grids=GRIDS, data=st.data())
@settings(max_examples=150)
def test_blocks_are_equal_rectangles_that_cover_the_grids(
    grids: tuple[tuple[int, int], ...], data: st.DataObject
) -> None:
    patches = sum(rows * columns for rows, columns in grids)
    count = data.draw(st.integers(len(grids), patches))
    blocks = cut(grids, count)
    sizes = np.bincount(blocks.owner, minlength=count)
    assert len(sizes) == count
    assert sizes.min() >= 1
    first = 0
    for rows, columns in grids:
        owner = blocks.owner[first : first + rows * columns].reshape(rows, columns)
        around = blocks.around[first : first + rows * columns].reshape(rows, columns, -1)
        for block in np.unique(owner):
            ys, xs = np.nonzero(owner == block)
            assert len(ys) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)  # a whole rectangle
            near = owner[max(0, ys.min() - 1) : ys.max() + 2, max(0, xs.min() - 1) : xs.max() + 2]
            listed = around[ys[0], xs[0]]
            assert listed[listed >= 0].tolist() == np.unique(near).tolist()  # ascending
        assert (np.diff(owner[:, 0]) >= 0).all()  # raster order
        assert (np.diff(owner, axis=1) >= 0).all()
        first += rows * columns


def test_a_square_number_of_blocks_is_square() -> None:
    owner = cut(((14, 14),), 49).owner.reshape(14, 14)
    assert (owner == np.arange(49).reshape(7, 7).repeat(2, 0).repeat(2, 1)).all()


def test_each_grid_gets_blocks_in_proportion() -> None:
    owner = cut(((27, 27), (54, 54)), 100).owner
    assert [len(np.unique(part)) for part in (owner[:729], owner[729:])] == [20, 80]


@pytest.mark.parametrize(
    "grids, count, message",
    [((), 1, "at least one"), (((0, 4),), 1, "at least one"), (((2, 2), (3, 3)), 1, "give 2 to 13"),
     (((2, 2),), 5, "give 1 to 4")],
)  # fmt: skip
def test_impossible_blocks_are_refused(grids: tuple[tuple[int, int], ...], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut(grids, count)


def plain(points: np.ndarray, side: int, num_clusters: int, k: int) -> tuple[list[int], list[int]]:
    """The same in a few lines, for distinct distances: centres and assignment."""
    blocks = cut(((side, side),), num_clusters)
    apart = ((points[:, None] - points[None]) ** 2).sum(2)
    mean = np.sort(apart, axis=1)[:, :k].mean(1)
    centers = [
        min(np.flatnonzero(blocks.owner == block), key=mean.__getitem__) for block in range(num_clusters)
    ]
    assignment = [
        centers.index(token)
        if token in centers
        else min((block for block in near if block >= 0), key=lambda block: apart[token, centers[block]])
        for token, near in enumerate(blocks.around)
    ]
    return [int(center) for center in centers], [int(cluster) for cluster in assignment]


@pytest.mark.parametrize("num_clusters, k", [(1, 5), (4, 3), (9, 5), (17, 5), (50, 1), (63, 5)])
@pytest.mark.parametrize("width", [5, 192])
def test_spread_centres_are_the_densest_of_their_blocks(num_clusters: int, k: int, width: int) -> None:
    features = torch.randn(2, 64, width, generator=torch.Generator().manual_seed(width))
    clusters = dpc_knn(features, num_clusters, k, grid=((8, 8),))
    for image in range(2):
        centers, assignment = plain(features[image].double().numpy(), 8, num_clusters, k)
        assert clusters.centers[image].tolist() == centers
        assert clusters.assignment[image].tolist() == assignment


@pytest.mark.parametrize("num_clusters", [2, 40, 100])
def test_every_search_and_batch_spreads_alike(num_clusters: int) -> None:
    grid = ((9, 9), (12, 16))
    features = torch.randn(3, 273, 48, generator=torch.Generator().manual_seed(5))
    features[0, :40] = features[0, 0]  # ties
    together = dpc_knn(features, num_clusters, grid=grid)
    for image in range(3):
        alone = dpc_knn(features[image : image + 1].numpy(), num_clusters, grid=grid)
        assert (alone.assignment[0] == together.assignment[image].numpy()).all()
        assert (alone.centers[0] == together.centers[image].numpy()).all()
    high, low = features.amax(1).double().numpy(), features.amin(1).double().numpy()
    mask = np.ones((3, 273), dtype=np.bool_)
    assignment, centers = density_peaks(
        high,
        low,
        mask,
        num_clusters,
        5,
        cut(grid, num_clusters),
        lambda *fixed: DenseSearch(features, *fixed, mask),
    )
    assert (assignment == together.assignment.numpy()).all()
    assert (centers == together.centers.numpy()).all()


@pytest.mark.parametrize("as_array", [False, True])
def test_block_averages_are_those_of_the_grid(as_array: bool) -> None:
    features = torch.arange(32.0).reshape(2, 16, 1)
    values = features.numpy() if as_array else features

    def averages(count: int) -> list[float]:
        merged, _ = merge_tokens(values, cluster_tokens(values, count, "blocks", ((4, 4),)))
        return merged[0].flatten().tolist()

    assert averages(4) == [2.5, 4.5, 10.5, 12.5]
    assert averages(3) == [3.5, 10.5, 12.5]  # one block in the upper half, two below
    assert averages(99) == list(range(16))
    clusters = cluster_tokens(values, 4, "blocks", ((4, 4),))
    assert clusters.centers.tolist() == [[4, 6, 12, 14]] * 2  # patches 0 1 4 5 are the first block
    assert (
        np.take_along_axis(np.asarray(clusters.assignment), np.asarray(clusters.centers), 1).tolist()
        == [[0, 1, 2, 3]] * 2
    )


def test_block_averages_carry_gradients_alike() -> None:
    features = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    merged, counts = merge_tokens(features, cluster_tokens(features, 3, "blocks", ((3, 4),)))
    merged.sum().backward()
    sizes = counts.repeat_interleave(4, 1)  # three rows of four patches
    assert features.grad is not None
    torch.testing.assert_close(features.grad, (1.0 / sizes)[..., None].expand(-1, -1, 3))


def test_each_way_has_a_name() -> None:
    features = torch.randn(1, 36, 8, generator=torch.Generator().manual_seed(2))
    grid = ((6, 6),)
    assert torch.equal(
        cluster_tokens(features, 5, "spread", grid).centers, dpc_knn(features, 5, grid=grid).centers
    )
    assert torch.equal(cluster_tokens(features, 5, "dpc_knn", grid).centers, dpc_knn(features, 5).centers)
    with pytest.raises(ValueError, match="choose dpc_knn, spread or blocks"):
        cluster_tokens(features, 5, "pooling", grid)
    with pytest.raises(ValueError, match="36 tokens"):
        cluster_tokens(features, 5, "blocks", ((3, 3),))


def test_as_many_blocks_as_tokens_is_the_identity() -> None:
    clusters = dpc_knn(torch.randn(1, 12, 3), 99, grid=((3, 4),))
    assert clusters.assignment[0].tolist() == clusters.centers[0].tolist() == list(range(12))


def test_a_grid_of_other_tokens_is_refused() -> None:
    features = torch.zeros(1, 12, 3)
    with pytest.raises(ValueError, match="a grid of 9 patches does not go with 12 tokens"):
        dpc_knn(features, 4, grid=((3, 3),))
    with pytest.raises(ValueError, match="and a mask"):
        dpc_knn(features, 4, mask=torch.ones(1, 12, dtype=torch.bool), grid=((3, 4),))
