"""The compiled inner loop of spread centres: the nearest of a few, by exact distances.

numba's cache on disk notices changes of this file alone: after a change of `merging_kernels` or what that
builds on, it has to be touched.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from encoders.merging_kernels import squared_distance
from encoders.merging_products import STEP, coarse
from encoders.merging_threads import Array, compiled, part_of, share


@compiled(set())
def nearest_among(
    team: Any, units: int, rows_per_unit: int, halves: Array, low_bits: int, centers: Array, among: Array,
    places: Array,
) -> bool:  # fmt: skip
    """Fill places, int64 [B, N], with that in centers [B, K] of the nearest one among those that count.

    among: int64 [N, M], the places that count for each token, ascending, -1 for none; the first of equally
    near ones. Units count through the tokens of all images.
    """
    return share(_nearest_among, team, units, (rows_per_unit, halves, low_bits, centers, among, places))


@compiled(set())
def _nearest_among(
    unit: int, rows_per_unit: int, halves: Array, low_bits: int, centers: Array, among: Array, places: Array
) -> None:
    image, start, stop = part_of(unit, rows_per_unit, among.shape[0])
    steps = halves.shape[3] // STEP
    for token in range(start, stop):
        query, smallest = halves[image, token], np.inf
        for place in among[token]:
            if place >= 0:
                other = halves[image, centers[image, place]]
                distance = squared_distance(coarse(query, other, steps), query, other, low_bits)
                if distance < smallest:
                    smallest, places[image, token] = distance, place
