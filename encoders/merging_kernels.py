"""The compiled inner loops of `merging_screened`: rounding tokens to bytes, bounds, exact distances.

All of them stand in one file because numba's cache on disk notices changes of a kernel's own file alone.
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
_REORDERED = {"reassoc", "contract", "nnan", "nsz"}


def _compiled(fastmath: set[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a kernel, keeping the result on disk where some folder can be written to."""

    def compile_one(kernel: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, nogil=True, fastmath=fastmath)(kernel)
        except RuntimeError:  # numba's word for "no place for a cache": every process compiles for itself
            return njit(nogil=True, fastmath=fastmath)(kernel)

    return compile_one


@_compiled(set())
def to_grid(
    features: Array, middle: Array, per_step: float, valid: Array, points: Array, sums: Array
) -> None:
    """Round features [N, C] to the grid: points int32 [N, C], zeros for tokens that are not valid.

    Adds the points to sums, int64 [C].
    """
    for token in range(len(points)):
        if not valid[token]:
            points[token] = 0
            continue
        for channel in range(points.shape[1]):
            value = (np.float64(features[token, channel]) - middle[channel]) * per_step
            point = np.int32(np.rint(value))
            points[token, channel] = point
            sums[channel] += point


@_compiled(set())
def sum_by_cluster(features: Array, assignment: Array, sums: Array, counts: Array) -> None:
    """Add each token of features [N, C] to its cluster's row of sums [K, C], in order; counts, int64 [K]."""
    for token in range(len(features)):
        cluster = assignment[token]
        if cluster >= 0:
            counts[cluster] += 1
            for channel in range(features.shape[1]):
                sums[cluster, channel] += features[token, channel]


@_compiled(_REORDERED)
def to_bytes(
    offset: Array,
    rounded: Array,
    scales: Array,
    norms: Array,
    lengths: Array,
    errors: Array,
    points: Array,
) -> None:
    """Fill in what `merging_screened.Tokens` says, from the points less an offset, int32 [C]."""
    num_tokens, width = points.shape
    for token in range(num_tokens):
        largest, norm, missed = np.int32(0), np.int64(0), 0.0
        for channel in range(width):
            value = np.int32(points[token, channel] - offset[channel])
            largest = max(largest, np.int32(abs(value)))
            norm += np.int64(value) * np.int64(value)
        scale = largest / 127.0
        per_scale = 127.0 / largest if largest > 0 else 0.0
        for channel in range(width):
            exact = np.float64(np.int32(points[token, channel] - offset[channel]))
            near = np.rint(exact * per_scale)
            rounded[token, channel] = np.int8(near)
            missed += (exact - near * scale) * (exact - near * scale)
        scales[token], norms[token], lengths[token] = scale, norm, np.sqrt(norm)
        # A float32 sum, each of whose steps errs by up to 2^-22 of all absolute values (four times what
        # rounding to nearest does), is as if each of both tokens had missed half as much.
        errors[token] = np.sqrt(missed) + (width * 2.0**-23 + ROUNDING) * np.sqrt(norm)


@_compiled(_REORDERED)
def _squared_distances(queries: Array, row: int, points: Array, places: Array, distances: Array) -> None:
    """Fill in the exact squared distances of one query to the points at some places."""
    for at in range(places.size):
        place, total = places[at], np.int64(0)
        for channel in range(queries.shape[1]):
            difference = np.int32(queries[row, channel] - points[place, channel])
            total += np.int64(difference) * np.int64(difference)
        distances[at] = total


@_compiled(_REORDERED)
def farthest(points: Array, norms: Array, row: int) -> Any:
    """The largest squared distance of one point to those of finite norm."""
    places = np.flatnonzero(norms < np.inf)
    distances = np.empty(places.size)
    _squared_distances(points, row, points, places, distances)
    return distances.max()


