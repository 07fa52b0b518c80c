"""Prompts and texts: a question in the chat template with pictures inside, and what answered tokens say.

Text comes as it grows: what a later token may change waits.
"""

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
