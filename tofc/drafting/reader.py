"""Members that read a prompt and tokens, and share the blocks that they have in common.

Their first blocks run once for each position, whichever member asks first: a verifier goes on from the
drafter's states, with its own keys and values alone. Between machines it can be given these states
(`SharedBlocks`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from tofc.drafting.rounds import MessageError, Round, common
from tofc.familial.views import Family
from tofc.language.prompt import Prompt
from tofc.language.sequences import Sequences

_LARGEST = 1e6  # of any number in a state; those of large models reach some ten thousands


class Read(Protocol):
    """A model that has read a prompt: logits [last, V] of what follows `tokens`.

    The last row follows all of them, the row before it all but one, and so on. Calls may go back: what was
    computed for tokens that are no longer there is dropped.
    """

    def __call__(self, tokens: Sequence[int], last: int = 1) -> Tensor:
        """Logits [last, V]."""


class SharedPrompt:
    """A prompt, and the tokens that members of a family have read behind it."""

    def __init__(self, sequences: Sequences, prompt: Prompt) -> None:
        self.sequences, self.length = sequences, prompt.length
        sequences.extend([prompt])
        self._tokens: list[int] = []

    def follow(self, tokens: Sequence[int]) -> int:
        """Makes `tokens` what follows the prompt, and gives the number of positions in all."""
        same = common(self._tokens, tokens)
        if same < len(self._tokens):
            del self._tokens[same:]
            self.sequences.crop(self.length + same)
        if fresh := list(tokens[same:]):
            self.sequences.append([fresh])
            self._tokens += fresh
        return self.sequences.length


class Reader:
    """One member on a prompt that others may read too."""

    def __init__(self, prompt: SharedPrompt, exit: str) -> None:
        self._prompt, self._exit = prompt, exit

    def __call__(self, tokens: Sequence[int], last: int = 1) -> Tensor:
        """Logits [last, V]; see `Read`."""
        self._prompt.follow(tokens)
        return self._prompt.sequences.logits(self._exit, last)[0]

    def shared(self, depth: int) -> SharedBlocks:
        """Its first `depth` blocks: as many as one of the members that were read together has before its
        branch, or as were to be cut off."""
        return SharedBlocks(self._prompt, depth)


class SharedBlocks:
    """The first blocks of a reader, as far as another machine has them as well: their states may travel."""

    def __init__(self, prompt: SharedPrompt, depth: int) -> None:
        self._prompt, self._stack = prompt, prompt.sequences.stack(depth)

    @torch.inference_mode()
    def run(self, tokens: Sequence[int]) -> None:
        """Computes the states that are not there yet, and waits for them."""
        end = self._prompt.follow(tokens)
        self._stack.states(end - 1, end)[0, 0, 0].item()

    @torch.inference_mode()
    def states(self, tokens: Sequence[int], begin: int) -> bytes:
        """The states of `tokens` from position `begin` of the answer on, as they travel."""
        end = self._prompt.follow(tokens)
        states = self._stack.states(self._prompt.length + begin, end)[0]
        return states.cpu().contiguous().view(torch.uint8).numpy().tobytes()

    @torch.inference_mode()
    def take(self, tokens: Sequence[int], round: Round) -> None:
        """Takes the states that came with a round in place of computing them, as far as they belong to
        `tokens` and go on from what is there. Raises MessageError as `parsed` does."""
        states = self.parsed(round)[: max(0, len(tokens) - round.begin)]
        self._prompt.follow(tokens)
        self._stack.give(states[None], self._prompt.length + round.begin)

    def parsed(self, round: Round) -> Tensor:
        """The states [n, D] of a round; MessageError where they are none of this model."""
        like = self._prompt.sequences.embeddings(0, 0)[0]
        size = round.num_states * like.shape[-1] * like.dtype.itemsize
        if len(round.states) != size:
            raise MessageError(
                f"the states of {round.num_states} tokens take {size} bytes here, not {len(round.states)}"
            )
        states = torch.frombuffer(bytearray(round.states), dtype=like.dtype).view(-1, like.shape[-1])
        if not states.abs().max() <= _LARGEST:  # nor where one is no number
            raise MessageError(f"states hold something that is no number up to {_LARGEST:g}")
        return states.to(like.device)


def readers(family: Family, prompt: Prompt, exits: Iterable[str], cut: int = 0) -> dict[str, Reader]:
    """A reader for each exit of one family; the blocks that they share run once.

    cut: first blocks that are shared with a machine elsewhere, see `Reader.shared`. UserError for an exit
    that is not there.
    """
    found = {name: family.exit(name) for name in exits}
    sequences = Sequences(family.language, list(found.values()), cuts=[cut])
    shared = SharedPrompt(sequences, prompt)
    return {name: Reader(shared, exit.name) for name, exit in found.items()}
