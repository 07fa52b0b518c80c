"""Many conversations about one picture in one sequence, each blind to the others.

The picture's tokens stand once at the front; a block mask lets every conversation see them and itself alone,
and positions restart after the picture, so that the logits equal those of separate sequences. A row without
picture sees nothing of the front, and its positions start at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionProcessor, PreTrainedTokenizerBase

from tofc.training.data import Turn

IGNORED = -100
_MARK = "\ue000"  # stands for an answer while the template is looked at; private use, in no sensible text

Segment = tuple[list[int], list[int], list[float]]  # tokens, targets and weights of one conversation


@dataclass(frozen=True)
class PackedBatch:
    """Text of a batch, to stand behind `prefix_ids` + visual embeddings.

    `prefix_ids` [P] opens the turn before the picture. `input_ids`, `targets` (-100 where nothing is
    learned), `segments` (conversation number, -1 padding), `offsets` (position within the conversation) and
    `weights` are [B, T]; `has_picture` is bool [B].
    """

    prefix_ids: Tensor
    input_ids: Tensor
    targets: Tensor
    segments: Tensor
    offsets: Tensor
    weights: Tensor
    has_picture: Tensor

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on `device`."""
        return PackedBatch(**{name: value.to(device) for name, value in vars(self).items()})


class Packer:
    """Turns conversations into packed token sequences under a chat template.

    `template` is the tokenizer's own unless given: published processors bring theirs, which comes first. The
    end of an answer is easy and comes with every one: it weighs `end_weight` of each other token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_token: str,
        round_to: int = 32,
        template: str | None = None,
        end_weight: float = 0.2,
    ) -> None:
        self.tokenizer, self.image_token, self.round_to = tokenizer, image_token, round_to
        self.template, self.end_weight = template, end_weight
        self._prefix = self._render(["?"], [], True).partition(image_token)[0]
        self.prefix_ids: list[int] = self._tokens(self._prefix)
        self._cache: dict[tuple[str, bool], list[int]] = {}

    @classmethod
    def of(cls, processor: LlavaOnevisionProcessor, end_weight: float = 0.2) -> Packer:
        """For the chat template of a processor."""
        untyped: Any = processor  # typed by transformers with possibly several templates, and any tokenizer
        template = untyped.chat_template
        return cls(untyped.tokenizer, untyped.image_token, template=template, end_weight=end_weight)

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _render(self, prompts: Sequence[str], answers: Sequence[str], has_picture: bool) -> str:
        """The conversation up to where the answer to the last prompt begins."""
        messages = []
        for number, text in enumerate(chain(*zip(prompts, [*answers, ""], strict=True))):
            content: Any = [{"type": "text", "text": text}]  # typed by transformers as text only
            if number == 0 and has_picture:
                content = [{"type": "image"}, *content]
            messages.append({"role": "assistant" if number % 2 else "user", "content": content})
        rendered = self.tokenizer.apply_chat_template(
            messages[:-1], chat_template=self.template, add_generation_prompt=True, tokenize=False
        )
        return str(rendered)

    def _openings(self, turns: Sequence[Turn], has_picture: bool) -> list[list[int]]:
        """Tokens that stand before each answer of a conversation; behind the picture, where there is one."""
        key = (turns[0].prompt, has_picture)
        if len(turns) == 1 and key in self._cache:
            return [self._cache[key]]
        prompts, answers = [turn.prompt for turn in turns], [turn.answer for turn in turns[:-1]]
        texts = self._render(prompts, [_MARK] * len(answers), has_picture).split(_MARK)
        joined = "".join(chain(*zip(texts, [*answers, ""], strict=False)))
        if len(texts) != len(turns) or joined != self._render(prompts, answers, has_picture):
            raise ValueError(
                f"the chat template does not leave the answers of a conversation as they are (it begins with "
                f"{prompts[0][:60]!r}): use a template that writes each answer unchanged and once, or give "
                "every turn a conversation of its own (continues=False)"
            )
        if has_picture:
            before, image, texts[0] = texts[0].partition(self.image_token)
            if before != self._prefix or not image or self.image_token in texts[0]:
                raise ValueError(
                    f"{prompts[0][:60]!r} does not render as one picture behind {self._prefix!r}: take "
                    f"{self.image_token} out of the text, the template puts the picture in"
                )
        openings = [self._tokens(text) for text in texts]
        if any(opening[:1] != [self.tokenizer.eos_token_id] for opening in openings[1:]):
            raise ValueError(
                f"the chat template closes an answer with {texts[1][:20]!r}, the tokenizer ends a text with "
                f"{self.tokenizer.eos_token!r}: set eos_token to what closes an answer"
            )
        if len(turns) == 1 and len(self._cache) < 200_000:
            self._cache[key] = openings[0]
        return openings

    def _segment(self, turns: Sequence[Turn], has_picture: bool) -> Segment:
        ids: list[int] = []
        weights: list[float] = []  # of predicting the token at this place; none is learned where it is 0
        for opening, turn in zip(self._openings(turns, has_picture), turns, strict=True):
            answer = self._tokens(turn.answer)
            # An opening in the middle begins with the end of the answer before it, which has its weight.
            ids += [*opening[bool(ids) :], *answer, self.tokenizer.eos_token_id]
            weights += [0.0] * len(opening[bool(weights) :])
            weights += [turn.weight] * len(answer) + [self.end_weight * turn.weight]
        targets = [token if weight else IGNORED for token, weight in zip(ids, weights, strict=True)]
        return ids[:-1], targets[1:], weights[1:]

    def _fitting(self, turns: Sequence[Turn], has_picture: bool, max_length: int | None) -> list[Segment]:
        kept: list[Segment] = []
        room = max_length
        for conversation in conversations(turns):
            for count in range(len(conversation), 0, -1):
                segment = self._segment(conversation[:count], has_picture)
                if room is None or len(segment[0]) <= room:
                    break
                if count == 1 and not kept:
                    # Something has to stay, or the row would be empty: the beginning, as far as it goes.
                    segment = (segment[0][:room], segment[1][:room], segment[2][:room])
                    break
            else:
                continue
            kept.append(segment)
            room = None if room is None else room - len(segment[0])
        return kept

    def pack(
        self,
        dialogues: Sequence[tuple[Turn, ...]],
        max_length: int | None = None,
        has_picture: Sequence[bool] | None = None,
    ) -> PackedBatch:
        """Packs one tuple of turns per row into a `PackedBatch`, padded to a multiple of `round_to`.

        `has_picture` says which rows have one (None: all). With `max_length`, each conversation keeps as many
        of its first turns as still fit into so many tokens, and is left out where not even one does: rows of
        equal length waste nothing on padding. Only where that would leave the row empty is its first turn cut
        off at the end. Raises ValueError where the template does not let answers be told from the rest.
        """
        shown = [True] * len(dialogues) if has_picture is None else list(has_picture)
        rows = [self._fitting(turns, p, max_length) for turns, p in zip(dialogues, shown, strict=True)]
        longest = max(sum(len(ids) for ids, _, _ in row) for row in rows)
        length = -(-max(longest, 1) // self.round_to) * self.round_to
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.tokenizer.pad_token_id, dtype=torch.long)
        targets = torch.full(shape, IGNORED, dtype=torch.long)
        segments = torch.full(shape, -1, dtype=torch.long)
        offsets = torch.zeros(shape, dtype=torch.long)
        weights = torch.zeros(shape)
        for i, row in enumerate(rows):
            start = 0
            for number, (ids, target, weight) in enumerate(row):
                stop = start + len(ids)
                input_ids[i, start:stop] = torch.tensor(ids)
                targets[i, start:stop] = torch.tensor(target)
                weights[i, start:stop] = torch.tensor(weight)
                segments[i, start:stop] = number
                offsets[i, start:stop] = torch.arange(len(ids))
                start = stop
        prefix = torch.tensor(self.prefix_ids)
        return PackedBatch(prefix, input_ids, targets, segments, offsets, weights, torch.tensor(shown))


def conversations(turns: Sequence[Turn]) -> list[list[Turn]]:
    """The turns of a row, a list for each conversation; ValueError where the first turn continues nothing."""
    grouped: list[list[Turn]] = []
    for turn in turns:
        if not turn.continues:
            grouped.append([])
        if not grouped:
            raise ValueError(f"the first turn ({turn.prompt[:60]!r}) continues, and there is nothing before")
        grouped[-1].append(turn)
    return grouped


def attention_mask(segments: Tensor, num_shared: int, has_picture: Tensor | None = None) -> Tensor:
    """Boolean mask [B, 1, L, L] (True = may look) for `num_shared` leading tokens and `segments` [B, T].

    Shared tokens are causal among themselves and seen by all of a row whose `has_picture` [B] (None: all) is
    true; a conversation sees its own past. Nobody sees padding but padding.
    """
    batch, length = segments.shape
    shared = segments.new_full((batch, num_shared), -2)
    ids = torch.cat([shared, segments], dim=1)  # [B, L]
    total = num_shared + length
    causal = torch.ones(total, total, dtype=torch.bool, device=segments.device).tril()
    same = ids[:, :, None] == ids[:, None, :]
    to_shared = (ids[:, :, None] != -1) & (ids[:, None, :] == -2)
    if has_picture is not None:
        to_shared = to_shared & has_picture[:, None, None]
    mask = (same | to_shared) & causal
    return mask[:, None]


def position_ids(offsets: Tensor, num_shared: int, has_picture: Tensor | None = None) -> Tensor:
    """Positions [B, L]: 0 .. num_shared-1, then each conversation from num_shared on, or from 0 without
    picture."""
    shared = torch.arange(num_shared, device=offsets.device).expand(offsets.shape[0], -1)
    start = num_shared if has_picture is None else num_shared * has_picture.long()[:, None]
    return torch.cat([shared, offsets + start], dim=1)
