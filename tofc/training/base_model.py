"""A small LLaVA-OneVision of the real kind, built from nothing: tokenizer, processor, random model.

Its first weights may be such as suit little data and little time: attention begins as in trained transformers
(mimetic initialisation, arXiv 2305.09828), where heads look at tokens like themselves and at near places;
patches as cosine waves of low frequency, positions as waves across the grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

IMAGE_TOKEN, VIDEO_TOKEN = "<image>", "<video>"
MAX_POSITIONS = 4096
PAD_TOKEN, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# The published OneVision-Qwen2 layout: pictures first, then the text of the turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% if message['content'] is string %}{{ '\n' + message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class BaseModelConfig:
    """Geometry of the model; the defaults are `scenes-tiny`.

    Widths and depths count as in transformers; `image_size` and `patch_size` are pixels.
    """

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 192
    vision_layers: int = 6
    vision_heads: int = 3
    text_width: int = 192
    text_layers: int = 6
    text_heads: int = 3
    text_mlp: int = 576
    vocab_size: int = 1024

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}: "
                "choose an image_size that the patches fill"
            )
        for width, heads, room in (
            (self.vision_width, self.vision_heads, "vision"),
            (self.text_width, self.text_heads, "text"),
        ):
            if width % heads:
                raise ValueError(f"{room}_width {width} is not a multiple of {room}_heads {heads}")

    @property
    def num_patches(self) -> int:
        """Tokens that the tower gives for one picture."""
        return (self.image_size // self.patch_size) ** 2


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on `texts`; any text at all can be encoded, digits one by one."""
    tokenizer = Tokenizer(models.BPE())
    # One token a digit: numbers on signs are read digit by digit, so unseen ones compose from seen parts.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, TURN_START, TURN_END, IMAGE_TOKEN, VIDEO_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The roles of the chat template come with every question: one token each.
    tokenizer.train_from_iterator(chain(["user", "assistant"] * 5_000, texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD_TOKEN,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE_TOKEN, "video_token": VIDEO_TOKEN},
        chat_template=CHAT_TEMPLATE,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast, config: BaseModelConfig) -> LlavaOnevisionProcessor:
    """The stock processor at this geometry: one base tile, one grid tile, SigLIP's normalisation."""
    size = {"height": config.image_size, "width": config.image_size}
    half = [0.5, 0.5, 0.5]  # the class defaults are CLIP's, not SigLIP's
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=[[config.image_size] * 2], image_mean=half, image_std=half
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size, image_mean=half, image_std=half),
        num_image_tokens=config.num_patches,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    config: BaseModelConfig, tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlavaOnevisionForConditionalGeneration:
    """A model with random float32 weights, drawn from `seed` without touching the global generator."""
    vision = SiglipVisionConfig(
        hidden_size=config.vision_width,
        intermediate_size=4 * config.vision_width,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.vision_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.text_width,
        intermediate_size=config.text_mlp,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_heads,
        num_key_value_heads=config.text_heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    whole = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.get_vocab()[IMAGE_TOKEN],
        video_token_index=tokenizer.get_vocab()[VIDEO_TOKEN],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[config.image_size] * 2],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaOnevisionForConditionalGeneration(whole)
        # SigLIP's own initialisation of the position table suits large data; small and zero-mean learns
        # where a patch is within the first minutes.
        embeddings = model.model.vision_tower.embeddings
        torch.nn.init.normal_(embeddings.position_embedding.weight, std=0.02)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


LOOK, SELF_LOOK = 0.7, 0.7  # of the paper: random part and identity of queries times keys,
PASS, SELF_PASS = 0.4, 0.4  # ... and of values times output, whose identity is negative
CHROMA = 0.15  # variance of a colour difference beside brightness
PATCH_DEVIATION = 0.7


@torch.no_grad()
def mimetic_tower(tower: Any, generator: torch.Generator) -> None:
    """Sets the weights of a `SiglipVisionModel` in place; MLPs and norms stay as they are."""
    embeddings = tower.embeddings
    kernel = embeddings.patch_embedding.weight
    width, _, patch, _ = kernel.shape
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    kernel.copy_((rotation @ patch_waves(width, patch).flatten(1)).unflatten(1, (3, patch, patch)))
    embeddings.patch_embedding.bias.zero_()
    table = embeddings.position_embedding.weight
    table.copy_(0.5 * grid_waves(math.isqrt(len(table)), width))
    for layer in tower.encoder.layers:
        _mimetic_attention(layer.self_attn, width, generator)


@torch.no_grad()
def mimetic_language(language: Any, generator: torch.Generator) -> None:
    """Sets the attention of a `Qwen2Model` whose heads all have keys of their own, in place."""
    for layer in language.layers:
        _mimetic_attention(layer.self_attn, language.config.hidden_size, generator)


def _mimetic_attention(attention: Any, width: int, generator: torch.Generator) -> None:
    size = attention.head_dim
    heads = width // size
    last = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj

    def random() -> Tensor:
        return torch.randn(width, width, generator=generator) / math.sqrt(width)

    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        left, strengths, right = torch.linalg.svd(LOOK * random() + SELF_LOOK * torch.eye(width))
        root = strengths[:size].sqrt()[:, None]
        # Attention divides by the root of a head's size; the paper's product stands before that.
        attention.q_proj.weight[rows] = left[:, :size].T * root
        attention.k_proj.weight[rows] = right[:size] * root
    left, strengths, right = torch.linalg.svd(PASS * random() - SELF_PASS * torch.eye(width))
    root = strengths.sqrt()
    attention.v_proj.weight.copy_(root[:, None] * right)
    last.weight.copy_(left * root)
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj, last):
        if linear.bias is not None:
            linear.bias.zero_()


def patch_waves(count: int, patch: int) -> Tensor:
    """The `count` cosine waves with most variance in pictures, [count, 3, patch, patch].

    Each is scaled to a deviation of about PATCH_DEVIATION on pixels in -1..1.
    """
    places = (torch.arange(patch) + 0.5) * math.pi / patch
    waves = torch.cos(torch.arange(patch)[:, None] * places) * math.sqrt(2 / patch)
    waves[0] /= math.sqrt(2)
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]])
    colours = colours / colours.norm(dim=1, keepdim=True)
    found = []
    for colour, share in enumerate((1.0, CHROMA, CHROMA)):
        for row in range(patch):
            for column in range(patch):
                # Pictures have variance about as one over the squared frequency.
                variance = share * (0.5 * patch) ** 2 * 3 / (1 + 8 * (row**2 + column**2))
                found.append((variance, colour, row, column))
    found.sort(key=lambda wave: (-wave[0], wave[1:]))
    kernels = []
    for variance, colour, row, column in found[:count]:
        wave = colours[colour][:, None, None] * (waves[row][:, None] * waves[column])
        kernels.append(wave * (PATCH_DEVIATION / math.sqrt(variance)))
    return torch.stack(kernels)


def grid_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, [side * side, width], wavelengths of two patches to four grids."""
    quarter = width // 4
    scales = torch.logspace(math.log10(2.0), math.log10(4.0 * side), quarter)
    phases = 2 * math.pi * torch.arange(side)[:, None] / scales
    waves = torch.cat([phases.sin(), phases.cos()], dim=1)  # [side, width / 2]
    rows = waves[:, None].expand(-1, side, -1)
    columns = waves[None].expand(side, -1, -1)
    table = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.nn.functional.pad(table, (0, width - table.shape[1]))
