"""DPC-KNN merging against an independent oracle, and its promises for masks, ties, batches and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from encoders import Clusters, dpc_knn, merge_tokens


def oracle(
    points: np.ndarray, num_clusters: int, k: int, log_domain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The published procedure with zero noise: density exp(-mean squared distance), score by product.

    log_domain takes the logarithms of density and score instead, for features whose density underflows.
    """
    num_tokens, width = points.shape
    points = points.astype(np.float64) / np.sqrt(width)
    k = min(k, num_tokens)
    distance, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors(points)
    mean = (distance**2).mean(1)
    density = -mean if log_domain else np.exp(-mean)
    assert len(np.unique(density)) == num_tokens, "the oracle needs distinct densities"
    pairwise = np.stack([np.sqrt(((points - point) ** 2).sum(1)) for point in points])
    delta = np.empty(num_tokens)
    for i in range(num_tokens):
        denser = density > density[i]
        delta[i] = pairwise[i][denser].min() if denser.any() else pairwise[i].max()
    score = np.log(delta) + density if log_domain else delta * density
    centers = np.sort(np.argsort(-score)[:num_clusters])
    assignment = pairwise[:, centers].argmin(1)
    assignment[centers] = np.arange(len(centers))
    return assignment, centers


def random_features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "num_tokens, width, num_clusters, k",
    [(9, 4, 3, 5), (50, 16, 7, 5), (196, 192, 64, 5), (196, 192, 1, 3), (120, 8, 119, 3), (4, 6, 2, 3)],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_published_procedure(
    num_tokens: int, width: int, num_clusters: int, k: int, seed: int
) -> None:
    features = random_features(seed, 1, num_tokens, width)
    assignment, centers = oracle(features[0].numpy(), num_clusters, k)
    clusters = dpc_knn(features, num_clusters, k)
    assert clusters.centers[0].tolist() == centers.tolist()
    assert clusters.assignment[0].tolist() == assignment.tolist()


def test_equals_the_published_procedure_at_the_size_of_a_published_tower() -> None:
    features = random_features(3, 1, 729, 1152)
    assignment, centers = oracle(features[0].numpy(), 64, 5)
    clusters = dpc_knn(features, 64)
    assert clusters.centers[0].tolist() == centers.tolist()
    assert clusters.assignment[0].tolist() == assignment.tolist()


def test_order_survives_where_the_published_density_underflows() -> None:
    features = random_features(4, 1, 100, 64) * 64.0
    assert torch.exp(-torch.pdist(features[0]).square() / 64).max() == 0.0
    assignment, centers = oracle(features[0].numpy(), 20, 5, log_domain=True)
    clusters = dpc_knn(features, 20)
    assert clusters.centers[0].tolist() == centers.tolist()
    assert clusters.assignment[0].tolist() == assignment.tolist()


@given(seed=st.integers(0, 2**31), num_clusters=st.integers(1, 39))
@settings(max_examples=25)
def test_permuting_tokens_changes_only_ids(seed: int, num_clusters: int) -> None:
    features = random_features(seed, 1, 40, 12)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    plain, permuted = dpc_knn(features, num_clusters), dpc_knn(features[:, order], num_clusters)
    assert sorted(order[permuted.centers[0]].tolist()) == plain.centers[0].tolist()
    same = plain.assignment[0][:, None] == plain.assignment[0][None]  # the partition, whatever its numbering
    other = permuted.assignment[0][:, None] == permuted.assignment[0][None]
    assert torch.equal(same[order][:, order], other)


