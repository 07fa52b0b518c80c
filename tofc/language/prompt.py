"""Prompts: a question in the model's chat template, with projected pictures in place of its image tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tofc.errors import CheckpointError, UserError
from tofc.hub import checkpoint_faults, small_files
from tofc.language.special import prompt_ids

if TYPE_CHECKING:
    from transformers import LlavaOnevisionConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """One prompt of `length` positions: token ids with one image token per visual position, and the pictures.

    `ids` int64 [L]; `pictures` embeddings [n, D] of each picture, in order; `timing` what it took to make
    them. Of the positions the first `num_shared`, up to the last visual one, are there for any question.
    """

    ids: torch.Tensor
    pictures: Sequence[torch.Tensor]
    timing: Mapping[str, float]
    num_shared: int = 0

    @property
    def length(self) -> int:
        """Positions L that the prompt takes in the language model."""
        return self.ids.numel()

    def split(self) -> tuple[Prompt, Prompt]:
        """What the pictures bring, and what the question adds."""
        head, tail = self.ids[: self.num_shared], self.ids[self.num_shared :]
        return Prompt(head, self.pictures, self.timing, self.num_shared), Prompt(tail, (), self.timing)

    @classmethod
    def build(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        config: LlavaOnevisionConfig,
        question: str,
        pictures: Sequence[torch.Tensor],
        timing: Mapping[str, float] | None = None,
    ) -> Prompt:
        """Renders and tokenises one turn, pictures first; UserError for an empty question."""
        if not isinstance(question, str):
            raise UserError(
                f"the question is a {type(question).__name__}, not a text: the packet comes first, the "
                "question behind it"
            )
        if not question.strip():
            raise UserError("the question is empty; ask something about the picture")
        content: Any = [*({"type": "image"} for _ in pictures), {"type": "text", "text": question}]
        turns = [{"role": "user", "content": content}]
        return cls.of_turns(tokenizer, template, config, turns, pictures, timing)

    @classmethod
    def of_turns(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        config: LlavaOnevisionConfig,
        turns: Sequence[Mapping[str, Any]],
        pictures: Sequence[torch.Tensor],
        timing: Mapping[str, float] | None = None,
    ) -> Prompt:
        """Renders and tokenises a conversation in the messages of chat templates, up to the next answer.

        `pictures` are those of its parts of type "image", in order; UserError where their numbers differ.
        Texts stay texts, special tokens in them included.
        """
        ids = torch.tensor(prompt_ids(tokenizer, template, turns))
        is_image = ids == config.image_token_index
        if int(is_image.sum()) != len(pictures):
            raise UserError(
                f"the chat template writes {int(is_image.sum())} image tokens for {len(pictures)} pictures; "
                "it has to write one for each part of type image"
            )
        repeats = torch.ones_like(ids)
        repeats[is_image] = torch.tensor([p.shape[0] for p in pictures], dtype=torch.int64)
        visual = is_image.repeat_interleave(repeats).nonzero()
        num_shared = int(visual[-1]) + 1 if len(visual) else 0
        return cls(ids.repeat_interleave(repeats), pictures, dict(timing or {}), num_shared)

    @staticmethod
    def batch(prompts: Sequence[Prompt], model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded `inputs_embeds` [B, L, D] and attention mask int64 [B, L] of several prompts."""
        embedding = model.get_input_embeddings()
        longest = max(prompt.length for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)  # nothing ever attends to padding
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - prompt.length :] = prompt.ids
            mask[row, longest - prompt.length :] = 1
        where = embedding.weight.device
        ids, mask = ids.to(where), mask.to(where)
        embeds = embedding(ids)  # [B, L, D]
        pictures = [picture for prompt in prompts for picture in prompt.pictures]
        if pictures:
            visual = torch.cat(pictures).to(embeds)  # [sum n, D]
            shown = (ids == model.config.image_token_index) & mask.bool()
            embeds = embeds.masked_scatter(shown[..., None], visual)
        return embeds, mask


def chat_template(base: str | Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template of a checkpoint: its processor's, where it has one, else its tokenizer's."""
    from transformers import LlavaOnevisionProcessor

    with checkpoint_faults():
        values, _ = LlavaOnevisionProcessor.get_processor_dict(str(small_files(base)))
    template = values.get("chat_template") or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise CheckpointError(f"{base} has no chat template; save its processor beside the model")
    return template


def end_ids(tokenizer: PreTrainedTokenizerBase, model: Any) -> frozenset[int]:
    """Ids that end an answer: of the sequence, of a turn, and what the model's config names."""
    named = model.config.get_text_config().eos_token_id
    ends = {named} if isinstance(named, int) else set(named or ())
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if isinstance(turn, int) and turn != tokenizer.unk_token_id:
        ends.add(turn)
    if not ends:
        raise CheckpointError("neither tokenizer nor config says which token ends an answer (eos_token)")
    return frozenset(ends)
