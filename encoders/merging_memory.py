"""Memory for merging that is used again: on fresh pages the first touch costs as much as the work."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LINE = 64  # bytes of a cache line: vectors that cross one take twice as long to load
_LARGEST = 1 << 25  # more than that goes back to the system
_free: deque[Array] = deque(maxlen=2)  # whatever the threads of this process do not use now


class Memory:
    """Some arrays, by shape and type, that hold anything and start where cache lines do.

    Their memory is used again as soon as nobody holds this object: keep it as long as the arrays.
    """

    def __init__(self, *wanted: tuple[tuple[int, ...], type[np.generic]]) -> None:
        sizes = [math.prod(shape) * np.dtype(kind).itemsize for shape, kind in wanted]
        num_bytes = sum(sizes) + _LINE * len(sizes)
        try:
            self._bytes = _free.pop()
        except IndexError:
            self._bytes = np.empty(num_bytes, dtype=np.uint8)
        if self._bytes.size < num_bytes:
            self._bytes = np.empty(num_bytes, dtype=np.uint8)
        self.arrays: list[Array] = []
        start, address = 0, self._bytes.ctypes.data
        for (shape, kind), size in zip(wanted, sizes, strict=True):
            start += -(address + start) % _LINE
            self.arrays.append(self._bytes[start : start + size].view(kind).reshape(shape))
            start += size

    def __del__(self) -> None:
        if self._bytes.size <= _LARGEST:
            _free.append(self._bytes)
