"""Continuous batching: sequences of any length join a batch, and leave it, between two tokens.

Every step decodes one token of each sequence that is there; keys and values are padded on the left, where
nothing attends. Prompts begin with their pictures: what was prefilled for one question serves the next, as
long as there is room to keep it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from tofc.language.model import Exit, LanguageModel
from tofc.language.prompt import Prompt
from tofc.language.sampling import GREEDY, Sampling, likeliest, probability
from tofc.language.sequences import Sequences

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


@dataclass(eq=False)
class Generation:
    """A prompt and the tokens that followed it, without the one that ended them.

    `confidence` is the least probability that the model gave any of them, the one that ends it included.
    `finish_reason` is "stop" or "length" once it has ended; `leave` ends it early. `fault` is what broke
    while its token was chosen, and ends it alone. Those with the same `prefix_key` begin with the same
    pictures.
    """

    prompt: Prompt
    max_new_tokens: int
    sampling: Sampling = GREEDY
    prefix_key: bytes | None = None
    tokens: list[int] = field(default_factory=list)
    confidence: float = 1.0
    finish_reason: str | None = None
    fault: Exception | None = None
    _random: torch.Generator | None = None

    def leave(self, reason: str) -> None:
        """Ends it before its next token."""
        self.finish_reason = self.finish_reason or reason

    def take(self, logits: Tensor, best: int, share: float, ends: frozenset[int]) -> None:
        """The next token from logits [V], of which `best` is the likeliest, with this probability."""
        token = best
        if not self.sampling.is_greedy:
            if self._random is None:
                self._random = self.sampling.generator()
            token = self.sampling.draw(logits, self._random)
            share = probability(logits, token)
        self.confidence = min(self.confidence, share)
        if token in ends:
            self.leave("stop")
            return
        self.tokens.append(token)
        if len(self.tokens) == self.max_new_tokens:
            self.leave("length")


class Batch:
    """The sequences that one exit of a model decodes together; not for use by several threads.

    `kept_positions` is how many positions of prompts' beginnings are kept, for further questions about the
    same pictures.
    """

    def __init__(
        self, model: LanguageModel, exit: Exit, ends: frozenset[int], kept_positions: int = 0
    ) -> None:
        self._model, self._exit, self._ends = model, exit, ends
        self._prefixes: LeastRecentCache[Sequences] = LeastRecentCache(kept_positions)
        self.rows: list[Generation] = []
        self._sequences: Sequences | None = None

    def positions(self, row: Generation) -> int:
        """How many positions `join` has to compute for a row."""
        known = row.prompt.num_shared if row.prefix_key in self._prefixes else 0
        return row.prompt.length - known

    def prefill(self, rows: Iterable[Generation]) -> None:
        """Computes and keeps the beginnings of rows, as far as there is room; they join later."""
        fresh = {row.prefix_key: row.prompt.split()[0] for row in rows if row.prefix_key is not None}
        if fresh:
            sequences = self._begin(list(fresh.values()))
            sequences.run(self._exit.name)
            for number, (key, prompt) in enumerate(fresh.items()):
                self._keep(key, sequences, number, sequences.length - prompt.length, prompt.length)

    def join(self, rows: Sequence[Generation]) -> None:
        """Prefills rows together, gives each its first token and adds them to the batch.

        Of rows whose pictures were asked about before, only what follows the pictures is computed.
        """
        self._drop_ended()
        held = [self._prefixes.get(row.prefix_key) for row in rows]
        known = [(row, prefix) for row, prefix in zip(rows, held, strict=True) if prefix is not None]
        fresh = [row for row, prefix in zip(rows, held, strict=True) if prefix is None]
        parts = [] if self._sequences is None else [self._sequences]
        if fresh:
            parts.append(self._prefilled(fresh))
        if known:
            parts.append(self._continued(known))
        if parts:
            self._sequences = parts[0] if len(parts) == 1 else Sequences.joined(parts)
        self.rows = [*self.rows, *fresh, *(row for row, _ in known)]

    def resume(self, row: Generation) -> None:
        """Adds a row of another batch, which broke: its prompt with its tokens is computed again."""
        self._drop_ended()
        sequences = self._begin([row.prompt])
        if row.tokens:
            sequences.run(self._exit.name)
            sequences.append([row.tokens])
        self._choose([row], sequences)
        parts = [part for part in (self._sequences, sequences) if part is not None]
        self._sequences = parts[0] if len(parts) == 1 else Sequences.joined(parts)
        self.rows = [*self.rows, row]

    def step(self) -> None:
        """One more token for every row; rows that have ended leave first."""
        self._drop_ended()
        if self._sequences is not None:
            self._sequences.append([[row.tokens[-1]] for row in self.rows])
            self._choose(self.rows, self._sequences)

    def run(self) -> None:
        """Steps until every row has ended."""
        while self.rows:
            self.step()

    def _begin(self, prompts: Sequence[Prompt]) -> Sequences:
        sequences = Sequences(self._model, [self._exit], keep=False)
        sequences.extend(prompts)
        return sequences

    def _prefilled(self, rows: Sequence[Generation]) -> Sequences:
        """Whole prompts; their beginnings are kept for later ones."""
        sequences = self._begin([row.prompt for row in rows])
        self._choose(rows, sequences)
        for number, row in enumerate(rows):
            begin = sequences.length - row.prompt.length
            self._keep(row.prefix_key, sequences, number, begin, row.prompt.num_shared)
        return sequences

    def _continued(self, known: Sequence[tuple[Generation, Sequences]]) -> Sequences:
        """Prompts whose beginnings are there."""
        sequences = Sequences.joined([prefix for _, prefix in known])
        sequences.extend([row.prompt.split()[1] for row, _ in known])
        self._choose([row for row, _ in known], sequences)
        return sequences

    def _keep(self, key: bytes | None, sequences: Sequences, row: int, begin: int, length: int) -> None:
        if key is not None and self._prefixes.has_room(key, length):
            self._prefixes.put(key, sequences.part(row, begin, begin + length), length)

    def _choose(self, rows: Sequence[Generation], sequences: Sequences) -> None:
        logits = sequences.logits(self._exit.name)[:, -1]  # [B, V]
        for row, scores, best, share in zip(rows, logits, *likeliest(logits), strict=True):
            try:
                row.take(scores, best, share, self._ends)
            except Exception as error:  # one request's settings must not fail those beside it
                row.fault = error
                row.leave("failed")

    def _drop_ended(self) -> None:
        staying = [index for index, row in enumerate(self.rows) if row.finish_reason is None]
        if len(staying) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in staying]
        if not staying:
            self._sequences = None
        elif self._sequences is not None:
            self._sequences.select(staying)
