"""Sums of products of small integers, by vector instructions: what distances are made of.

The innermost loops are written for LLVM, which turns products of 16-bit integers into the instructions that
each processor has for them; AVX-512 VNNI for bytes, 64 products and sums at once, it has to be told.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]  # llvmlite ships no stubs
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from encoders.merging_threads import Array, compiled, part_of, share

STEP = 64  # integers that the loops take at once: the width of tokens is padded to a multiple
MAX_WIDTH = 1 << 15  # sums over more channels might not fit into 32 bits
_PANEL = 128  # columns that all rows are multiplied with in turn, while they are in the cache
_TILE = 4  # so many rows by so many columns at once: their sums fill half of the registers

_INT8, _INT16, _INT32, _INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_SUMS, _WORDS, _PRODUCTS = (ir.VectorType(*of) for of in ((_INT32, 16), (_INT16, 32), (_INT32, 32)))
_BYTES = ir.VectorType(_INT8, 64)


def _has_vnni() -> bool:
    """Whether compiled code may use the instruction for bytes here."""
    settings: Any = config  # its attributes come from the environment
    for_this_machine = settings.CPU_NAME is None and settings.CPU_FEATURES is None
    return for_this_machine and bool(binding.get_host_cpu_features().get("avx512vnni"))


def _add_words(builder: Any, sums: Any, left: Any, right: Any) -> Any:
    """Sums of 16 plus the products of each two neighbours of 32 integers of 16 bits."""
    products = builder.mul(builder.sext(left, _PRODUCTS), builder.sext(right, _PRODUCTS))
    even, odd = (_SUMS(list(range(first, 32, 2))) for first in (0, 1))
    pairs = (builder.shuffle_vector(products, products, lanes) for lanes in (even, odd))
    return builder.add(sums, builder.add(*pairs))


def _add_bytes(builder: Any, sums: Any, left: Any, right: Any) -> Any:
    """Sums of 16 plus the products of 64 bytes, unsigned on the left and signed on the right."""
    if _has_vnni():
        kind = ir.FunctionType(_SUMS, [_SUMS] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        return builder.call(function, [sums, *(builder.bitcast(part, _SUMS) for part in (left, right))])
    for half in (range(32), range(32, 64)):
        lanes = _PRODUCTS(list(half))
        unsigned, signed = (builder.shuffle_vector(part, part, lanes) for part in (left, right))
        sums = _add_words(builder, sums, builder.zext(unsigned, _WORDS), builder.sext(signed, _WORDS))
    return sums


def _load(builder: Any, start: Any, offset: Any, kind: Any) -> Any:
    place = builder.bitcast(builder.gep(start, [offset]), kind.as_pointer())
    return builder.load(place, align=1)


def _total(builder: Any, sums: Any) -> Any:
    """The sum of 16 sums, in 64 bits."""
    wide = ir.VectorType(_INT64, 16)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_INT64, [wide]), "llvm.vector.reduce.add.v16i64"
    )
    return builder.call(function, [builder.sext(sums, wide)])


def _differences(context: Any, builder: Any, signature: Any, arguments: Any, pairs: Any) -> list[Any]:
    """Sums of products of differences of two tokens: of halves (i, j) for each pair."""
    left, right, steps = arguments
    first, second = (
        context.make_array(kind)(context, builder, value).data
        for kind, value in zip(signature.args[:2], (left, right), strict=True)
    )
    width = builder.mul(steps, _INT64(STEP))
    # Two sums of each, since an addition has to wait for the one before.
    sums = [[cgutils.alloca_once_value(builder, _SUMS(None)) for _ in range(2)] for _ in pairs]
    with cgutils.for_range(builder, steps) as loop:
        for at in range(2):
            offset = builder.add(builder.mul(loop.index, _INT64(STEP)), _INT64(at * STEP // 2))
            halves = {}
            for half in sorted({half for pair in pairs for half in pair}):
                place = builder.add(offset, builder.mul(width, _INT64(half)))
                halves[half] = builder.sub(*(_load(builder, row, place, _WORDS) for row in (first, second)))
            for of_pair, (i, j) in zip(sums, pairs, strict=True):
                total = _add_words(builder, builder.load(of_pair[at]), halves[i], halves[j])
                builder.store(total, of_pair[at])
    return [builder.add(*(_total(builder, builder.load(part)) for part in of_pair)) for of_pair in sums]


def _coarse_code(context: Any, left: Any, right: Any, steps: Any) -> Any:
    """The squared distance of the high halves of two tokens: int16 [2, C], contiguous; steps: C / 64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _differences(context, builder, signature, arguments, [(0, 0)])[0]

    return types.int64(left, right, steps), generate


