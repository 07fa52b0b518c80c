"""The compiled inner loops of `merging_screened`: rounding tokens to bytes, bounds, exact distances.

All of them stand in one file because numba's cache on disk notices changes of a kernel's own file alone.
Those with a unit compute some of all rows, so that several threads share the work; no result depends on how.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

CHUNK = 16
# More than float32 loses in a bound: some twenty roundings of values up to four times |p|^2 + |q|^2.
ROUNDING = 2.0**-17
# Sums may be reordered only where they are exact, or where a bound allows for it.
REORDERED = {"reassoc", "contract", "nnan", "nsz"}


def compiled(fastmath: set[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a kernel, keeping the result on disk where some folder can be written to."""

    def compile_one(kernel: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, nogil=True, fastmath=fastmath)(kernel)
        except RuntimeError:  # numba's word for "no place for a cache": every process compiles for itself
            return njit(nogil=True, fastmath=fastmath)(kernel)

    return compile_one


@compiled(set())
def typical(image: int, features: Array, middle: Array, per_step: Array, valid: Array, offset: Array) -> None:
    """Fill one row of offset, int32 [B, C], with the mean point of some of the tokens of an image."""
    num_tokens = features.shape[1]
    sums, point, count = np.zeros(features.shape[2]), np.empty(features.shape[2], dtype=np.int32), 0
    for token in range(0, num_tokens, max(1, num_tokens // 32)):
        if valid[image, token]:
            _to_grid(features[image, token], middle[image], per_step[image], point)
            sums += point
            count += 1
    offset[image] = np.rint(sums / max(1, count))


@compiled(set())
def _to_grid(values: Array, middle: Array, per_step: float, point: Array) -> None:
    for channel in range(values.size):
        point[channel] = np.int32(np.rint((np.float64(values[channel]) - middle[channel]) * per_step))


@compiled(set())
def sum_by_cluster(features: Array, assignment: Array, sums: Array, counts: Array) -> None:
    """Add each token of features [N, C] to its cluster's row of sums [K, C], in order; counts, int64 [K]."""
    for token in range(len(features)):
        cluster = assignment[token]
        if cluster >= 0:
            counts[cluster] += 1
            for channel in range(features.shape[1]):
                sums[cluster, channel] += features[token, channel]


@compiled(set())
def round_tokens(
    unit: int,
    rows_per_unit: int,
    features: Array,
    middle: Array,
    per_step: Array,
    valid: Array,
    offset: Array,
    tokens: Any,
) -> None:
    """Fill in what `merging_screened.Tokens` says for some of the tokens of features [B, N, C].

    Tokens that are not valid become zeros of infinite norm. Units count through the rows of all images.
    """
    scales, norms, lengths, errors, points, rounded, sums = tokens
    image, start, stop = part_of(unit, rows_per_unit, features.shape[1])
    for token in range(start, stop):
        if valid[image, token]:
            _to_grid(features[image, token], middle[image], per_step[image], points[image, token])
            scale, norm, error, total = _to_bytes(points[image, token], offset[image], rounded[image, token])
        else:
            points[image, token], rounded[image, token] = 0, 0
            scale, norm, error, total = 0.0, np.inf, 0.0, 0
        scales[image, token], norms[image, token], lengths[image, token] = scale, norm, np.sqrt(norm)
        errors[image, token], sums[image, token] = error, total


@compiled(set())
def part_of(unit: int, rows_per_unit: int, num_rows: int) -> Any:
    """The image that a unit belongs to, the first of its rows, and the row after the last."""
    units = (num_rows + rows_per_unit - 1) // rows_per_unit
    start = (unit % units) * rows_per_unit
    return unit // units, start, min(start + rows_per_unit, num_rows)


@compiled(REORDERED)
def _to_bytes(point: Array, offset: Array, rounded: Array) -> Any:
    """Fill in the bytes, int8 with zeros at the end, of a point less the offset.

    Returns the scale, the squared length, a bound of the length of what is missed, and the sum of the bytes.
    """
    largest, norm, missed, total = np.int32(0), np.int64(0), 0.0, np.int32(0)
    for channel in range(point.size):
        value = np.int32(point[channel] - offset[channel])
        largest = max(largest, np.int32(abs(value)))
        norm += np.int64(value) * np.int64(value)
    scale = largest / 127.0
    per_scale = 127.0 / largest if largest > 0 else 0.0
    for channel in range(point.size):
        exact = np.float64(np.int32(point[channel] - offset[channel]))
        near = np.rint(exact * per_scale)
        rounded[channel] = np.int8(near)
        total += np.int32(near)
        missed += (exact - near * scale) * (exact - near * scale)
    rounded[point.size :] = 0
    # A float32 sum, each of whose steps errs by up to 2^-22 of all absolute values (four times what rounding
    # to nearest does), is as if each of both tokens had missed half as much.
    error = np.sqrt(missed) + (point.size * 2.0**-23 + ROUNDING) * np.sqrt(norm)
    return scale, np.float64(norm), error, total


@compiled(REORDERED)
def _squared_distance(point: Array, other: Array) -> Any:
    """Exact in float64, in whatever order it is summed: all sums are integers below 2^53."""
    total = 0.0
    for channel in range(point.size):
        difference = float(np.int32(point[channel] - other[channel]))
        total += difference * difference
    return total


@compiled(REORDERED)
def farthest(points: Array, norms: Array, row: int) -> Any:
    """The largest squared distance of one point to those of finite norm."""
    largest = 0.0
    for place in range(len(points)):
        if norms[place] < np.inf:
            largest = max(largest, _squared_distance(points[row], points[place]))
    return largest


@compiled(REORDERED)
def nearest(
    unit: int,
    rows_per_unit: int,
    queries: Any,
    query_ranks: Array,
    tokens: Any,
    all_ranks: Array,
    products: Array,
    distances: Array,
    places: Array,
) -> None:
    """Fill some rows of squared distances and places [B, R, k] of the nearest tokens.

    queries, tokens: `merging_screened.Tokens` of the same images; products: of their bytes, [B, R, N]. Only
    tokens of lower rank than the query, int32 [B, R] and [B, N], count. Units count through the rows of all
    images. With p = scale * bytes + error, and Cauchy-Schwarz for what has an error in it, |p - q|^2 is at
    least |p|^2 + |q|^2 - 2 (scale_p scale_q product + |p| |e_q| + |e_p| |q| + |e_p| |e_q|).
    """
    image, start, stop = part_of(unit, rows_per_unit, distances.shape[1])
    query_scales, query_norms, query_lengths = queries[0][image], queries[1][image], queries[2][image]
    query_errors, query_points = queries[3][image], queries[4][image]
    scales, norms = tokens[0][image].astype(np.float32), tokens[1][image].astype(np.float32)
    lengths, errors = tokens[2][image].astype(np.float32), tokens[3][image].astype(np.float32)
    points, ranks = tokens[4][image], all_ranks[image]
    num_tokens, k = norms.size, distances.shape[2]
    num_chunks = (num_tokens + CHUNK - 1) // CHUNK
    bounds = np.full(num_chunks * CHUNK, np.inf, dtype=np.float32)  # lower ones, less the query's norm
    least = np.empty(num_chunks, dtype=np.float32)  # of each chunk
    lowest = np.empty(k, dtype=np.float32)
    chosen = np.empty(bounds.size + 1, dtype=np.int64)
    keep = np.float32(1.0 - ROUNDING)
    for row in range(start, stop):
        found, found_at = distances[image, row], places[image, row]
        found[:], found_at[:] = np.inf, 0
        if query_norms[row] == np.inf:
            continue
        scale, rank = np.float32(-2.0 * query_scales[row]), query_ranks[image, row]
        length = np.float32(-2.0 * (query_lengths[row] + query_errors[row]))
        error = np.float32(-2.0 * query_errors[row])
        of_query = products[image, row]
        for place in range(num_tokens):
            bound = keep * norms[place] + scale * (scales[place] * np.float32(of_query[place]))
            bound += length * errors[place] + error * lengths[place]
            bounds[place] = bound if ranks[place] < rank else np.float32(np.inf)
        _least_of_chunks(bounds, least, lowest)
        # First the tokens of the lowest bounds: most often the k nearest are among them.
        norm = query_norms[row] * (1.0 - ROUNDING)
        count = min(4 * k, _collect(bounds, least, lowest[k - 1], num_tokens, chosen))
        _compare(query_points[row], norm, points, bounds, chosen[:count], found, found_at)
        if found[k - 1] < np.inf:
            # Then every other whose bound does not rule it out. No distance is negative, whatever its bound.
            bounds[chosen[:count]] = np.inf
            end = num_tokens if found[k - 1] > 0 else found_at[k - 1]
            count = _collect(bounds, least, _limit(found[k - 1], norm), end, chosen)
            _compare(query_points[row], norm, points, bounds, chosen[:count], found, found_at)


@compiled(REORDERED)
def _limit(distance: float, norm: float) -> Any:
    """What the bound of a squared distance, less the query's norm, is at most."""
    limit = distance - norm
    return np.float32(limit + abs(limit) * 2.0**-20)


@compiled(REORDERED)
def _least_of_chunks(bounds: Array, least: Array, lowest: Array) -> None:
    """Fill in the least bound of each chunk, and the lowest of these, ascending."""
    lowest[:] = np.finfo(np.float32).max
    for chunk in range(least.size):
        smallest = np.float32(np.inf)
        for place in range(chunk * CHUNK, (chunk + 1) * CHUNK):
            smallest = bounds[place] if bounds[place] < smallest else smallest
        least[chunk] = smallest
        for at in range(lowest.size if smallest < lowest[-1] else 0):
            larger = smallest if smallest > lowest[at] else lowest[at]
            lowest[at] = smallest if smallest < lowest[at] else lowest[at]
            smallest = larger


@compiled(REORDERED)
def _collect(bounds: Array, least: Array, limit: Any, end: int, chosen: Array) -> int:
    """Put the places before end whose bound is at most the limit into chosen; returns how many they are."""
    count = 0
    for chunk in range(least.size):
        if least[chunk] <= limit and chunk * CHUNK < end:
            for place in range(chunk * CHUNK, (chunk + 1) * CHUNK):
                chosen[count] = place
                count += bounds[place] <= limit and place < end
    return count


@compiled(set())
def _compare(
    query: Array, norm: float, points: Array, bounds: Array, chosen: Array, distances: Array, places: Array
) -> None:
    """Put those of the chosen points that belong there into the ascending distances [k] and their places.

    Equal distances stand in order of place.
    """
    last = distances.size - 1
    limit = _limit(distances[last], norm)
    for place in chosen:
        if bounds[place] > limit:
            continue
        distance, slot = _squared_distance(query, points[place]), last + 1
        while slot > 0 and (
            distance < distances[slot - 1] or (distance == distances[slot - 1] and place < places[slot - 1])
        ):
            slot -= 1
            if slot < last:
                distances[slot + 1], places[slot + 1] = distances[slot], places[slot]
        if slot <= last:
            distances[slot], places[slot] = distance, place
            limit = _limit(distances[last], norm)