@_compiled(_REORDERED)
def nearest(
    query_parts: Any,
    query_ranks: Array,
    token_parts: Any,
    ranks: Array,
    products: Array,
    distances: Array,
    places: Array,
) -> None:
    """Fill squared distances and places [R, k] of the nearest tokens, given products [R, N] of the bytes.

    The parts are as `Tokens.arrays` gives them; only tokens of lower rank than the query count.
    With p = scale * bytes + error, and Cauchy-Schwarz for what has an error in it, |p - q|^2 is at least
    |p|^2 + |q|^2 - 2 (scale_p scale_q product + |p| |e_q| + |e_p| |q| + |e_p| |e_q|).
    """
    query_scales, query_norms, query_lengths, query_errors, queries = query_parts
    points = token_parts[4]
    scales, norms = token_parts[0].astype(np.float32), token_parts[1].astype(np.float32)
    lengths, errors = token_parts[2].astype(np.float32), token_parts[3].astype(np.float32)
    num_tokens, k = norms.size, distances.shape[1]
    num_chunks = (num_tokens + CHUNK - 1) // CHUNK
    bounds = np.full(num_chunks * CHUNK, np.inf, dtype=np.float32)  # lower ones, less the query's norm
    least = np.empty(num_chunks, dtype=np.float32)  # of each chunk
    lowest = np.empty(k, dtype=np.float32)
    chosen, exact = np.empty(bounds.size + 1, dtype=np.int64), np.empty(bounds.size + 1)
    keep = np.float32(1.0 - ROUNDING)
    for row in range(len(queries)):
        distances[row], places[row] = np.inf, 0
        if query_norms[row] == np.inf:
            continue
        scale, rank = np.float32(-2.0 * query_scales[row]), query_ranks[row]
        length = np.float32(-2.0 * (query_lengths[row] + query_errors[row]))
        error = np.float32(-2.0 * query_errors[row])
        for place in range(num_tokens):
            bound = keep * norms[place] + scale * (scales[place] * np.float32(products[row, place]))
            bound += length * errors[place] + error * lengths[place]
            bounds[place] = bound if ranks[place] < rank else np.float32(np.inf)
        _least_of_chunks(bounds, least, lowest)
        # First the tokens of the lowest bounds: most often the k nearest are among them.
        count = min(4 * k, _collect(bounds, least, lowest[k - 1], num_tokens, chosen))
        _compare(queries, row, points, chosen[:count], exact, distances, places)
        last = distances[row, k - 1]
        if last < np.inf:
            # Then every other whose bound does not rule it out. No distance is negative, whatever its bound.
            for place in chosen[:count]:
                bounds[place] = np.inf
            limit = last - query_norms[row] * (1.0 - ROUNDING)
            limit = np.float32(limit + abs(limit) * 2.0**-20)
            end = num_tokens if last > 0 else places[row, k - 1]
            count = _collect(bounds, least, limit, end, chosen)
            _compare(queries, row, points, chosen[:count], exact, distances, places)


@_compiled(_REORDERED)
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


@_compiled(_REORDERED)
def _collect(bounds: Array, least: Array, limit: Any, end: int, chosen: Array) -> int:
    """Put the places before end whose bound is at most the limit into chosen; returns how many they are."""
    count = 0
    for chunk in range(least.size):
        if least[chunk] <= limit and chunk * CHUNK < end:
            for place in range(chunk * CHUNK, (chunk + 1) * CHUNK):
                chosen[count] = place
                count += bounds[place] <= limit and place < end
    return count


@_compiled(_REORDERED)
def _compare(
    queries: Array, row: int, points: Array, chosen: Array, exact: Array, distances: Array, places: Array
) -> None:
    """Put those of the chosen points that belong there into a row of ascending distances and their places.

    Equal distances stand in order of place.
    """
    _squared_distances(queries, row, points, chosen, exact)
    for at in range(chosen.size):
        distance, place, slot = exact[at], chosen[at], distances.shape[1]
        while slot > 0 and (
            distance < distances[row, slot - 1]
            or (distance == distances[row, slot - 1] and place < places[row, slot - 1])
        ):
            slot -= 1
            if slot + 1 < distances.shape[1]:
                distances[row, slot + 1], places[row, slot + 1] = distances[row, slot], places[row, slot]
        if slot < distances.shape[1]:
            distances[row, slot], places[row, slot] = distance, place
