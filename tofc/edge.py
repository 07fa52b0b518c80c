"""The edge side: packet -> codec -> projector -> language model -> answer. No vision tower is read."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from entropy import FeatureCodec
from tofc.answer import Answer
from tofc.clock import Stopwatch
from tofc.config import CheckpointConfig, resolve
from tofc.errors import CheckpointError, UserError
from tofc.familial.index import Policy, check_exit, no_policy
from tofc.familial.members import AUTO
from tofc.familial.store import index_of, loader
from tofc.familial.views import Family
from tofc.features import Features, check_codec, unpack
from tofc.hub import load_codec
from tofc.images import MAX_PIXELS
from tofc.language.batch import Batch, Generation
from tofc.language.generate import Generated, generate, generate_by_choice, generate_with_settings
from tofc.language.load import load_edge_model, load_tokenizer
from tofc.language.model import FULL, LanguageModel
from tofc.language.plain import read_plain
from tofc.language.prompt import Prompt, TextStream, answer_text, chat_template, end_ids
from tofc.model import choose_device, choose_dtype, load_base_config, visual_embeddings
from tofc.packet import Packet

if TYPE_CHECKING:
    from transformers import (
        GenerationConfig,
        LlavaOnevisionForConditionalGeneration,
        PreTrainedTokenizerBase,
    )

    from tofc.device import Device

MAX_NEW_TOKENS = 80
BATCH_SIZE = 16
_GREEDY = {"do_sample": False, "num_beams": 1}  # said of what is done anyway
# What would change the shape or the type of the generated ids.
_FIXED_SETTINGS = ("num_return_sequences", "return_dict_in_generate", "pad_token_id")

Seen = Packet | bytes | Features | Sequence[Features]


class Edge:
    """Answers questions about packets; holds projector, language model, tokenizer and codec.

    `codec` is None for a plain LLaVA-OneVision model, which answers about features and images only. `family`
    are the exits that can answer, `exit` the one that does unless a request says otherwise, `model` that one
    as a model of transformers where the edge `is_stock`.
    """

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        config: CheckpointConfig,
        codec: FeatureCodec | None,
        device_side: Device | None = None,
        family: Family | None = None,
        policy: Policy | None = None,
    ) -> None:
        width = model.model.multi_modal_projector.linear_1.in_features
        if codec is not None and codec.width != width:
            raise CheckpointError(
                f"the codec gives features of width {codec.width}, the projector takes {width}: "
                "they belong to different models"
            )
        self.family = Family(model) if family is None else family
        self.tokenizer = tokenizer
        self.template = template
        self.config = config
        self.codec = codec
        self.policy = policy
        self.exit = self.family.default
        self.ends = end_ids(tokenizer, model)
        self._device_side = device_side
        self.is_stock = hasattr(model, "generate")
        self.model: LlavaOnevisionForConditionalGeneration = self.family.model() if self.is_stock else model

    @classmethod
    def from_pretrained(
        cls,
        src: str | Path,
        exit: str = FULL,
        *,
        images: bool = False,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
        stock: bool = True,
    ) -> Edge:
        """Loads the edge side of a bundled name, a folder or a hub id.

        The vision tower is left unread unless `images` is true, which `answer_image` needs. `exit` names
        the member of the family that answers (`tofc.familial.family(src)` lists them): only the blocks of
        the language model that it needs are read. Requests may name any other member that these blocks
        reach; its branch is read when it is first named. `dtype`: float32 on a CPU and the checkpoint's own
        elsewhere, unless given. With `stock` false a language model of a known kind is made of plain torch
        modules, which load in a third of the time: answers are the same, but `model` is no model of
        transformers, and `generate` has no settings. Raises UserError for an unknown exit, CheckpointError
        where the checkpoint is not whole.
        """
        checkpoint = resolve(src)
        check_exit(checkpoint, exit)
        base, where = checkpoint.base, choose_device(device)
        index = None if checkpoint.family is None else index_of(checkpoint.family, base)
        member = None if index is None or exit == FULL else index.named(exit)
        # One block at least: a branch's blocks are built from its class and configuration.
        num_layers = None if member is None else max(1, member.exit_layer)
        codec = load_codec(checkpoint) if checkpoint.has_codec else None
        plain = None
        if not (stock or images or where.type != "cpu" or dtype is not None):
            plain = read_plain(checkpoint, num_layers)
        seeing = None
        if plain is not None:
            model, tokenizer, template = plain
        else:
            chosen = choose_dtype(dtype, where, load_base_config(base))
            model = load_edge_model(checkpoint, where, chosen, num_layers)
            tokenizer = load_tokenizer(base)
            template = chat_template(base, tokenizer)
            if images:
                from tofc.device import Device

                seeing = Device.from_checkpoint(checkpoint, codec, where, chosen)
        family = None
        if index is not None and checkpoint.family is not None:
            load = loader(checkpoint.family, model)
            family = Family(model, roster=index.roster, load=load, default=FULL if exit == AUTO else exit)
        policy = None if index is None else index.policy
        edge = cls(model, tokenizer, template, checkpoint.config, codec, seeing, family, policy)
        edge.exit = edge.check_exit(exit)
        return edge

    def __repr__(self) -> str:
        family = ", ".join(self.family.names)
        return f"Edge({type(self.model).__name__}, answers by {self.exit} of {family})"

    def decode(self, packet: Packet | bytes) -> torch.Tensor | list[torch.Tensor]:
        """Features float32 [K, C] of a packet, exactly as its encoder reconstructed them; a list for several.

        Raises PacketError for a packet of another model and for one that is not whole.
        """
        tokens = [picture.tokens for picture in self.decode_features(packet)]
        return tokens[0] if len(tokens) == 1 else tokens

    def decode_features(self, packet: Packet | bytes) -> list[Features]:
        """The pictures of a packet as decoded features with their layout; errors of `decode`."""
        return unpack(packet, self.codec, self.model.config)

    def sections(self, packet: Packet | bytes) -> dict[str, float]:
        """Bytes by part, those of the payload too; they sum to the packet's size. Errors of `decode`."""
        packet = packet if isinstance(packet, Packet) else Packet.from_bytes(packet)
        return packet.sections_with(check_codec(packet, self.codec))

    def answer(
        self, packet: Packet | bytes, question: str, *, exit: str | None = None, **generation: Any
    ) -> Answer:
        """Answers a question about a packet's pictures.

        `exit` names the member of the family that answers, the edge's own if left out. `generation` names
        settings of transformers' `generate`, which then decodes; without any but `max_new_tokens` (80), our
        own loop does, greedily.
        Raises UserError for an empty question, an unknown setting or exit, PacketError like `decode`.
        """
        return self.answer_many([(packet, question)], exit=exit, **generation)[0]

    def stream(
        self,
        packet: Packet | bytes,
        question: str,
        *,
        exit: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> Generator[str, None, Answer]:
        """The text of `answer` piece by piece, as soon as no later token can change it; errors of `answer`.

        The generator returns the whole `Answer`. An exit "auto" speaks when it has decided.
        """
        exit = self.check_exit(exit)
        if exit == AUTO:
            answer = self.answer(packet, question, exit=exit, max_new_tokens=max_new_tokens)
            yield answer.text
            return answer
        prompt = self.prompt(_checked(packet), question)
        watch = Stopwatch(self.model.device)
        row, text = Generation(prompt, max_new_tokens), TextStream(self.tokenizer)
        batch = Batch(self.family.language, self.family.exit(exit), self.ends)
        batch.join([row])
        given = 0
        while True:
            for token in row.tokens[given:]:
                if piece := text.push(token):
                    yield piece
            given = len(row.tokens)
            if row.finish_reason is not None:
                break
            batch.step()
        if piece := text.close():
            yield piece
        timing = {**prompt.timing, "generate": watch.lap()}
        return Answer(text.text, exit, tuple(row.tokens), timing, confidence=row.confidence)

    def answer_many(
        self,
        requests: Iterable[tuple[Seen, str]],
        *,
        exit: str | None = None,
        batch_size: int = BATCH_SIZE,
        **generation: Any,
    ) -> list[Answer]:
        """Answers many (packet, question) pairs in batches; in order, the same as one by one.

        In place of a packet there may be features, uncoded or decoded; several are the pictures of one
        prompt. What occurs several times is decoded, projected and prefilled once. At most `batch_size`
        pictures and as many questions are in the language model at a time. `exit` answers all of them.
        """
        self._check_generation(generation)
        exit = self.check_exit(exit)
        pairs = [(_checked(seen), question) for seen, question in requests]
        asked: dict[Any, list[int]] = {}
        for index, (seen, _) in enumerate(pairs):
            asked.setdefault(seen if isinstance(seen, Packet) else id(seen), []).append(index)
        answers: dict[int, Answer] = {}
        groups = list(asked.values())
        batch_size = max(1, batch_size)
        for first in range(0, len(groups), batch_size):
            part = groups[first : first + batch_size]
            prompts = [p for group in part for p in self.prompts([pairs[i] for i in group])]
            given = self._answer(prompts, exit, batch_size, generation)
            answers |= zip((index for group in part for index in group), given, strict=True)
        return [answers[index] for index in range(len(pairs))]

    def answer_features(
        self,
        features: Features | Sequence[Features],
        questions: str | Sequence[str],
        *,
        exit: str | None = None,
        batch_size: int = BATCH_SIZE,
        **generation: Any,
    ) -> list[Answer]:
        """Answers questions about uncoded or decoded features; several are the pictures of one prompt."""
        asked = [questions] if isinstance(questions, str) else questions
        pairs = [(features, question) for question in asked]
        return self.answer_many(pairs, exit=exit, batch_size=batch_size, **generation)

    def answer_image(
        self,
        image: Any,
        question: str,
        *,
        tokens: int | str = "all",
        max_pixels: int = MAX_PIXELS,
        exit: str | None = None,
        **generation: Any,
    ) -> Answer:
        """Answers about an ordinary picture as the stock model does: uncoded, and unmerged unless `tokens`.

        Needs `from_pretrained(..., images=True)`. The tiling is the checkpoint's.
        """
        if self._device_side is None:
            raise UserError("this edge was loaded without the vision tower; load it with images=True")
        features = self._device_side.features(image, tokens, max_pixels=max_pixels)
        answer = self.answer_features(features, question, exit=exit, **generation)[0]
        return replace(answer, timing={**features.timing, **answer.timing})

    @cached_property
    def _defaults(self) -> GenerationConfig:
        """Published settings sample; answers here are greedy unless the caller says otherwise."""
        from transformers import GenerationConfig

        padding = self.tokenizer.pad_token_id
        return GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=sorted(self.ends),
            pad_token_id=min(self.ends) if padding is None else padding,
        )

    def _check_generation(self, generation: Mapping[str, Any]) -> None:
        for key in generation:
            if not hasattr(self._defaults, key):
                raise UserError(
                    f"unknown generation setting {key}; transformers' GenerationConfig lists them"
                )
            if key in _FIXED_SETTINGS:
                raise UserError(
                    f"generation setting {key} cannot be changed: one answer comes of each question"
                )

    def prompt(self, seen: Seen, question: str) -> Prompt:
        """A question in the chat template, with the projected pictures inside."""
        return self.prompts([(seen, question)])[0]

    def prompts(self, pairs: Sequence[tuple[Seen, str]]) -> list[Prompt]:
        """Questions about the same pictures in the chat template, with the projected pictures inside."""
        seen = pairs[0][0]
        pictures = self.decode_features(seen) if isinstance(seen, Packet | bytes) else _as_list(seen)
        watch = Stopwatch(self.model.device)
        embeddings = visual_embeddings(self.model, pictures)
        timing = {"decode": sum(p.timing.get("decode", 0.0) for p in pictures), "project": watch.lap()}
        return [
            Prompt.build(self.tokenizer, self.template, self.model.config, question, embeddings, timing)
            for _, question in pairs
        ]

    def check_exit(self, exit: str | None) -> str:
        """The name of the member that this exit means, or "auto"; UserError where it is not to be had."""
        name = self.exit if exit is None else exit
        if name != AUTO:
            return self.family.named(name).name
        if self.policy is None:
            raise no_policy(self.family.names)
        return AUTO

    def _answer(
        self, prompts: Sequence[Prompt], exit: str, batch_size: int, generation: Mapping[str, Any]
    ) -> list[Answer]:
        settings = {name: value for name, value in generation.items() if value is not None}
        most = settings.get("max_new_tokens", MAX_NEW_TOKENS)
        if most < 1:
            raise UserError(f"max_new_tokens is {most}; give at least 1")
        plain = {"max_new_tokens": most, **_GREEDY}
        unusual = sorted(name for name, value in settings.items() if plain.get(name) != value)
        language = self.family.language
        if exit == AUTO:
            if unusual:
                raise UserError(
                    f"exit {AUTO!r} decodes greedily and takes max_new_tokens alone, not {unusual[0]}"
                )
            assert self.policy is not None
            stages = self.policy.exits(self.family)
            found = generate_by_choice(language, stages, prompts, self.ends, most, batch_size)
        elif unusual and not self.is_stock:
            raise UserError(f"{unusual[0]} takes a model of transformers: load the edge with stock=True")
        elif unusual:
            stock = copy.copy(self.family.model(exit))  # what was given keeps settings of its own
            stock.generation_config = self._defaults
            named = settings.get("eos_token_id", self.ends)
            ends = frozenset([named] if isinstance(named, int) else named)
            found = generate_with_settings(LanguageModel(stock), exit, prompts, ends, settings, batch_size)
        else:
            chosen = self.family.exit(exit)
            found = generate(language, chosen, prompts, self.ends, most, batch_size)
        return [self._said(prompt, one) for prompt, one in zip(prompts, found, strict=True)]

    def _said(self, prompt: Prompt, one: Generated) -> Answer:
        timing = {**prompt.timing, "generate": one.seconds}
        text = answer_text(self.tokenizer, one.ids)
        return Answer(text, one.exit, one.ids, timing, confidence=one.confidence)


def _checked(seen: Seen) -> Packet | Features | Sequence[Features]:
    """What is asked about, a packet's bytes as a packet; PacketError for what is none of it."""
    if isinstance(seen, Packet | Features):
        return seen
    if isinstance(seen, (list, tuple)) and seen and all(isinstance(one, Features) for one in seen):
        return seen
    return Packet.from_bytes(seen)  # type: ignore[arg-type]  # which says what is wrong with anything else


def _as_list(pictures: Features | Sequence[Features]) -> list[Features]:
    return [pictures] if isinstance(pictures, Features) else list(pictures)
