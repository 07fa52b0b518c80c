"""Results that are kept for the next request that needs them, as long as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The values that were used last, of at most `most` in size together; may be used by several threads."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
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

    def put(self, key: bytes, value: T, size: int) -> None:
        """Keeps a value of this size, unless it is there or there is no room for it; the oldest make room."""
        with self._lock:
            if key in self._entries or not 0 < size <= self._most:
                return
            while self._held + size > self._most:
                _, (_, freed) = self._entries.popitem(last=False)
                self._held -= freed
            self._entries[key] = value, size
            self._held += size
