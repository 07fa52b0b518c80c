"""Results that are kept for the next request that needs them, as long as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class LeastRecentCache(Generic[T]):
    """The values that were used last, of at most `capacity` in size together; for use by several threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._used = capacity, 0
        self._entries: OrderedDict[bytes, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: bytes | None) -> bool:
        return key is not None and key in self._entries

    def get(self, key: bytes | None) -> T | None:
        """The value of this key, which is the most recent one now."""
        with self._lock:
            if key is None or key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def has_room(self, key: bytes, size: int) -> bool:
        """Whether `put` would keep a value of this size: it is new, and no larger than everything."""
        return key not in self._entries and 0 < size <= self._capacity

    def put(self, key: bytes, value: T, size: int) -> None:
        """Keeps a value of this size where there is room for it; the oldest make room."""
        with self._lock:
            if not self.has_room(key, size):
                return
            while self._used + size > self._capacity:
                _, (_, freed) = self._entries.popitem(last=False)
                self._used -= freed
            self._entries[key] = value, size
            self._used += size
