"""Models that read a prompt and tokens, and share the blocks that they have in common.

Members of a family have their first blocks in common. Here these run once for each position, whichever
member asks first: a verifier goes on from the drafter's states, with its own keys and values alone. Between
machines it can be given these states (`Shared`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from tofc.decoding.blocks import Grown, Layer, turns
from tofc.decoding.rounds import MessageError, Round
from tofc.errors import UserError
from tofc.familial.family import Family
from tofc.language.model import text_model
from tofc.language.prompt import Prompt

_LARGEST = 1e6  # of any number in a state; those of large models reach some ten thousands


class Read(Protocol):
    """A model that has read a prompt: logits [last, V] of what follows `tokens`.

    The last row follows all of them, the row before it all but one, and so on. Calls may go back: what was
    computed for tokens that are no longer there is dropped.
    """

    def __call__(self, tokens: Sequence[int], last: int = 1) -> Tensor:
        """Logits [last, V]."""


class Context:
    """A prompt's embeddings and those of the tokens after it, for models with the same embedding."""

    def __init__(self, model: Any, prompt: Prompt) -> None:
        self._embedding, self._rotary = model.get_input_embeddings(), text_model(model).rotary_emb
        with torch.inference_mode():
            embeds, _ = Prompt.batch([prompt], model)  # [1, L, D]
            self._embeds = Grown(embeds[0])
            self.cosines, self.sines = turns(self._rotary, embeds, 0)  # [L, 1, d]
        self.prompt = prompt.length
        self._tokens: list[int] = []
        self.readers: list[Blocks] = []

    def follow(self, tokens: Sequence[int]) -> int:
        """Makes `tokens` what follows the prompt, and gives the number of positions in all."""
        same = common(self._tokens, tokens)
        if same < len(self._tokens):
            del self._tokens[same:]
            self._embeds.crop(self.prompt + same)
            for blocks in self.readers:
                blocks.crop(self.prompt + same)
        if fresh := list(tokens[same:]):
            self._embeds.append(self._embedding(torch.tensor(fresh, device=self.cosines.device)))
            self._tokens += fresh
        positions = self.prompt + len(self._tokens)
        if positions > len(self.cosines):  # as many again, so that this is seldom done
            more = self._embeds.rows.new_empty(1, positions, 1)
            turned = turns(self._rotary, more, len(self.cosines))
            self.cosines = torch.cat([self.cosines, turned[0]])
            self.sines = torch.cat([self.sines, turned[1]])
        return positions

    def up_to(self, positions: int) -> Tensor:
        """Embeddings [positions, D]."""
        return self._embeds.rows[:positions]


class Blocks:
    """Some decoder blocks on top of a context or of other blocks, with their keys, values and outputs."""

    def __init__(self, context: Context, below: Context | Blocks, blocks: Sequence[Any]) -> None:
        self._context, self._below = context, below
        self._layers = [Layer(block) for block in blocks]
        self._states = Grown(below.up_to(0))
        self._cached = (
            0  # positions with keys and values; fewer than there are states, where these were given
        )
        context.readers.append(self)

    def up_to(self, positions: int) -> Tensor:
        """States [positions, D] after the last block; computes those that are not there yet."""
        have, cached = self._states.length, self._cached
        if have < positions:
            states = self._run(self._below.up_to(positions)[cached:], cached)
            self._states.append(states[have - cached :])
            self._cached = positions
        return self._states.rows[:positions]

    def give(self, states: Tensor, start: int) -> None:
        """Takes states [n, D] of positions from `start` on in place of computing them, where they go on from
        those that are there."""
        have = self._states.length
        if start <= have:
            self._states.append(states[have - start :])

    def crop(self, positions: int) -> None:
        """Forgets what comes after so many positions."""
        self._states.crop(positions)
        self._cached = min(self._cached, positions)
        for layer in self._layers:
            layer.crop(positions)

    def _run(self, states: Tensor, start: int) -> Tensor:
        end = start + len(states)
        cosines, sines = self._context.cosines[start:end], self._context.sines[start:end]
        mask = _causal(states, start) if start and len(states) > 1 else None
        for layer in self._layers:
            states = layer(states, cosines, sines, mask)
        return states