@given(
    grid=st.lists(st.integers(-2, 2), min_size=2, max_size=60),
    num_clusters=st.integers(1, 20),
    k=st.integers(1, 8),
)
@settings(max_examples=100)
def test_any_tokens_with_ties_give_a_partition(grid: list[int], num_clusters: int, k: int) -> None:
    features = torch.tensor(grid[: len(grid) // 2 * 2], dtype=torch.float32).view(1, -1, 2)
    num_tokens = features.shape[1]
    assignment, centers = dpc_knn(features, num_clusters, k)
    expected = min(num_clusters, num_tokens)
    assert centers.shape == (1, expected)
    assert (centers[0].diff() > 0).all()
    assert assignment[0, centers[0]].tolist() == list(range(expected))
    distance = torch.cdist(features[0].double(), features[0, centers[0]].double())
    for token in range(num_tokens):  # every token but the centres belongs to the first of the nearest centres
        if token not in centers[0]:
            assert assignment[0, token] == distance[token].argmin()
    merged, counts = merge_tokens(features, Clusters(assignment, centers))
    assert counts.sum() == num_tokens
    torch.testing.assert_close((merged * counts[..., None]).sum(1), features.sum(1))


def test_ties_go_to_the_lower_index() -> None:
    same = torch.ones(1, 6, 4)
    clusters = dpc_knn(same, 3)
    assert clusters.centers.tolist() == [[0, 1, 2]]
    assert clusters.assignment.tolist() == [[0, 1, 2, 0, 0, 0]]


def test_same_clusters_in_any_batch() -> None:
    features = random_features(5, 7, 196, 192)
    together = dpc_knn(features, 64)
    merged, counts = merge_tokens(features, together)
    for image in range(7):
        alone = dpc_knn(features[image : image + 1], 64)
        assert torch.equal(alone.assignment[0], together.assignment[image])
        assert torch.equal(alone.centers[0], together.centers[image])
        alone_merged, alone_counts = merge_tokens(features[image : image + 1], alone)
        assert torch.equal(alone_merged[0], merged[image])
        assert torch.equal(alone_counts[0], counts[image])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_count_by_their_values(dtype: torch.dtype) -> None:
    features = random_features(8, 1, 80, 16).to(dtype)
    clusters = dpc_knn(features, 12)
    exact = dpc_knn(features.to(torch.float64), 12)
    assert torch.equal(clusters.assignment, exact.assignment)
    merged, _ = merge_tokens(features, clusters)
    assert merged.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_masked_tokens_count_for_nothing() -> None:
    features = random_features(10, 3, 60, 16)
    mask = torch.ones(3, 60, dtype=torch.bool)
    mask[0, 40:] = False
    mask[1, ::3] = False
    features[0, 40:] = torch.nan  # padding may hold anything
    clusters = dpc_knn(features, 9, mask=mask)
    merged, counts = merge_tokens(features, clusters)
    for image in range(3):
        kept = mask[image].nonzero()[:, 0]
        alone = dpc_knn(features[image : image + 1, kept], 9)
        assert torch.equal(clusters.assignment[image, kept], alone.assignment[0])
        assert (clusters.assignment[image, ~mask[image]] == -1).all()
        assert torch.equal(clusters.centers[image], kept[alone.centers[0]])
        assert counts[image].sum() == len(kept)
        expected, _ = merge_tokens(features[image : image + 1, kept], alone)
        torch.testing.assert_close(merged[image], expected[0])


def test_fewer_valid_tokens_than_clusters_are_padded() -> None:
    features = random_features(11, 2, 10, 4)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[0, 3:] = False
    mask[1] = False
    clusters = dpc_knn(features, 5, mask=mask)
    assert clusters.centers.tolist() == [[0, 1, 2, -1, -1], [-1] * 5]
    assert clusters.assignment.tolist() == [[0, 1, 2] + [-1] * 7, [-1] * 10]
    merged, counts = merge_tokens(features, clusters)
    assert counts.tolist() == [[1, 1, 1, 0, 0], [0] * 5]
    assert torch.equal(merged[0, :3], features[0, :3])
    assert (merged[0, 3:] == 0).all()
    assert (merged[1] == 0).all()


@pytest.mark.parametrize("num_clusters", [12, 13, 1000])
def test_as_many_clusters_as_tokens_is_the_identity(num_clusters: int) -> None:
    features = random_features(12, 2, 12, 4)
    clusters = dpc_knn(features, num_clusters)
    assert torch.equal(clusters.assignment, torch.arange(12).expand(2, 12))
    assert torch.equal(merge_tokens(features, clusters)[0], features)


def test_one_token() -> None:
    features = random_features(13, 1, 1, 4)
    clusters = dpc_knn(features, 1)
    assert (clusters.assignment.tolist(), clusters.centers.tolist()) == ([[0]], [[0]])


def test_merging_averages_and_carries_gradients() -> None:
    features = random_features(14, 1, 5, 3).requires_grad_()
    clusters = Clusters(torch.tensor([[0, 1, 0, -1, 0]]), torch.tensor([[0, 1]]))
    merged, counts = merge_tokens(features, clusters)
    assert counts.tolist() == [[3, 1]]
    torch.testing.assert_close(merged[0, 0], features[0, [0, 2, 4]].mean(0))
    merged.sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad[0, :, 0], torch.tensor([1 / 3, 1.0, 1 / 3, 0.0, 1 / 3]))
    double = random_features(15, 1, 5, 3).double().requires_grad_()
    torch.autograd.gradcheck(lambda x: merge_tokens(x, clusters)[0], (double,))


def test_what_is_not_finite_is_named() -> None:
    features = random_features(17, 2, 6, 3)
    features[1, 4, 2] = torch.inf
    with pytest.raises(ValueError, match=r"features\[1, 4, 2\] is inf"):
        dpc_knn(features, 2)


@pytest.mark.parametrize(
    "features, num_clusters, k, mask, error, message",
    [
        (torch.zeros(3, 4), 2, 5, None, ValueError, r"\[B, N, C\]"),
        (torch.zeros(1, 0, 4), 2, 5, None, ValueError, r"\[B, N, C\]"),
        (torch.zeros(1, 2, 2**15 + 1), 2, 5, None, ValueError, "up to 32768 wide"),
        (torch.zeros(1, 3, 4, dtype=torch.int32), 2, 5, None, TypeError, "floating"),
        (torch.zeros(1, 3, 4), 0, 5, None, ValueError, "num_clusters"),
        (torch.zeros(1, 3, 4), 2, 0, None, ValueError, "k must"),
        (torch.zeros(1, 3, 4), 2, 5, torch.ones(1, 3), TypeError, "boolean"),
        (torch.zeros(1, 3, 4), 2, 5, torch.ones(1, 4, dtype=torch.bool), ValueError, "mask must be"),
    ],
)
def test_wrong_arguments_are_refused(features, num_clusters, k, mask, error, message) -> None:
    with pytest.raises(error, match=message):
        dpc_knn(features, num_clusters, k, mask)


def test_clusters_of_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong"):
        merge_tokens(torch.zeros(1, 9, 2), dpc_knn(random_features(18, 1, 8, 2), 3))
