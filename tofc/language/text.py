"""What tokens say: whole, and as they come, where what a later token may change waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # bytes of a character whose rest has not come


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids, without special tokens, as it stands."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def answer_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of an answer's ids."""
    return decode(tokenizer, ids).strip()


def certain_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of the first ids of an answer, without a character whose rest is still to come."""
    return decode(tokenizer, ids).rstrip(_UNFINISHED)


class TextStream:
    """The text of ids that come one by one, stripped as an answer's is, up to a stop string.

    `push` returns what became certain; `is_stopped` says that a stop string ended the text, and `text` is all
    of it after `close`.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._held = max((len(word) for word in self._stop), default=1) - 1
        self._ids: list[int] = []
        self.text = ""  # given so far
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Adds a token; returns the text that no later one can change."""
        self._ids.append(token)
        return self._advance(is_last=False)

    def close(self) -> str:
        """No more tokens; returns the rest."""
        return self._advance(is_last=True)

    def _advance(self, is_last: bool) -> str:
        if self.is_stopped:
            return ""
        whole = decode(self._tokenizer, self._ids).lstrip()
        places = [place for word in self._stop if (place := whole.find(word)) >= 0]
        if places:
            whole, self.is_stopped = whole[: min(places)].rstrip(), True
        elif is_last:
            whole = whole.rstrip()
        else:
            whole = whole.rstrip(_UNFINISHED)
            whole = whole[: max(0, len(whole) - self._held)].rstrip()
        if len(whole) <= len(self.text):
            return ""
        new = whole[len(self.text) :]
        self.text = whole
        return new