def _fine_code(context: Any, left: Any, right: Any, steps: Any) -> Any:
    """What the low halves of two tokens add to it: the sums of high times low, and of low times low."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = _differences(context, builder, signature, arguments, [(0, 1), (1, 1)])
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.int64, 2)(left, right, steps), generate


coarse: Any = intrinsic(_coarse_code)
fine: Any = intrinsic(_fine_code)


def _sum_each(builder: Any, vectors: list[Any]) -> Any:
    """The sums of four vectors of 16, in one vector of 4: adding as a tree, four of each at the same time."""

    def shuffle(first: Any, second: Any, lanes: list[int]) -> Any:
        return builder.shuffle_vector(first, second, ir.VectorType(_INT32, len(lanes))(lanes))

    def add_pairs(first: Any, second: Any, pattern: list[int]) -> Any:
        low = [lane + at for at in range(0, 16, 4) for lane in pattern]
        return builder.add(shuffle(first, second, low), shuffle(first, second, [lane + 2 for lane in low]))

    a, b, c, d = vectors
    # Of each four lanes: 0 1 0 1 of two vectors, then 0 2 0 2, so that a b c d come out in order.
    alternate = [0, 16, 1, 17]
    both = add_pairs(a, b, alternate), add_pairs(c, d, alternate)
    total = add_pairs(*both, [0, 1, 16, 17])
    for size in (8, 4):
        total = builder.add(
            shuffle(total, total, list(range(size))), shuffle(total, total, list(range(size, 2 * size)))
        )
    return total


def _tile_code(context: Any, left: Any, rows: Any, right: Any, columns: Any, steps: Any, out: Any) -> Any:
    """Fill out, int32 [4, 4], with (left[row] + 128) @ right[column] for four rows and four columns of bytes.

    left, right: int8 [N, C], contiguous; steps: C / 64.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def data(number: int) -> Any:
            return context.make_array(signature.args[number])(context, builder, arguments[number]).data

        def starts(array: int, places: int) -> list[Any]:
            width = builder.mul(arguments[4], _INT64(STEP))
            chosen = cgutils.unpack_tuple(builder, arguments[places])
            return [builder.gep(data(array), [builder.mul(place, width)]) for place in chosen]

        left_rows, right_rows = starts(0, 1), starts(2, 3)
        sums = [[cgutils.alloca_once_value(builder, _SUMS(None)) for _ in right_rows] for _ in left_rows]
        with cgutils.for_range(builder, arguments[4]) as loop:
            offset = builder.mul(loop.index, _INT64(STEP))
            unsigned = [
                builder.xor(_load(builder, row, offset, _BYTES), _BYTES([-128] * 64)) for row in left_rows
            ]
            for j, row in enumerate(right_rows):
                signed = _load(builder, row, offset, _BYTES)
                for i, bytes_left in enumerate(unsigned):
                    builder.store(
                        _add_bytes(builder, builder.load(sums[i][j]), bytes_left, signed), sums[i][j]
                    )
        for i, in_row in enumerate(sums):
            four = _sum_each(builder, [builder.load(place) for place in in_row])
            place = builder.gep(data(5), [_INT64(i * _TILE)])
            builder.store(four, builder.bitcast(place, four.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(left, rows, right, columns, steps, out), generate


_multiply_tile: Any = intrinsic(_tile_code)


@compiled(set())
def four(first: int, end: int) -> Any:
    """Four places from the first on, the last of all for those that are beyond the end."""
    return first, min(first + 1, end - 1), min(first + 2, end - 1), min(first + 3, end - 1)


@compiled(set())
def multiply(
    team: Any, units: int, rows_per_unit: int, left: Array, right: Array, right_sums: Array, symmetric: bool,
    out: Array,
) -> bool:  # fmt: skip
    """Fill out, int32 [B, R, N], with left @ right^T of bytes [B, R, C] and [B, N, C].

    right_sums: int32 [B, N], the sums of the bytes of each right token. symmetric: left is right; half of the
    products stand for the other half. Units count through the rows of all images.
    """
    return share(_multiply_rows, team, units, (rows_per_unit, left, right, right_sums, symmetric, out))


@compiled(set())
def _multiply_rows(
    unit: int, rows_per_unit: int, left: Array, right: Array, right_sums: Array, symmetric: bool, out: Array
) -> None:
    _, num_rows, width = left.shape
    num_columns = right.shape[1]
    image, start, stop = part_of(unit, rows_per_unit, num_rows)
    of_left, of_right, of_sums, of_out = left[image], right[image], right_sums[image], out[image]
    tile = np.empty((_TILE, _TILE), dtype=np.int32)
    for panel in range(0, num_columns, _PANEL):
        for row in range(start, stop, _TILE):
            rows = four(row, num_rows)
            for column in range(max(panel, row if symmetric else 0), min(panel + _PANEL, num_columns), _TILE):
                columns = four(column, num_columns)
                _multiply_tile(of_left, rows, of_right, columns, width // STEP, tile)
                for i in range(_TILE):
                    for j in range(_TILE):
                        # The instruction takes unsigned bytes on the left: 128 too much each.
                        product = np.int32(tile[i, j] - 128 * of_sums[columns[j]])
                        of_out[rows[i], columns[j]] = product
                        if symmetric:
                            of_out[columns[j], rows[i]] = product
