"""Sequences on their way through a family's blocks: each block once for each position, whoever asks.

Members of a family have their first blocks in common. Positions run through a block when somebody asks for
what comes after it: a deeper exit goes on from the states of a shallower one, with its own keys and values
alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tofc.language.blocks import CachedBlock, Positions, RowBuffer
from tofc.language.model import Exit, LanguageModel
from tofc.language.prompt import Prompt


class Sequences:
    """B sequences of `length` positions, padded on the left; tokens are appended, and cropped again.

    exits: those that may be asked; cuts: numbers of blocks after which states are to be had besides. With
    `keep` states stay, so that exits may be asked in any order, and about positions before the last; without,
    one exit is asked after every step.
    """

    def __init__(
        self, model: LanguageModel, exits: Sequence[Exit], *, keep: bool = True, cuts: Iterable[int] = ()
    ) -> None:
        self.model, self.exits, self.keep = model, {exit.name: exit for exit in exits}, keep
        self.length = 0
        self._counts: list[int] = []  # positions of each sequence, without padding
        self._shown: Tensor | None = None  # bool [B, length], where one is padded
        self._embeddings: RowBuffer | None = None
        self._positions: Positions | None = None  # of the last pass
        depths = sorted({0, *cuts, *(exit.depth for exit in exits)})
        self._stacks: dict[int, BlockStack] = {}  # by the number of blocks after which their states stand
        below: BlockStack | None = None
        for begin, end in pairwise(depths):
            below = self._stacks[end] = BlockStack(self, below, model.blocks[begin:end])
        self._tails = {
            exit.name: BlockStack(self, self._stacks.get(exit.depth), exit.blocks) for exit in exits
        }

    def __len__(self) -> int:
        return len(self._counts)

    @torch.inference_mode()
    def extend(self, prompts: Sequence[Prompt]) -> None:
        """Appends a prompt, or the rest of one, to each sequence; the first ones make the sequences."""
        embeddings, mask = Prompt.batch(prompts, self.model.model)
        lengths = [prompt.length for prompt in prompts]
        self._append(embeddings, lengths, mask.bool() if len(set(lengths)) > 1 else None)

    @torch.inference_mode()
    def append(self, tokens: Sequence[Sequence[int]]) -> None:
        """Appends as many tokens to each sequence as to the others."""
        ids = torch.tensor(tokens, device=self.model.device)  # [B, n]
        self._append(self.model.embed(ids), [ids.shape[1]] * len(ids), None)

    def _append(self, embeddings: Tensor, lengths: list[int], shown: Tensor | None) -> None:
        if self._embeddings is None:
            self._embeddings, self._counts = RowBuffer(embeddings[:, :0], self.keep), [0] * len(lengths)
        if self._shown is not None or shown is not None:
            parts = [
                embeddings.new_ones(len(lengths), num, dtype=torch.bool) if part is None else part
                for part, num in ((self._shown, self.length), (shown, embeddings.shape[1]))
            ]
            self._shown = torch.cat(parts, dim=1)
        self._embeddings.append(embeddings)
        self._counts = [count + length for count, length in zip(self._counts, lengths, strict=True)]
        self.length += embeddings.shape[1]

    def crop(self, length: int) -> None:
        """Forgets the tokens after so many positions."""
        if length >= self.length or self._embeddings is None:
            return
        self._counts = [count - (self.length - length) for count in self._counts]
        self.length = length
        if self._shown is not None:
            self._shown = self._shown[:, :length]
        self._embeddings.crop(length)
        for stack in self._all_stacks:
            stack.crop(length)

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Goes on with these sequences alone; where nothing is kept, without the padding that all have."""
        self._counts = [self._counts[row] for row in rows]
        unused = 0 if self.keep else self.length - max(self._counts, default=0)
        chosen = torch.tensor(rows, dtype=torch.int64, device=self.model.device)
        if self._shown is not None:
            # Nobody's first positions are shown there: padding between prefix and question stays.
            unused = min(unused, int(self._shown[chosen].any(0).to(torch.int8).argmax()))
            padded = any(count < self.length - unused for count in self._counts)
            self._shown = self._shown[chosen, unused:] if padded else None
        self.length -= unused
        if self._embeddings is not None:
            self._embeddings.select(chosen, unused)
        for stack in self._all_stacks:
            stack.select(chosen, unused)

    @torch.inference_mode()
    def logits(self, exit: str, last: int = 1) -> Tensor:
        """Logits [B, last, V] of what follows the last positions, as this exit says it."""
        found = self.exits[exit]
        return found.logits(self._tails[exit].states(self.length - last, self.length))

    @torch.inference_mode()
    def run(self, exit: str) -> None:
        """Takes all positions through the blocks of an exit."""
        self._tails[exit].states(self.length - 1, self.length)

    def stack(self, depth: int) -> BlockStack:
        """The first `depth` blocks: as many as an exit has before its own, or as were to be cut off."""
        return self._stacks[depth]

    def embeddings(self, start: int, end: int) -> Tensor:
        """Embeddings [B, n, D] of positions `start` to `end`."""
        assert self._embeddings is not None
        return self._embeddings.rows(start, end)

    def positions(self, start: int, end: int) -> Positions:
        """What blocks are told of these positions."""
        last = self._positions
        if last is None or (last.start, last.end) != (start, end) or last.shown is not self._shown_to(end):
            last = self._positions = self._made_positions(start, end)
        return last

    def _shown_to(self, end: int) -> Tensor | None:
        if self._shown is None or end == self.length:
            return self._shown
        return self._shown[:, :end]

    def _made_positions(self, start: int, end: int) -> Positions:
        cosines, sines = self.model.rotary(self.length)
        shown = self._shown_to(end)
        if shown is None:
            return Positions(start, end, cosines[None, start:end], sines[None, start:end], None)
        ids = (shown.cumsum(-1) - 1).clamp(min=0)[:, start:]  # padding is not counted
        return Positions(start, end, cosines[ids], sines[ids], shown)

    @property
    def _all_stacks(self) -> list[BlockStack]:
        return [*self._stacks.values(), *self._tails.values()]

    @torch.inference_mode()
    def part(self, row: int, first: int, last: int) -> Sequences:
        """A copy of what blocks hold of positions `first` to `last` of one sequence, all of them shown."""
        found = Sequences(self.model, list(self.exits.values()), keep=self.keep)
        found.length, found._counts = last - first, [last - first]
        for copy, stack in zip(found._all_stacks, self._all_stacks, strict=True):
            copy.take(stack, row, first, last)
        return found

    @staticmethod
    @torch.inference_mode()
    def joined(parts: Sequence[Sequences]) -> Sequences:
        """The sequences of all parts, one after another: of the same exits, with nothing kept."""
        first = parts[0]
        found = Sequences(first.model, list(first.exits.values()), keep=False)
        found.length = max(part.length for part in parts)
        found._counts = [count for part in parts for count in part._counts]
        if any(count < found.length for count in found._counts):
            found._shown = torch.cat([part._padded_to(found.length) for part in parts])
        for number, stack in enumerate(found._all_stacks):
            stack.join([part._all_stacks[number] for part in parts])
        empty = first.model.embed(torch.zeros(len(found), 0, dtype=torch.int64, device=first.model.device))
        found._embeddings = RowBuffer(empty, keep=False, begin=found.length)
        return found

    def _padded_to(self, length: int) -> Tensor:
        shown = torch.zeros(len(self), length, dtype=torch.bool, device=self.model.device)
        shown[:, length - self.length :] = True if self._shown is None else self._shown
        return shown


