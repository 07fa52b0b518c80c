"""An answer while it grows, told apart: what stands, what is still to be verified, what was corrected."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from itertools import groupby
from queue import SimpleQueue
from typing import Any, Literal

from tofc.drafting.drafter import Watch
from tofc.drafting.rounds import PartialAnswer, common
from tofc.drafting.speculate import Decoded
from tofc.language.prompt import certain_text, decode

State = Literal["final", "checked", "drafted"]


@dataclass(frozen=True)
class Piece:
    """Text of one kind: "final" stands for good, "checked" is verified by one tier and not yet by that above
    it, "drafted" is the device's own. What is `corrected` took the place of a draft that fell.
    """

    text: str
    state: State
    corrected: bool = False


@dataclass(frozen=True)
class Progress:
    """How far an answer has come; `decoded` when it is over."""

    pieces: tuple[Piece, ...]
    decoded: Decoded | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)


class ProgressTracker:
    """Follows a growing answer, of whose drafts it remembers which fell."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._final = self._checked = 0
        self._corrected: set[int] = set()

    def see(self, answer: PartialAnswer) -> None:
        """The answer has changed."""
        same = common(self._tokens, answer.tokens)
        if same < len(self._tokens):  # drafts fell
            self._corrected = {place for place in self._corrected if place < same}
            if same < len(answer.tokens):
                self._corrected.add(same)
        self._tokens = list(answer.tokens)
        self._final, self._checked = answer.final, answer.checked

    def pieces(self) -> tuple[Piece, ...]:
        """The text so far."""
        found, whole, end = [], "", 0
        for (state, corrected), places in groupby(range(len(self._tokens)), self._kind):
            end += len(list(places))
            # Decoded from the start: tokens may hold parts of a character, which go with its last one.
            read = decode if end == len(self._tokens) else certain_text
            now = read(self._tokenizer, self._tokens[:end])
            if len(now) > len(whole):
                found.append(Piece(now[len(whole) :], state, corrected))
                whole = now
        return tuple(found)

    def _kind(self, place: int) -> tuple[State, bool]:
        state: State = "drafted"
        if place < self._checked:
            state = "final" if place < self._final else "checked"
        return state, place in self._corrected


class _Left(Exception):
    """Nobody looks any more."""


def follow_progress(
    run: Callable[[Watch], Decoded], tokenizer: Any, every: float = 0.03
) -> Generator[Progress, None, None]:
    """What becomes of an answer that `run` decodes, at most once in `every` seconds, and last all of it.

    `run` works on a thread of its own and is given what it has to tell of every change. Where the iterator is
    closed, it ends with its next token. What it raises is raised here.
    """
    changes: SimpleQueue[PartialAnswer | Decoded | BaseException] = SimpleQueue()
    left = threading.Event()

    def watch(answer: PartialAnswer) -> None:
        if left.is_set():
            raise _Left
        changes.put(replace(answer, tokens=list(answer.tokens)))

    def work() -> None:
        try:
            changes.put(run(watch))
        except BaseException as fault:
            changes.put(fault)

    threading.Thread(target=work, name="tofc-growing", daemon=True).start()
    seen = ProgressTracker(tokenizer)
    try:
        while True:
            change = changes.get()
            if isinstance(change, BaseException):
                raise change
            if isinstance(change, Decoded):
                yield Progress(seen.pieces() or (Piece(change.answer.text, "drafted"),), change)
                return
            seen.see(change)
            if changes.empty() and (pieces := seen.pieces()):
                yield Progress(pieces)
                time.sleep(every)
    finally:
        left.set()
