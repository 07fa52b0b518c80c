"""The one exception that damaged or foreign streams raise."""

from __future__ import annotations


class StreamError(ValueError):
    """Raised when bytes are not a whole stream of this codec; the text says what is wrong with them."""
