"""The compiled inner loops of `merging_screened`: ranges, rounding tokens, bounds, exact distances.

numba's cache on disk notices changes of a kernel's own file alone: after a change of `merging_threads` or
`merging_products`, this file has to be touched.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from encoders.merging_products import STEP, coarse, fine, four
from encoders.merging_threads import Array, compiled, part_of, share

CHUNK = 16
_LAST = np.int32(2**31 - 1)  # a rank above all others
# More than float32 loses in a bound: some twenty roundings of values up to four times |p|^2 + |q|^2.
ROUNDING = 2.0**-17
# Sums may be reordered only where they are exact, or where a bound allows for it.
REORDERED = {"reassoc", "contract", "nnan", "nsz"}


@compiled(set())
def find_range(
    team: Any, units: int, rows_per_unit: int, features: Array, valid: Array, high: Array, low: Array
) -> bool:
    """Fill high and low, float64 [B, C], with the largest and the smallest value of each channel.

    Both are 0 in images without tokens, and NaN in channels that hold a NaN or an infinity.
    """
    found = np.empty((units, 3, features.shape[2]), dtype=features.dtype)
    if not share(_find_range, team, units, (rows_per_unit, features, valid, found)):
        return False
    units_of_each = units // max(1, len(high))
    for image in range(len(high)):
        parts = found[image * units_of_each : (image + 1) * units_of_each]
        for channel in range(features.shape[2]):
            largest, smallest, spoilt = parts[0, 0, channel], parts[0, 1, channel], parts[0, 2, channel]
            for unit in range(1, units_of_each):
                largest = max(largest, parts[unit, 0, channel])
                smallest = min(smallest, parts[unit, 1, channel])
                spoilt += parts[unit, 2, channel]
            is_empty = largest < smallest  # of no tokens, or of NaN alone
            high[image, channel] = spoilt if is_empty else largest + spoilt
            low[image, channel] = spoilt if is_empty else smallest + spoilt
    return True


@compiled(set())
def _find_range(unit: int, rows_per_unit: int, features: Array, valid: Array, found: Array) -> None:
    image, start, stop = part_of(unit, rows_per_unit, features.shape[1])
    high, low, spoilt = found[unit, 0], found[unit, 1], found[unit, 2]
    high[:], low[:], spoilt[:] = -np.inf, np.inf, 0.0
    tokens = start + np.nonzero(valid[image, start:stop])[0]
    for first in range(0, tokens.size, 4):  # four at once: half of the work is to load and store the range
        w, x, y, z = four(first, tokens.size)
        a, b = features[image, tokens[w]], features[image, tokens[x]]
        c, d = features[image, tokens[y]], features[image, tokens[z]]
        for channel in range(high.size):
            p, q, r, s = a[channel], b[channel], c[channel], d[channel]
            high[channel] = _larger(high[channel], _larger(_larger(p, q), _larger(r, s)))
            low[channel] = -_larger(-low[channel], _larger(_larger(-p, -q), _larger(-r, -s)))
            spoilt[channel] += ((p - p) + (q - q)) + ((r - r) + (s - s))


@compiled(set())
def _larger(value: float, other: float) -> float:
    return value if value > other else other


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
    team: Any, units: int, rows_per_unit: int, features: Array, middle: Array, per_step: Array, valid: Array,
    low_bits: int, tokens: Any,
) -> bool:  # fmt: skip
    """Fill in what `merging_screened.Tokens` says of features [B, N, C].

    Tokens that are not valid become zeros of infinite norm. Units count through the rows of all images.
    """
    offset = np.empty(middle.shape, dtype=np.int32)
    for image in range(len(features)):
        typical(image, features, middle, per_step, valid, offset)
    arguments = rows_per_unit, features, middle, per_step, valid, offset, low_bits, tokens
    return share(_round_rows, team, units, arguments)


@compiled(set())
def _round_rows(
    unit: int, rows_per_unit: int, features: Array, middle: Array, per_step: Array, valid: Array,
    offset: Array, low_bits: int, tokens: Any,
) -> None:  # fmt: skip
    scales, norms, lengths, errors, blurs, halves, rounded, sums = tokens
    image, start, stop = part_of(unit, rows_per_unit, features.shape[1])
    width = features.shape[2]
    point = np.empty(width, dtype=np.int32)
    for token in range(start, stop):
        halves[image, token, :, width:], rounded[image, token, width:] = 0, 0
        if valid[image, token]:
            _to_grid(features[image, token], middle[image], per_step[image], point)
            blur = _to_halves(point, low_bits, halves[image, token])
            scale, norm, error, total = _to_bytes(point, offset[image], rounded[image, token])
        else:
            halves[image, token], rounded[image, token] = 0, 0
            blur, scale, norm, error, total = 0.0, 0.0, np.inf, 0.0, 0
        scales[image, token], norms[image, token], lengths[image, token] = scale, norm, np.sqrt(norm)
        errors[image, token], blurs[image, token], sums[image, token] = error, blur, total


@compiled(REORDERED)
def _to_halves(point: Array, low_bits: int, halves: Array) -> Any:
    """Fill in the high and the low bits of a point, int16 [2, C].

    point = high * 2^low_bits + low, with |low| <= 2^low_bits / 2. Returns a bound of the length of the low.
    """
    half, length_sq = np.int32(1 << (low_bits - 1)), np.float32(0.0)
    for channel in range(point.size):
        high = np.int32(point[channel] + half) >> np.int32(low_bits)
        low = np.int32(point[channel] - (high << np.int32(low_bits)))
        halves[0, channel], halves[1, channel] = np.int16(high), np.int16(low)
        length_sq += np.float32(low) * np.float32(low)
    return np.sqrt(np.float64(length_sq)) * (1.0 + point.size * 2.0**-23)


@compiled(REORDERED)
def _to_bytes(point: Array, offset: Array, rounded: Array) -> Any:
    """Fill in the bytes, int8, of a point less the offset.

    Returns the scale, the squared length, a bound of the length of what is missed, and the sum of the bytes.
    """
    largest, norm = np.int32(0), np.float64(0.0)
    for channel in range(point.size):
        value = np.int32(point[channel] - offset[channel])
        largest = max(largest, np.int32(abs(value)))
        norm += np.float64(value) * np.float64(value)
    scale = np.float32(largest / 127.0)
    per_scale = np.float32(127.0 / largest if largest > 0 else 0.0)
    missed, total = np.float32(0.0), np.int32(0)
    for channel in range(point.size):
        exact = np.float32(np.int32(point[channel] - offset[channel]))
        near = np.rint(exact * per_scale)
        rounded[channel] = np.int8(np.int32(near))
        total = np.int32(total + np.int32(near))
        missed += (exact - near * scale) * (exact - near * scale)
    # float32 errs in the sum by as many roundings as it has terms, in what each channel misses by a few.
    error = np.sqrt(np.float64(missed)) * (1.0 + point.size * 2.0**-23) + ROUNDING * np.sqrt(norm)
    return np.float64(scale), norm, error, total


@compiled(REORDERED)
def squared_distance(of_high: int, halves: Array, other: Array, low_bits: int) -> Any:
    """Exact: an integer below 2^53, whatever float64 sums it of; of_high: that of the high bits."""
    of_both, of_low = fine(halves, other, halves.shape[1] // STEP)
    return np.float64((of_high << (2 * low_bits)) + (of_both << (low_bits + 1)) + of_low)


@compiled(set())
def wanted_rows(wanted: Array) -> Array:
    """The wanted tokens of each image, bool [B, N], int64 [B, R]; -1 where an image wants fewer."""
    num_rows = 0
    for image in range(len(wanted)):
        num_rows = max(num_rows, np.nonzero(wanted[image])[0].size)
    rows = np.full((len(wanted), num_rows), -1)
    for image in range(len(wanted)):
        tokens = np.nonzero(wanted[image])[0]
        rows[image, : tokens.size] = tokens
    return rows


@compiled(set())
def of_wanted(
    distances: Array, rows: Array, rank: Array, norms: Array, halves: Array, low_bits: int
) -> Array:
    """The distances [B, R, 1] of rows [B, R] that are there, one after another.

    Of the token of rank 0 that to the farthest token instead.
    """
    found, count = np.empty(rows.size), 0
    for image in range(len(rows)):
        for at, row in enumerate(rows[image]):
            if row >= 0:
                is_first = rank[image, row] == 0
                found[count] = (
                    _farthest(halves[image], norms[image], low_bits, row)
                    if is_first
                    else distances[image, at, 0]
                )
                count += 1
    return found[:count]


@compiled(set())
def _farthest(halves: Array, norms: Array, low_bits: int, row: int) -> Any:
    """The largest squared distance of one token to those of finite norm."""
    largest, steps = 0.0, halves.shape[2] // STEP
    for place in range(len(halves)):
        if norms[place] < np.inf:
            of_high = coarse(halves[row], halves[place], steps)
            largest = max(largest, squared_distance(of_high, halves[row], halves[place], low_bits))
    return largest


@compiled(set())
def nearest(
    team: Any, units: int, rows_per_unit: int, tokens: Any, low_bits: int, rows: Array, columns: Array,
    is_ranked: bool, ranks: Array, products: Array, is_whole: bool, distances: Array, places: Array,
) -> bool:  # fmt: skip
    """Fill squared distances and places [B, R, k] of the nearest columns of each row.

    tokens: `merging_screened.Tokens`; rows, columns: int64 [B, R] and [B, M], the tokens that are asked for
    and among which, negative ones for none. Where is_ranked, only columns of lower rank than the row count,
    ranks: int64 [B, N]. products: int32, of the bytes of all tokens with all, [B, N, N], where is_whole, else
    of the rows with the columns, [B, R, M]. Units count through the rows of all images.
    """
    arguments = (
        rows_per_unit, tokens, low_bits, rows, columns, is_ranked, ranks, products, is_whole,
        distances, places,
    )  # fmt: skip
    return share(_nearest_of_rows, team, units, arguments)


@compiled(REORDERED)
def _nearest_of_rows(
    unit: int, rows_per_unit: int, tokens: Any, low_bits: int, all_rows: Array, all_columns: Array,
    is_ranked: bool, all_ranks: Array, products: Array, is_whole: bool, distances: Array, places: Array,
) -> None:  # fmt: skip
    """With p = scale * bytes + error, and Cauchy-Schwarz for what has an error in it, |p - q|^2 is at least
    |p|^2 + |q|^2 - 2 (scale_p scale_q product + |p| |e_q| + |e_p| |q| + |e_p| |e_q|)."""
    image, start, stop = part_of(unit, rows_per_unit, all_rows.shape[1])
    scales, norms, lengths, errors = tokens[0][image], tokens[1][image], tokens[2][image], tokens[3][image]
    columns, ranks, k = all_columns[image], all_ranks[image], distances.shape[2]
    others = _of_columns(columns, scales, norms, lengths, errors, ranks)
    of_scales, of_norms, of_lengths, of_errors, of_ranks = others
    in_order = columns.size == products.shape[2] and (not is_whole or _counts_up(columns))
    num_chunks = (columns.size + CHUNK - 1) // CHUNK
    bounds = np.full(num_chunks * CHUNK, np.inf, dtype=np.float32)  # lower ones, less the query's norm
    least = np.empty(num_chunks, dtype=np.float32)  # of each chunk
    lowest = np.empty(k, dtype=np.float32)
    chosen = np.empty(bounds.size + 1, dtype=np.int64)
    picked = np.empty(columns.size, dtype=np.int32)
    for row in range(start, stop):
        found, found_at, token = distances[image, row], places[image, row], all_rows[image, row]
        found[:], found_at[:] = np.inf, 0
        if token < 0 or norms[token] == np.inf:
            continue
        of_query = products[image, token if is_whole else row]
        if not in_order:
            for place in range(columns.size):
                picked[place] = of_query[columns[place]]
            of_query = picked
        scale, rank = np.float32(-2.0 * scales[token]), np.int32(ranks[token] if is_ranked else _LAST)
        length = np.float32(-2.0 * (lengths[token] + errors[token]))
        error = np.float32(-2.0 * errors[token])
        for place in range(columns.size):
            bound = of_norms[place] + scale * (of_scales[place] * np.float32(of_query[place]))
            bound += length * of_errors[place] + error * of_lengths[place]
            bounds[place] = bound if of_ranks[place] < rank else np.float32(np.inf)
        _least_of_chunks(bounds, least, lowest)
        # First the tokens of the lowest bounds: most often the k nearest are among them.
        norm = norms[token] * (1.0 - ROUNDING)
        count = min(4 * k, _collect(bounds, least, lowest[k - 1], columns.size, chosen))
        _compare(token, norm, tokens, image, low_bits, columns, bounds, chosen[:count], found, found_at)
        if found[k - 1] < np.inf:
            # Then every other whose bound does not rule it out. No distance is negative, whatever its bound.
            bounds[chosen[:count]] = np.inf
            end = columns.size if found[k - 1] > 0 else found_at[k - 1]
            count = _collect(bounds, least, _limit(found[k - 1], norm), end, chosen)
            _compare(token, norm, tokens, image, low_bits, columns, bounds, chosen[:count], found, found_at)


@compiled(set())
def _counts_up(columns: Array) -> bool:
    in_order = True
    for place in range(columns.size):
        in_order &= columns[place] == place
    return in_order


@compiled(set())
def _of_columns(
    columns: Array, scales: Array, norms: Array, lengths: Array, errors: Array, ranks: Array
) -> Any:
    """What the bounds need of some tokens, as float32: norms a little less, infinite for none."""
    values = np.empty((4, columns.size), dtype=np.float32)
    of_ranks = np.empty(columns.size, dtype=np.int32)
    for place in range(columns.size):
        token = columns[place]
        values[0, place], values[2, place], values[3, place] = scales[token], lengths[token], errors[token]
        values[1, place] = norms[token] * (1.0 - ROUNDING) if token >= 0 else np.inf
        of_ranks[place] = ranks[token]
    return values[0], values[1], values[2], values[3], of_ranks


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
    token: int, norm: float, tokens: Any, image: int, low_bits: int, columns: Array, bounds: Array,
    chosen: Array, distances: Array, places: Array,
) -> None:  # fmt: skip
    """Put those of the chosen columns that belong there into the ascending distances [k] and their places.

    Equal distances stand in order of place.
    """
    blurs, halves = tokens[4][image], tokens[5][image]
    query, steps, last = halves[token], halves.shape[2] // STEP, distances.size - 1
    unit = (1 << low_bits) * (1.0 - 2.0**-40)  # a little less, for what float64 rounds
    limit = _limit(distances[last], norm)
    for place in chosen:
        if bounds[place] > limit:
            continue
        other = columns[place]
        of_high = coarse(query, halves[other], steps)
        # By the triangle inequality the low bits bring both tokens no nearer than their lengths.
        apart = np.sqrt(np.float64(of_high)) * unit - blurs[token] - blurs[other]
        if apart > 0 and apart * apart > distances[last]:
            continue
        distance, slot = squared_distance(of_high, query, halves[other], low_bits), last + 1
        while slot > 0 and (
            distance < distances[slot - 1] or (distance == distances[slot - 1] and place < places[slot - 1])
        ):
            slot -= 1
            if slot < last:
                distances[slot + 1], places[slot + 1] = distances[slot], places[slot]
        if slot <= last:
            distances[slot], places[slot] = distance, place
            limit = _limit(distances[last], norm)
