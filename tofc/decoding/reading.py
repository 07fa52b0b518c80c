"""Models that read a prompt and tokens, and share the blocks that they have in common.

Members of a family have their first blocks in common. Here these run once for each position, whichever
member asks first: a verifier goes on from the drafter's states, with its own keys and values alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tofc.decoding.blocks import Grown, Layer, turns
from tofc.errors import UserError
from tofc.familial.branches import text_model
from tofc.familial.family import Family
from tofc.prompt import Prompt


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
        self._prompt = prompt.length
        self._tokens: list[int] = []
        self.readers: list[Blocks] = []

    def follow(self, tokens: Sequence[int]) -> int:
        """Makes `tokens` what follows the prompt, and gives the number of positions in all."""
        same = common(self._tokens, tokens)
        if same < len(self._tokens):
            del self._tokens[same:]
            self._embeds.crop(self._prompt + same)
            for blocks in self.readers:
                blocks.crop(self._prompt + same)
        if fresh := list(tokens[same:]):
            self._embeds.append(self._embedding(torch.tensor(fresh, device=self.cosines.device)))
            self._tokens += fresh
        positions = self._prompt + len(self._tokens)
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
        context.readers.append(self)

    def up_to(self, positions: int) -> Tensor:
        """States [positions, D] after the last block; computes those that are not there yet."""
        have = self._states.length
        if have < positions:
            self._states.append(self._run(self._below.up_to(positions)[have:], have))
        return self._states.rows[:positions]

    def crop(self, positions: int) -> None:
        """Forgets what comes after so many positions."""
        self._states.crop(positions)
        for layer in self._layers:
            layer.crop(positions)

    def _run(self, states: Tensor, start: int) -> Tensor:
        end = start + len(states)
        cosines, sines = self._context.cosines[start:end], self._context.sines[start:end]
        mask = _causal(states, start) if start and len(states) > 1 else None
        for layer in self._layers:
            states = layer(states, cosines, sines, mask)
        return states


class Reader:
    """One member: blocks on a context, then norm and head."""

    def __init__(self, context: Context, blocks: Blocks, model: Any) -> None:
        self._context, self._blocks = context, blocks
        self._norm, self._head = text_model(model).norm, model.lm_head

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[int], last: int = 1) -> Tensor:
        """Logits [last, V]; see `Read`."""
        positions = self._context.follow(tokens)
        states = self._blocks.up_to(positions)[positions - last :]  # [last, D]
        logits: Tensor = self._head(self._norm(states))
        return logits


def readers(family: Family, prompt: Prompt, exits: Iterable[str]) -> dict[str, Reader]:
    """A reader for each exit of one family; the blocks that they share run once.

    UserError for an exit that is not there, and for models whose layers see a window only or are not of the
    Qwen2 kind.
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
    done, found = 0, {}
    for name, member in sorted(members.items(), key=lambda item: item[1].exit_layer):
        model = family.model(name)
        layers = list(text_model(model).layers)
        if member.exit_layer > done:
            below = Blocks(context, below, layers[done : member.exit_layer])
            done = member.exit_layer
        tail = Blocks(context, below, layers[member.exit_layer :])  # of the full model, none
        found[name] = Reader(context, tail, model)
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
