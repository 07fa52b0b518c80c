"""Text that grows token by token: what is certain can be sent, what a later token may change waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "�"  # bytes of a character whose rest has not come


class GrowingText:
    """The text of ids that arrive one by one, stripped as `Edge.answer` strips it, up to a stop string.

    `decode` turns ids into text. `push` returns what became certain; `is_stopped` says that a stop string
    ended the text, and `text` is all of it after `close`.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, tuple(stop)
        self._held = max((len(word) for word in self._stop), default=1) - 1
        self._ids: list[int] = []
        self.text = ""  # sent so far
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Adds a token; returns the text that no later one can change."""
        self._ids.append(token)
        return self._advance(final=False)

    def close(self) -> str:
        """No more tokens; returns the rest."""
        return self._advance(final=True)

    def _advance(self, final: bool) -> str:
        if self.is_stopped:
            return ""
        whole = self._decode(self._ids).lstrip()
        places = [place for word in self._stop if (place := whole.find(word)) >= 0]
        if places:
            whole, self.is_stopped = whole[: min(places)].rstrip(), True
        elif final:
            whole = whole.rstrip()
        else:
            whole = whole.rstrip(_UNFINISHED)
            whole = whole[: max(0, len(whole) - self._held)].rstrip()
        if len(whole) <= len(self.text):
            return ""
        new = whole[len(self.text) :]
        self.text = whole
        return new
