"""Networks in integers: the same result on every machine, bit for bit.

A float network gives sums that depend on the order of summation, hence on thread count, batch size and
library. Here weights and activations are integers so small that every sum stays below 2**53: float64 holds
each partial sum exactly, whatever the order, and a fast matrix product may be used all the same. The bound
is checked when a layer is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT = 2**53  # every integer up to this size is a float64
MAX_BIAS = 2**24


def take(tensors: Mapping[str, NDArray[Any]], name: str, dimensions: int, *types: type) -> NDArray[Any]:
    """One array of a codec; KeyError where it is missing, ValueError where it has another type or number of
    dimensions, is empty, or holds what is not finite."""
    value = tensors[name]
    if value.dtype not in [np.dtype(one) for one in types] or value.ndim != dimensions or value.size == 0:
        due = " or ".join(one.__name__ for one in types)
        raise ValueError(
            f"codec with {name} {value.dtype} {list(value.shape)}; due is {due} in {dimensions} dimensions"
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"codec whose {name} holds NaN or infinity")
    return value


@dataclass(frozen=True)
class IntegerLayer:
    """``clip((weight @ x + bias[level]) * multiplier + 2**(shift - 1) >> shift, low, high)`` on integers.

    weight: int8 or int16 [out, in]; bias: int32 [levels, out]; multiplier: int32 [out]; shift: uint8 [out],
    at least 1; bounds: int32 [3], the largest |x| allowed, then low and high. Raises ValueError where a sum
    could leave 2**53.
    """

    weight: NDArray[np.integer]
    bias: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.uint8]
    bounds: NDArray[np.int32]

    def __post_init__(self) -> None:
        out_width, levels = self.weight.shape[0], self.bias.shape[0]
        shapes = (self.bias.shape, self.multiplier.shape, self.shift.shape, self.bounds.shape)
        if self.weight.ndim != 2 or shapes != ((levels, out_width), (out_width,), (out_width,), (3,)):
            raise ValueError(
                f"integer layer with weight {self.weight.shape} does not match its vectors {shapes}"
            )
        limit, low, high = (int(bound) for bound in self.bounds)
        if limit < 1 or low > high or int(self.shift.min()) < 1 or int(self.shift.max()) > 52:
            raise ValueError("integer layer with impossible bounds or shifts")
        reach = np.abs(self.weight.astype(np.int64)).sum(axis=1) * limit + np.abs(
            self.bias.astype(np.int64)
        ).max(axis=0)
        scaled = [
            int(r) * abs(int(m)) + (1 << int(s))
            for r, m, s in zip(reach, self.multiplier, self.shift, strict=True)
        ]
        if max(scaled) >= EXACT:
            raise ValueError(f"integer layer may reach {max(scaled)}, beyond the exact range of 2**53")

    @cached_property
    def _columns(self) -> NDArray[np.float64]:
        return np.ascontiguousarray(self.weight.T, dtype=np.float64)

    @cached_property
    def _step(self) -> NDArray[np.float64]:
        return np.ldexp(1.0, -self.shift.astype(np.int64))

    def __call__(self, inputs: NDArray[np.float64], level: int) -> NDArray[np.float64]:
        """inputs: float64 [n, in] of integers within the bound. Returns float64 [n, out] of integers."""
        limit, low, high = (float(bound) for bound in self.bounds)
        total = np.clip(inputs, -limit, limit) @ self._columns + self.bias[level]  # exact in any order
        half = 0.5 / self._step
        return np.clip(np.floor((total * self.multiplier + half) * self._step), low, high)

    def tensors(self, prefix: str) -> dict[str, NDArray[np.generic]]:
        """The layer as named arrays, for a checkpoint."""
        return {f"{prefix}.{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]], prefix: str) -> IntegerLayer:
        """The layer that `tensors` stored; KeyError where a part is missing, ValueError for a wrong one."""
        return cls(
            weight=take(tensors, f"{prefix}.weight", 2, np.int8, np.int16),
            bias=take(tensors, f"{prefix}.bias", 2, np.int32),
            multiplier=take(tensors, f"{prefix}.multiplier", 1, np.int32),
            shift=take(tensors, f"{prefix}.shift", 1, np.uint8),
            bounds=take(tensors, f"{prefix}.bounds", 1, np.int32),
        )


@dataclass(frozen=True)
class IntegerNetwork:
    """Integer layers one after another; each clips its input to its bound."""

    layers: tuple[IntegerLayer, ...]

    def __call__(self, inputs: NDArray[np.float64], level: int) -> NDArray[np.float64]:
        """inputs: float64 [n, in] of integers; level: row of the biases. Returns float64 [n, out]."""
        for layer in self.layers:
            inputs = layer(inputs, level)
        return inputs

    def check(self, in_width: int, out_width: int, levels: int, what: str) -> None:
        """Raises ValueError unless the layers lead from one width to the other at each quality level."""
        widths = [in_width, *(layer.weight.shape[0] for layer in self.layers)]
        fits = widths[:-1] == [layer.weight.shape[1] for layer in self.layers] and widths[-1] == out_width
        if not fits or any(len(layer.bias) != levels for layer in self.layers):
            raise ValueError(f"{what} must lead from {in_width} to {out_width} values at {levels} levels")

    def tensors(self, prefix: str) -> dict[str, NDArray[np.generic]]:
        """The network as named arrays, for a checkpoint."""
        return {
            name: value
            for i, layer in enumerate(self.layers)
            for name, value in layer.tensors(f"{prefix}.{i}").items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]], prefix: str) -> IntegerNetwork:
        """The network that `tensors` stored; KeyError where it has no first layer."""
        layers = [IntegerLayer.from_tensors(tensors, f"{prefix}.0")]
        while f"{prefix}.{len(layers)}.weight" in tensors:
            layers.append(IntegerLayer.from_tensors(tensors, f"{prefix}.{len(layers)}"))
        return cls(tuple(layers))


def quantize_layer(
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    *,
    input_step: float,
    input_limit: int,
    output_step: float,
    output_range: tuple[int, int],
    weight_bits: int = 8,
) -> IntegerLayer:
    """Turn a float layer into integers, with one scale for each row of its weights.

    weight: [out, in]; bias: [levels, out]; input_step, output_step: what one unit of the integer input and
    output stands for; input_limit: largest |input| in units; output_range: (low, high) in units;
    weight_bits: 8 or 16.
    """
    weight = np.asarray(weight, dtype=np.float64)
    bias = np.asarray(bias, dtype=np.float64)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError("a layer with NaN or infinite weights cannot be turned into integers")
    largest = 2 ** (weight_bits - 1) - 1
    row_step = np.maximum(
        np.abs(weight).max(axis=1) / largest, np.abs(bias).max(axis=0) / (MAX_BIAS * input_step)
    )
    row_step = np.maximum(row_step, output_step / input_step * 2.0**-20)  # rows of zeros
    integer_weight = np.rint(weight / row_step[:, None])
    integer_bias = np.rint(bias / (row_step * input_step))
    reach = np.abs(integer_weight).sum(axis=1) * input_limit + np.abs(integer_bias).max(axis=0)
    # Multiplier of 15 bits, fewer where the sums are so large that the product would leave float64's exact
    # range.
    width = np.minimum(15, np.floor(51 - np.log2(np.maximum(reach, 1.0)))).astype(np.int64)
    ratio = row_step * input_step / output_step
    shift = np.clip(width - 1 - np.floor(np.log2(ratio)).astype(np.int64), 1, 50)
    return IntegerLayer(
        integer_weight.astype(np.int8 if weight_bits == 8 else np.int16),
        integer_bias.astype(np.int32),
        np.rint(np.ldexp(ratio, shift)).astype(np.int32),
        shift.astype(np.uint8),
        np.array([input_limit, *output_range], dtype=np.int32),
    )


@dataclass(frozen=True)
class FixedPointMatrix:
    """A float matrix product that gives the same bits on every machine: ``y = rint(x / grid) @ weight * grid
    * scale``.

    weight: int16 [out, in]; scale: float64 [out], what one unit of each row stands for; grid: float64 [1],
    the step to which inputs are rounded, far below any quantisation that matters. Inputs saturate at
    2**LIMIT_BITS steps.
    """

    weight: NDArray[np.int16]
    scale: NDArray[np.float64]
    grid: NDArray[np.float64]

    LIMIT_BITS = 24

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.scale.shape != self.weight.shape[:1] or self.grid.shape != (1,):
            raise ValueError("fixed-point matrix whose parts do not match")
        with np.errstate(over="ignore"):  # to infinity, which is refused
            rows = np.abs(self.weight.astype(np.float64)).sum(axis=1) * np.abs(self.scale)
        if not (self.grid[0] > 0 and float(rows.max()) * self.reach < np.finfo(np.float32).max / 2):
            raise ValueError("fixed-point matrix whose values could leave the range of float32")
        reach = int(np.abs(self.weight.astype(np.int64)).sum(axis=1).max()) << self.LIMIT_BITS
        if reach >= EXACT:
            raise ValueError(f"fixed-point matrix may reach {reach}, beyond the exact range of 2**53")

    @cached_property
    def _columns(self) -> NDArray[np.float64]:
        return np.ascontiguousarray(self.weight.T, dtype=np.float64)

    @property
    def reach(self) -> float:
        """Largest |input| that is not saturated."""
        return float(self.grid[0]) * 2.0**self.LIMIT_BITS

    def __call__(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """inputs: float64 [n, in]. Returns float64 [n, out], identical on every machine."""
        limit = 2.0**self.LIMIT_BITS
        steps = np.clip(np.rint(inputs / self.grid[0]), -limit, limit)
        return (steps @ self._columns) * (self.scale * self.grid[0])

    def tensors(self, prefix: str) -> dict[str, NDArray[np.generic]]:
        """The matrix as named arrays, for a checkpoint."""
        return {f"{prefix}.{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]], prefix: str) -> FixedPointMatrix:
        """The matrix that `tensors` stored; KeyError where a part is missing, ValueError where one is
        wrong."""
        return cls(
            weight=take(tensors, f"{prefix}.weight", 2, np.int16),
            scale=take(tensors, f"{prefix}.scale", 1, np.float64),
            grid=take(tensors, f"{prefix}.grid", 1, np.float64),
        )

    @classmethod
    def quantize(cls, matrix: NDArray[np.floating], grid: float) -> FixedPointMatrix:
        """Round a float matrix [out, in] to int16, one scale a row; grid: step of the inputs."""
        matrix = np.asarray(matrix, dtype=np.float64)
        scale = np.maximum(np.abs(matrix).max(axis=1) / (2**15 - 1), np.finfo(np.float64).tiny)
        return cls(np.rint(matrix / scale[:, None]).astype(np.int16), scale, np.array([grid]))
