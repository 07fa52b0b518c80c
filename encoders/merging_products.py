"""Products of bytes for `merging_screened`, by the instructions that many x86 processors have for them.

AVX-512 VNNI adds 64 products of bytes to 16 sums at once; LLVM does not find it by itself, so the innermost
loop names the instruction.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]  # llvmlite ships no stubs
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from encoders.merging_kernels import Array, compiled, part_of

STEP = 64  # bytes of one instruction: the width of tokens is padded to a multiple
MAX_WIDTH = 1 << 15  # a wider sum of products of bytes might not fit into 32 bits
_PANEL = 128  # columns that all rows are multiplied with in turn, while they are in the cache
_TILE = 4  # so many rows by so many columns at once: their sums fill half of the registers

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_SUMS = ir.VectorType(_INT32, 16)


@cache
def multiplies_bytes() -> bool:
    """Whether compiled code may use the instruction here; without it float32 multiplies the bytes."""
    settings: Any = config  # its attributes come from the environment
    for_this_machine = settings.CPU_NAME is None and settings.CPU_FEATURES is None
    return for_this_machine and bool(binding.get_host_cpu_features().get("avx512vnni"))


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

        def load(start: Any, offset: Any) -> Any:
            place = builder.bitcast(builder.gep(start, [offset]), _SUMS.as_pointer())
            return builder.load(place, align=1)

        add_products = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_SUMS, [_SUMS] * 3), "llvm.x86.avx512.vpdpbusd.512"
        )
        left_rows, right_rows = starts(0, 1), starts(2, 3)
        sums = [[cgutils.alloca_once_value(builder, _SUMS(None)) for _ in right_rows] for _ in left_rows]
        with cgutils.for_range(builder, arguments[4]) as loop:
            offset = builder.mul(loop.index, _INT64(STEP))
            unsigned = [builder.xor(load(row, offset), _SUMS([-0x7F7F7F80] * 16)) for row in left_rows]
            for j, row in enumerate(right_rows):
                signed = load(row, offset)
                for i, bytes_left in enumerate(unsigned):
                    builder.store(
                        builder.call(add_products, [builder.load(sums[i][j]), bytes_left, signed]), sums[i][j]
                    )
        for i, in_row in enumerate(sums):
            four = _sum_each(builder, [builder.load(place) for place in in_row])
            place = builder.gep(data(5), [_INT64(i * _TILE)])
            builder.store(four, builder.bitcast(place, four.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(left, rows, right, columns, steps, out), generate


_multiply_tile: Any = intrinsic(_tile_code)


@compiled(set())
def _four(first: int, end: int) -> Any:
    """Four places from the first on, the last of all for those that are beyond the end."""
    return first, min(first + 1, end - 1), min(first + 2, end - 1), min(first + 3, end - 1)


@compiled(set())
def multiply(
    unit: int, rows_per_unit: int, left: Array, right: Array, right_sums: Array, symmetric: bool, out: Array
) -> None:
    """Fill some rows of out, int32 [B, R, N], with left @ right^T of bytes [B, R, C] and [B, N, C].

    right_sums: int32 [B, N], the sums of the bytes of each right token. symmetric: left is right; half of the
    products stand for the other half. Units count through the rows of all images.
    """
    _, num_rows, width = left.shape
    num_columns = right.shape[1]
    image, start, stop = part_of(unit, rows_per_unit, num_rows)
    of_left, of_right, of_sums, of_out = left[image], right[image], right_sums[image], out[image]
    tile = np.empty((_TILE, _TILE), dtype=np.int32)
    for panel in range(0, num_columns, _PANEL):
        for row in range(start, stop, _TILE):
            rows = _four(row, num_rows)
            for column in range(max(panel, row if symmetric else 0), min(panel + _PANEL, num_columns), _TILE):
                columns = _four(column, num_columns)
                _multiply_tile(of_left, rows, of_right, columns, width // STEP, tile)
                for i in range(_TILE):
                    for j in range(_TILE):
                        # The instruction takes unsigned bytes on the left: 128 too much each.
                        product = np.int32(tile[i, j] - 128 * of_sums[columns[j]])
                        of_out[rows[i], columns[j]] = product
                        if symmetric:
                            of_out[columns[j], rows[i]] = product