class BlockStack:
    """Some decoder blocks on top of others, with the states that come out of them."""

    def __init__(self, sequences: Sequences, below: BlockStack | None, blocks: Sequence[nn.Module]) -> None:
        self._sequences, self._below = sequences, below
        self.blocks = [CachedBlock(block) for block in blocks]
        self._states: RowBuffer | None = None
        # Positions with keys and values. States that came from elsewhere have none yet.
        self._cached = 0

    def states(self, start: int, end: int) -> Tensor:
        """States [B, n, D] of positions `start` to `end`; runs those that are not there yet."""
        if not self.blocks:
            return self._input(start, end)
        have = 0 if self._states is None else self._states.length
        if have < end:
            states = self._run(self._input(self._cached, end), self._cached, end)
            if self._states is None:
                begin = 0 if self._sequences.keep else self._cached
                self._states = RowBuffer(states[:, :0], self._sequences.keep, begin)
                have = self._cached
            self._states.append(states[:, have - self._cached :])
            self._cached = end
        assert self._states is not None
        return self._states.rows(start, end)

    def _input(self, start: int, end: int) -> Tensor:
        if self._below is None:
            return self._sequences.embeddings(start, end)
        return self._below.states(start, end)

    def _run(self, states: Tensor, start: int, end: int) -> Tensor:
        positions = self._sequences.positions(start, end)
        flat = states.reshape(-1, states.shape[-1])  # [B n, D]
        for block in self.blocks:
            flat = block(flat, positions)
        return flat.view(states.shape)

    def give(self, states: Tensor, start: int) -> None:
        """Takes states [1, n, D] of positions from `start` on in place of computing them, where they go on
        from those that are there."""
        have = 0 if self._states is None else self._states.length
        if start <= have:
            if self._states is None:
                self._states = RowBuffer(states[:, :0])
            self._states.append(states[:, have - start :])

    def crop(self, length: int) -> None:
        """Forgets what comes after so many positions."""
        if self._states is not None:
            self._states.crop(length)
        self._cached = min(self._cached, length)
        for block in self.blocks:
            block.crop(length)

    def select(self, chosen: Tensor, first: int) -> None:
        """Keeps these sequences, without their first positions."""
        if self._states is not None:
            self._states.select(chosen, first)
        self._cached = max(0, self._cached - first)
        for block in self.blocks:
            block.select(chosen, first)

    def take(self, stack: BlockStack, row: int, first: int, last: int) -> None:
        """Copies keys and values of some positions of one sequence of another stack of the same blocks."""
        self.blocks = [block.part(row, first, last) for block in stack.blocks]
        self._cached = last - first

    def join(self, stacks: Sequence[BlockStack]) -> None:
        """Takes over the sequences of other stacks of the same blocks."""
        self.blocks = [CachedBlock.joined(same) for same in zip(*(s.blocks for s in stacks), strict=True)]
        self._cached = self._sequences.length
