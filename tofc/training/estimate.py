"""What a training run will take: parameters, memory, arithmetic and GPU hours, without a weight or a GPU.

The training's own passes are counted by `tofc.training.cost`. A branch is a block whose weights learn: as
many operations as a frozen one has forward and backward, and half as many again for its weights; and the head
on the answers. Left out: DPC-KNN (two thousandths of the tower's arithmetic) and the working space of GPU
libraries (one to two GB).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

from rich.table import Table
from transformers import LlavaOnevisionConfig

from tofc.config import find_base, resolve
from tofc.errors import UserError
from tofc.model import load_base_config
from tofc.training.cost import Cost, codec_cost, pass_cost, shallow_cost
from tofc.training.family_settings import FamilyConfig
from tofc.training.settings import CodedRunConfig, TrainConfig
from tofc.training.trainable import make_codec

LLAVA_ROWS = 665_298  # of llava_v1_5_mix665k.json
TEXT_TOKENS = 512  # of a row with its padding, on average: an assumption
UTILISATION = 0.4  # of the peak rate below: an assumption, customary for such models
GPUS = {"H100": 989e12, "A100": 312e12}  # dense bfloat16 operations a second, as published
STATE_BYTES = 16  # of a trained parameter: float32 value, gradient and AdamW's two moments
WEIGHTS_SHARE = 1.5  # operations of a block that learns over those of one that only passes gradients on
LOGITS = 3 * 4  # bytes of a logit: itself, its exponential and its gradient, in float32

_TOWER = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": 384,
    "patch_size": 14, "num_attention_heads": 16, "num_hidden_layers": 26, "vision_use_head": False,
}  # fmt: skip
# Shapes of published models, so that an estimate needs no network:
# layers, hidden_size, intermediate_size, attention heads, key-value heads, vocabulary, tied embeddings.
PUBLISHED = {
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": (24, 896, 4864, 14, 2, 152_000, True),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (28, 3584, 18944, 28, 4, 152_128, False),
}


@dataclass(frozen=True)
class MemoryEstimate:
    """What a run of `pictures` examples takes.

    frozen, trained: parameters. weights, state: bytes on each GPU. activations: bytes at the peak of a pass
    of `micro_batch` examples of `max_text` tokens at the largest number of visual tokens, by gradient
    checkpointing on or off. flops: operations an example, by number of visual tokens; mean_flops: over the
    shares in which these are drawn. hours: of one GPU of each kind at `UTILISATION` of its peak rate.
    """

    base: str
    pictures: int
    micro_batch: int
    max_text: int
    checkpointing: bool
    frozen: int
    trained: int
    activations: dict[bool, float]
    flops: dict[int, float]
    mean_flops: float

    @property
    def weights(self) -> int:
        """Bytes of the frozen parameters in bfloat16."""
        return 2 * self.frozen

    @property
    def state(self) -> int:
        """Bytes of the trained parameters with gradients and optimiser."""
        return STATE_BYTES * self.trained

    @property
    def memory(self) -> float:
        """Bytes on each GPU at the peak, as configured."""
        return self.weights + self.state + self.activations[self.checkpointing]

    @property
    def hours(self) -> dict[str, float]:
        """GPU hours of the run."""
        return {
            name: self.pictures * self.mean_flops / (rate * UTILISATION * 3600) for name, rate in GPUS.items()
        }


def base_shape(base: str) -> LlavaOnevisionConfig:
    """Configuration of a base model: of a published one from its name alone, else read from folder or hub."""
    if base not in PUBLISHED:
        return load_base_config(base)
    layers, width, mlp, heads, groups, vocabulary, tied = PUBLISHED[base]
    text = {
        "model_type": "qwen2", "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": mlp,
        "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }  # fmt: skip
    return LlavaOnevisionConfig(
        vision_config=dict(_TOWER), text_config=text, tie_word_embeddings=tied,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def estimate(
    config: CodedRunConfig,
    shape: LlavaOnevisionConfig | None = None,
    pictures: int | None = None,
    text_tokens: int = TEXT_TOKENS,
) -> MemoryEstimate:
    """Estimates a run of `tofc train` or `tofc train-familial` over `pictures` examples.

    `shape` is the base model's, found by `config.base` if left out; the examples are those of the run's
    steps, and epochs are of LLaVA-1.5's data. Arithmetic is for rows of `text_tokens` tokens on average,
    memory for the longest that the configuration lets through (`max_text_tokens`; without that,
    `text_tokens`). UserError for families of which it cannot be told.
    """
    passes: _CodecPasses | _FamilyPasses
    if isinstance(config, FamilyConfig):
        passes, uncoded = _FamilyPasses(config, shape, text_tokens), 0.0
    else:
        assert isinstance(config, TrainConfig)
        passes, uncoded = _CodecPasses(config, shape, text_tokens), config.uncoded_share
    if pictures is None and config.total_steps:
        pictures = config.total_steps * config.batch_size
    elif pictures is None:
        pictures = math.ceil(config.epochs * LLAVA_ROWS)
    vision: Any = passes.shape.vision_config  # typed as possibly absent
    shares = layout_shares(config.tokens, uncoded, (vision.image_size // vision.patch_size) ** 2)
    flops = {tokens: passes.flops(tokens) for tokens in shares}
    micro, longest = config.micro_batch or config.batch_size, config.max_text_tokens or text_tokens
    costs = {on: passes.largest(micro, max(shares), longest, on) for on in (True, False)}
    return MemoryEstimate(
        base=config.base,
        pictures=pictures,
        micro_batch=micro,
        max_text=longest,
        checkpointing=config.gradient_checkpointing,
        frozen=round(costs[True].frozen),
        trained=round(costs[True].trained),
        activations={on: cost.peak for on, cost in costs.items()},
        flops=flops,
        mean_flops=sum(share * flops[tokens] for tokens, share in shares.items()),
    )


def layout_shares(tokens: dict[str, float], uncoded: float, every: int) -> dict[int, float]:
    """How often each number of visual tokens is drawn, `every` being all; the shares sum to 1."""
    total, shares = sum(tokens.values()), {every: uncoded}
    for name, share in tokens.items():
        number = every if name == "all" else min(every, int(name))
        shares[number] = shares.get(number, 0.0) + (1.0 - uncoded) * share / total
    return {number: share for number, share in sorted(shares.items()) if share > 0}


class _CodecPasses:
    """Passes of `tofc train`: the base model with its adapters, and the codec."""

    def __init__(self, config: TrainConfig, shape: LlavaOnevisionConfig | None, text_tokens: int) -> None:
        self.config, self.text_tokens = config, text_tokens
        self.shape = base_shape(find_base(config.base)) if shape is None else shape
        self.codec = codec_cost(config)

    def flops(self, tokens: int) -> float:
        """Operations of an example of so many visual tokens."""
        cost = pass_cost(self.config, self.shape, 1, tokens, self.text_tokens)
        return cost.flops + self.codec.flops * tokens

    def largest(self, batch: int, tokens: int, text: int, checkpointing: bool) -> Cost:
        """Of a pass over so many examples of so many visual and text tokens: its peak and its parameters."""
        config = replace(self.config, gradient_checkpointing=checkpointing)
        learned = make_codec(config.codec, config.prior, config.seed).parameters()
        cost = pass_cost(config, self.shape, batch, tokens, text) + self.codec * (batch * tokens)
        return cost + Cost(trained=sum(p.numel() for p in learned))


class _FamilyPasses:
    """Passes of `tofc train-familial`: the main model, and a block and a head for each member."""

    def __init__(self, config: FamilyConfig, shape: LlavaOnevisionConfig | None, text_tokens: int) -> None:
        if config.hpcd is not None or config.choose != "all" or config.main == "full":
            raise UserError(
                "estimates are of branches that all learn in each step (choose: all) beside a main model "
                "that is frozen or has adapters"
            )
        if shape is None:
            shape = base_shape(config.shape_of or str(resolve(config.base).base))
        adapters = config.adapters if config.main == "lora" else None
        self.main = TrainConfig(base=config.base, data=config.data, adapters=adapters, tokens=config.tokens)
        self.config, self.shape, self.text_tokens = config, shape, text_tokens
        self.text = cast(Any, shape.text_config)  # typed as possibly absent
        members = [(branch.exit, ratio) for branch in config.branches for ratio in branch.ratios]
        members.append((self.text.num_hidden_layers, 0.0))
        self.at_once = config.members_per_pass or len(members)
        starts = range(0, len(members), self.at_once)
        self.parts = [members[start : start + self.at_once] for start in starts]

    def flops(self, tokens: int) -> float:
        """Operations of an example of so many visual tokens."""
        whole, block = self._whole_and_block(tokens)
        backward = 0.5 if self.config.main == "frozen" else 1.0  # a frozen main model runs forward alone
        head = 4.0 * self.text.vocab_size * self.text.hidden_size * self.text_tokens
        return sum(
            backward * (whole.flops - (self.text.num_hidden_layers - max(e for e, _ in part)) * block.flops)
            + sum(ratio * WEIGHTS_SHARE * block.flops + head for _, ratio in part)
            for part in self.parts
        )

    def largest(self, batch: int, tokens: int, text: int, checkpointing: bool) -> Cost:
        """Of a pass over so many examples of so many visual and text tokens: its peak and its parameters."""
        main = replace(self.main, gradient_checkpointing=checkpointing)
        _, block = self._whole_and_block(tokens)
        grown = (tokens + text) / (tokens + self.text_tokens)
        logits = LOGITS * batch * text * self.text.vocab_size
        members = Cost(
            peak=self.at_once * (batch * grown * block.peak + logits),
            trained=round(len(self.config.branches) * block.frozen),
        )
        return pass_cost(main, self.shape, batch, tokens, text) + members

    def _whole_and_block(self, tokens: int) -> tuple[Cost, Cost]:
        """Of a pass of one example: the main model's, and one block's of it."""
        one = shallow_cost(self.main, self.shape, (1, 1), 1, tokens, self.text_tokens)
        two = shallow_cost(self.main, self.shape, (1, 2), 1, tokens, self.text_tokens)
        return pass_cost(self.main, self.shape, 1, tokens, self.text_tokens), two + one * -1.0


def estimate_table(found: MemoryEstimate) -> Table:
    """The estimate for a terminal."""
    gb = 1e9
    table = Table("What", "How much", title=f"{found.base}: {found.pictures:,} examples")
    table.add_row("parameters, frozen", f"{found.frozen / 1e6:,.1f} M")
    table.add_row("parameters, trained", f"{found.trained / 1e6:,.1f} M")
    table.add_row("frozen weights, bfloat16", f"{found.weights / gb:.1f} GB")
    table.add_row("trained: float32, gradient, AdamW", f"{found.state / gb:.1f} GB")
    for on, size in found.activations.items():
        used = "  (as configured)" if on == found.checkpointing else ""
        words = f"activations, {found.micro_batch} examples, {'with' if on else 'without'} checkpointing"
        table.add_row(words, f"{size / gb:.1f} GB{used}")
    table.add_row("memory of a GPU at the peak", f"{found.memory / gb:.1f} GB")
    for tokens, flops in found.flops.items():
        table.add_row(f"an example of {tokens} visual tokens", f"{flops / 1e12:.1f} TFLOP")
    for name, hours in found.hours.items():
        table.add_row(
            f"{name} hours at {UTILISATION:.0%} of {GPUS[name] / 1e12:.0f} TFLOP/s", f"{hours:,.0f}"
        )
    return table