class Shared:
    """The first blocks of a reader, as far as another machine has them as well: their states may travel."""

    def __init__(self, context: Context, blocks: Blocks) -> None:
        self._context, self._blocks = context, blocks

    @torch.inference_mode()
    def run(self, tokens: Sequence[int]) -> None:
        """Computes the states that are not there yet, and waits for them."""
        self._blocks.up_to(self._context.follow(tokens))[-1, 0].item()

    @torch.inference_mode()
    def told(self, tokens: Sequence[int], begin: int) -> bytes:
        """The states of `tokens` from position `begin` of the answer on, as they travel."""
        states = self._blocks.up_to(self._context.follow(tokens))[self._context.prompt + begin :]
        return states.cpu().contiguous().view(torch.uint8).numpy().tobytes()

    @torch.inference_mode()
    def take(self, tokens: Sequence[int], round: Round) -> None:
        """Takes the states that came with a round in place of computing them, as far as they belong to
        `tokens` and go on from what is there. Raises MessageError as `parsed` does."""
        states = self.parsed(round)[: max(0, len(tokens) - round.begin)]
        self._context.follow(tokens)
        self._blocks.give(states, self._context.prompt + round.begin)

    def parsed(self, round: Round) -> Tensor:
        """The states [n, D] of a round; MessageError where they are none of this model."""
        like = self._context.up_to(0)
        size = round.num_states * like.shape[-1] * like.dtype.itemsize
        if len(round.states) != size:
            raise MessageError(
                f"the states of {round.num_states} tokens take {size} bytes here, not {len(round.states)}"
            )
        states = torch.frombuffer(bytearray(round.states), dtype=like.dtype).view(-1, like.shape[-1])
        if not states.abs().max() <= _LARGEST:  # nor where one is no number
            raise MessageError(f"states hold something that is no number up to {_LARGEST:g}")
        return states.to(like.device)


class Reader:
    """One member: blocks on a context, then norm and head."""

    def __init__(self, context: Context, cuts: Mapping[int, Blocks], blocks: Blocks, model: Any) -> None:
        self._context, self._cuts, self._blocks = context, cuts, blocks
        self._norm, self._head = text_model(model).norm, model.lm_head

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[int], last: int = 1) -> Tensor:
        """Logits [last, V]; see `Read`."""
        positions = self._context.follow(tokens)
        states = self._blocks.up_to(positions)[positions - last :]  # [last, D]
        logits: Tensor = self._head(self._norm(states))
        return logits

    def shared(self, depth: int) -> Shared:
        """Its first `depth` blocks: as many as one of the members that were read together has before its
        branch, or as were to be cut off."""
        return Shared(self._context, self._cuts[depth])


def readers(family: Family, prompt: Prompt, exits: Iterable[str], cut: int = 0) -> dict[str, Reader]:
    """A reader for each exit of one family; the blocks that they share run once.

    cut: first blocks that are shared with a machine elsewhere, see `Reader.shared`. UserError for an exit
    that is not there, and for models whose layers see a window only or are not of the Qwen2 kind.
    """
    members = {name: family.named(name) for name in exits}
    text = text_model(family.main)
    if set(getattr(text.config, "layer_types", None) or ()) - {"full_attention"}:
        raise UserError(
            "collaborative decoding takes models in which every layer attends to everything; this one has "
            "layers that see a window only: answer without drafts"
        )
    context = Context(family.main, prompt)
    below: Context | Blocks = context
    cuts: dict[int, Blocks] = {}
    layers = list(text.layers)
    for begin, end in pairwise(sorted({0, cut} | {member.exit_layer for member in members.values()})):
        below = cuts[end] = Blocks(context, below, layers[begin:end])
    found = {}
    for name, member in members.items():
        model = family.model(name)
        tail = list(text_model(model).layers)[member.exit_layer :]  # of the full model, none
        tail_blocks = Blocks(context, cuts.get(member.exit_layer, context), tail)
        found[name] = Reader(context, cuts, tail_blocks, model)
    return found


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    pairs = enumerate(zip(first, second))  # noqa: B905 - the shorter one ends it
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _causal(states: Tensor, start: int) -> Tensor:
    """What is added to attention scores [n, start + n]: nothing up to the diagonal, -inf after it."""
    new = len(states)
    full = torch.full((new, start + new), float("-inf"), device=states.device, dtype=states.dtype)
    return full.triu(start + 1)
