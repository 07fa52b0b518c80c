"""Many questions about one picture in one sequence, each blind to the others.

The picture's tokens stand once at the front; a block mask lets every question see them and itself alone, and
positions restart after the picture, so that the logits equal those of separate single-question sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tofc.training.data import Turn

IGNORED = -100
Segment = tuple[list[int], list[int], list[float]]  # tokens, targets and weights of one question


@dataclass(frozen=True)
class PackedBatch:
    """Text of a batch, to stand behind `prefix_ids` + visual embeddings.

    `prefix_ids` [P] opens the turn before the picture. `input_ids`, `targets` (-100 where nothing is
    learned), `segments` (question number, -1 padding), `offsets` (position within the question) and
    `weights` are [B, T].
    """

    prefix_ids: Tensor
    input_ids: Tensor
    targets: Tensor
    segments: Tensor
    offsets: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on `device`."""
        return PackedBatch(**{name: value.to(device) for name, value in vars(self).items()})


class Packer:
    """Turns questions and answers into packed token sequences under a tokenizer's own chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_token: str, round_to: int = 32) -> None:
        self.tokenizer, self.image_token, self.round_to = tokenizer, image_token, round_to
        prefix, _ = self._around_picture("")
        self.prefix_ids: list[int] = tokenizer(prefix, add_special_tokens=False).input_ids
        self._cache: dict[str, list[int]] = {}

    def _around_picture(self, prompt: str) -> tuple[str, str]:
        content: Any = [
            {"type": "image"},
            {"type": "text", "text": prompt},
        ]  # typed by transformers as text only
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        before, _, after = str(text).partition(self.image_token)
        return before, after

    def _question_ids(self, prompt: str) -> list[int]:
        ids = self._cache.get(prompt)
        if ids is None:
            ids = self.tokenizer(self._around_picture(prompt)[1], add_special_tokens=False).input_ids
            if len(self._cache) < 200_000:
                self._cache[prompt] = ids
        return ids

    def _segment(self, turn: Turn) -> Segment:
        question = self._question_ids(turn.prompt)
        answer = [
            *self.tokenizer(turn.answer, add_special_tokens=False).input_ids,
            self.tokenizer.eos_token_id,
        ]
        ids = question + answer[:-1]
        targets = [IGNORED] * (len(question) - 1) + answer
        # The end of an answer is easy and comes with every one: do not let it outweigh the answer.
        weights = [0.0] * (len(question) - 1) + [turn.weight] * (len(answer) - 1) + [0.2 * turn.weight]
        return ids, targets, weights

    @staticmethod
    def _fitting(segments: list[Segment], max_length: int | None) -> list[Segment]:
        if max_length is None:
            return segments
        kept: list[Segment] = []
        room = max_length
        for segment in segments:
            if len(segment[0]) <= room or not kept:
                kept.append(segment)
                room -= len(segment[0])
        return kept

    def pack(self, dialogues: list[tuple[Turn, ...]], max_length: int | None = None) -> PackedBatch:
        """Packs one tuple of turns per picture into a `PackedBatch`, padded to a multiple of `round_to`.

        With `max_length`, turns that no longer fit into so many tokens are left out: rows of equal length
        waste nothing on padding.
        """
        rows = [self._fitting([self._segment(turn) for turn in turns], max_length) for turns in dialogues]
        longest = max(sum(len(ids) for ids, _, _ in row) for row in rows)
        length = -(-longest // self.round_to) * self.round_to
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
        return PackedBatch(torch.tensor(self.prefix_ids), input_ids, targets, segments, offsets, weights)


def attention_mask(segments: Tensor, num_shared: int) -> Tensor:
    """Boolean mask [B, 1, L, L] (True = may look) for `num_shared` leading tokens and `segments` [B, T].

    Shared tokens are causal among themselves and seen by all; a question sees its own past. Nobody sees
    padding but padding.
    """
    batch, length = segments.shape
    shared = segments.new_full((batch, num_shared), -2)
    ids = torch.cat([shared, segments], dim=1)  # [B, L]
    total = num_shared + length
    causal = torch.ones(total, total, dtype=torch.bool, device=segments.device).tril()
    same = ids[:, :, None] == ids[:, None, :]
    to_shared = (ids[:, :, None] != -1) & (ids[:, None, :] == -2)
    mask = (same | to_shared) & causal
    return mask[:, None]


def position_ids(offsets: Tensor, num_shared: int) -> Tensor:
    """Positions [B, L]: 0 .. num_shared-1, then each question from num_shared on."""
    shared = torch.arange(num_shared, device=offsets.device).expand(offsets.shape[0], -1)
    return torch.cat([shared, offsets + num_shared], dim=1)
