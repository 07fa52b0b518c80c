"""Nearest tokens by exact distances: float32 products rule most pairs out, the rest are computed.

All kernels of merging stand here: numba's cache on disk notices changes of a kernel's own file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

_ONE_THREAD = 1024  # tokens: some more than a tile, where a BLAS' second thread cost more than it brought
_MAX_PRODUCTS = 1 << 26  # float32: 256 MiB; more are computed block by block of rows, and again when needed


def compiled(*, exact: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a kernel, keeping the result on disk where some folder can be written to.

    exact: its sums are exact, or bounds, so that they may be added in any order, by vector instructions.
    """
    fastmath = {"reassoc", "contract", "nnan", "nsz"} if exact else set()

    def compile_one(kernel: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, nogil=True, fastmath=fastmath)(kernel)
        except RuntimeError:  # numba's word for "no place for a cache": every process compiles for itself
            return njit(nogil=True, fastmath=fastmath)(kernel)

    return compile_one


class ScreenedSearch:
    """Nearest tokens by exact distances between integer points, one image after another.

    features: [B, N, C], float32 or float64; middle: float64 [B, C] and step: float64 [B], which take them to
    integer points that float32 holds and whose squared distances are below 2^53, so that float64 sums are
    exact in any order; mask: bool [B, N], False for tokens to leave out.
    """

    def __init__(self, features: Array, middle: Array, step: Array, mask: Array) -> None:
        batch, num_tokens, width = features.shape
        self._points = np.empty(features.shape, dtype=np.float32)
        self._norms = np.empty((batch, num_tokens))
        for image in range(batch):
            _to_grid(
                features[image], middle[image], 1.0 / step[image], mask[image],
                self._points[image], self._norms[image],
            )  # fmt: skip
        # A float32 sum of C products errs by at most C roundings of |p| |q|, in any order (Higham 2002, 3.1).
        self._error = 1.01 * width * 2.0**-24 / (1 - width * 2.0**-24)
        self._all = np.arange(num_tokens)
        self._products: list[Array] | None = None
        if batch * num_tokens * num_tokens <= _MAX_PRODUCTS:
            self._products = [_products_of_all(points) for points in self._points]

    def neighbours(self, k: int) -> tuple[Array, Array]:
        """See `merging_peaks.Search`."""
        found = [self._nearest(image, self._all, self._all, k) for image in range(len(self._points))]
        return np.stack([distances for distances, _ in found]), np.stack([places for _, places in found])

    def to_denser(self, rank: Array, wanted: Array) -> Array:
        """See `merging_peaks.Search`."""
        found = [np.empty(0)]
        for image, (ranks, chosen) in enumerate(zip(rank, wanted, strict=True)):
            rows = np.flatnonzero(chosen)
            distances = self._nearest(image, rows, self._all, 1, ranks)[0][:, 0]
            for place in np.flatnonzero(ranks[rows] == 0):
                distances[place] = _farthest(self._points[image], self._norms[image], rows[place])
            found.append(distances)
        return np.concatenate(found)

    def nearest_center(self, centers: Array, among: Array | None = None) -> Array:
        """See `merging_peaks.Search`."""
        places = np.zeros(self._norms.shape, dtype=np.int64)
        for image, chosen in enumerate(centers):
            if among is None:  # centres that are not there stand behind the others
                places[image] = self._nearest(image, self._all, chosen[chosen >= 0], 1)[1][:, 0]
            else:
                _nearest_among(self._points[image], chosen, among, places[image])
        return places

    def _nearest(
        self, image: int, rows: Array, columns: Array, k: int, ranks: Array | None = None
    ) -> tuple[Array, Array]:
        """Squared distances float64 [R, k] of some tokens to the k nearest of others, and their places.

        rows, columns: int64 [R] and [M]. Equal distances in order of place; infinite ones where there are
        fewer than k. ranks: int64 [N]; where given, only columns of lower rank than the row's count.
        """
        distances, places = np.full((len(rows), k), np.inf), np.zeros((len(rows), k), dtype=np.int64)
        for part in self._parts(rows, columns):
            _nearest_of_rows(
                self._points[image], self._norms[image], self._products_of(image, rows[part], columns),
                rows[part], columns, ranks is not None, self._all if ranks is None else ranks, self._error,
                distances[part], places[part],
            )  # fmt: skip
        return distances, places

    def _parts(self, rows: Array, columns: Array) -> Iterator[slice]:
        """Rows whose products with the columns may be computed at once."""
        size = max(1, len(rows) if self._products else _MAX_PRODUCTS // max(1, len(columns)))
        return (slice(start, start + size) for start in range(0, len(rows), size))

    def _products_of(self, image: int, rows: Array, columns: Array) -> Array:
        """Float32 products of tokens with others: [R, M]."""
        if self._products is None:
            points = self._points[image]
            return points[rows] @ points[columns].T
        products = self._products[image]
        products = products if len(rows) == len(self._all) else products[rows]  # both are ascending
        return products if len(columns) == len(self._all) else products[:, columns]


def _products_of_all(points: Array) -> Array:
    """Float32 products of all tokens [N, C] with one another: [N, N]."""
    if len(points) > _ONE_THREAD:
        return points @ points.T
    products = np.empty((len(points), len(points)), dtype=np.float32)
    _multiply(points, products)
    return products


@compiled(exact=True)
def _multiply(p: Array, products: Array) -> None:
    """Fill in p @ p.T: four rows by four, as each number read serves four sums; then its mirror image."""
    last = len(p) - 1
    for i in range(0, last + 1, 4):
        i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        for j in range(i, last + 1, 4):
            j1, j2, j3 = min(j + 1, last), min(j + 2, last), min(j + 3, last)
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
            c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = np.float32(0)
            for n in range(p.shape[1]):
                a, b, c, d = p[i, n], p[i1, n], p[i2, n], p[i3, n]
                e, f, g, h = p[j, n], p[j1, n], p[j2, n], p[j3, n]
                a0, a1, a2, a3 = a0 + a * e, a1 + a * f, a2 + a * g, a3 + a * h
                b0, b1, b2, b3 = b0 + b * e, b1 + b * f, b2 + b * g, b3 + b * h
                c0, c1, c2, c3 = c0 + c * e, c1 + c * f, c2 + c * g, c3 + c * h
                d0, d1, d2, d3 = d0 + d * e, d1 + d * f, d2 + d * g, d3 + d * h
            products[i, j], products[i, j1], products[i, j2], products[i, j3] = a0, a1, a2, a3
            products[i1, j], products[i1, j1], products[i1, j2], products[i1, j3] = b0, b1, b2, b3
            products[i2, j], products[i2, j1], products[i2, j2], products[i2, j3] = c0, c1, c2, c3
            products[i3, j], products[i3, j1], products[i3, j2], products[i3, j3] = d0, d1, d2, d3
    for i in range(last + 1):
        for j in range(i):
            products[i, j] = products[j, i]


@compiled()
def _round(values: Array, middle: Array, per_step: float, point: Array) -> None:
    for channel in range(values.size):
        point[channel] = np.rint((np.float64(values[channel]) - middle[channel]) * per_step)


@compiled()
def _to_grid(
    features: Array, middle: Array, per_step: float, mask: Array, points: Array, norms: Array
) -> None:
    """Fill points float32 [N, C], and their squared lengths, infinite for tokens that the mask leaves out."""
    origin = np.zeros(points.shape[1], dtype=np.float32)
    for token in range(len(features)):
        if mask[token]:
            _round(features[token], middle, per_step, points[token])
            norms[token] = _squared_distance(points[token], origin)
        else:
            points[token], norms[token] = 0.0, np.inf


@compiled(exact=True)
def _squared_distance(left: Array, right: Array) -> Any:
    """Exact: an integer below 2^53."""
    total: Any = 0.0
    for channel in range(left.size):
        difference = np.float64(left[channel]) - np.float64(right[channel])
        total += difference * difference
    return total


@compiled()
def _farthest(points: Array, norms: Array, row: int) -> Any:
    """The largest squared distance of one token to those of finite norm."""
    largest = 0.0
    for token in range(len(points)):
        if norms[token] < np.inf:
            largest = max(largest, _squared_distance(points[row], points[token]))
    return largest


@compiled(exact=True)
def _nearest_of_rows(
    points: Array, norms: Array, products: Array, rows: Array, columns: Array, is_ranked: bool, ranks: Array,
    error: float, distances: Array, places: Array,
) -> None:  # fmt: skip
    """Fill in what `ScreenedSearch._nearest` says, given float32 products [R, M] of rows and columns.

    |p - q|^2 is at least |p|^2 + |q|^2 - 2 (product + error |p| |q|).
    """
    count, k = columns.size, distances.shape[1]
    of_norms, of_lengths = np.empty(count), np.empty(count)
    for place in range(count):
        of_norms[place] = norms[columns[place]]
        of_lengths[place] = np.sqrt(of_norms[place]) if of_norms[place] < np.inf else 0.0
    bounds, lowest, chosen = np.empty(count), np.empty(k), np.empty(k, dtype=np.int64)
    for row in range(rows.size):
        token, found, found_at = rows[row], distances[row], places[row]
        norm = norms[token]
        if norm == np.inf:
            continue
        reach = 2.0 * error * np.sqrt(norm)
        for place in range(count):
            product = np.float64(products[row, place])
            bounds[place] = norm + of_norms[place] - 2.0 * product - reach * of_lengths[place]
        if is_ranked:
            for place in range(count):
                if ranks[columns[place]] >= ranks[token]:
                    bounds[place] = np.inf
        # First the tokens of the lowest bounds: most often the k nearest are among them.
        _lowest(bounds, lowest, chosen)
        for place in chosen:
            if bounds[place] < np.inf:
                distance = _squared_distance(points[token], points[columns[place]])
                _insert(distance, place, found, found_at)
                bounds[place] = np.inf
        # Then every other whose bound does not rule it out. Nothing is nearer than 0, whatever its bound.
        end = count if found[k - 1] > 0 else found_at[k - 1]
        for place in range(end):
            if bounds[place] <= found[k - 1] and bounds[place] < np.inf:
                distance = _squared_distance(points[token], points[columns[place]])
                _insert(distance, place, found, found_at)


@compiled()
def _lowest(bounds: Array, lowest: Array, chosen: Array) -> None:
    """Fill in the lowest bounds, ascending, and their places."""
    lowest[:], chosen[:] = np.inf, 0
    for place in range(bounds.size):
        if bounds[place] < lowest[-1]:
            _insert(bounds[place], place, lowest, chosen)


@compiled()
def _insert(value: float, place: int, values: Array, places: Array) -> None:
    """Put a value into ascending ones, of which the last goes; equal ones stand in order of place."""
    at = values.size
    while at > 0 and (value < values[at - 1] or (value == values[at - 1] and place < places[at - 1])):
        at -= 1
        if at + 1 < values.size:
            values[at + 1], places[at + 1] = values[at], places[at]
    if at < values.size:
        values[at], places[at] = value, place


@compiled()
def _nearest_among(points: Array, centers: Array, among: Array, places: Array) -> None:
    """Fill places [N] with that in centers [K] of the nearest among some, the first of equally near ones."""
    for token in range(len(points)):
        smallest = np.inf
        for place in among[token]:
            if place >= 0:
                distance = _squared_distance(points[token], points[centers[place]])
                if distance < smallest:
                    smallest, places[token] = distance, place
