"""What training a family will take: the estimate of `tofc.training.estimate`, for branches.

The main model's passes are counted there. A branch is a block of it whose weights learn: as many operations
as a frozen one has forward and backward, and half as many again for its weights; and the head on the answers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tofc.config import resolve
from tofc.errors import UserError
from tofc.training.estimate import (
    LLAVA_ROWS,
    TEXT_TOKENS,
    MemoryEstimate,
    base_shape,
    estimate,
    pass_cost,
    shallow_cost,
)
from tofc.training.family_settings import FamilyConfig
from tofc.training.settings import CodedRunConfig, TrainConfig

WEIGHTS_SHARE = 1.5  # operations of a block that learns over those of one that only passes gradients on
LOGITS = 3 * 4  # bytes of a logit: itself, its exponential and its gradient, in float32


def estimate_training(config: CodedRunConfig) -> MemoryEstimate:
    """Estimates a run of `tofc train` or `tofc train-familial`."""
    if isinstance(config, FamilyConfig):
        return estimate_family(config)
    assert isinstance(config, TrainConfig)
    return estimate(config, base_shape(config.base))


def estimate_family(
    config: FamilyConfig, pictures: int | None = None, text_tokens: int = TEXT_TOKENS
) -> MemoryEstimate:
    """Estimates the run over `pictures` examples; without these, as `estimate`. UserError for components."""
    if config.hpcd is not None or config.choose != "all" or config.main == "full":
        raise UserError(
            "estimates are of branches that all learn in each step (choose: all) beside a main model that is "
            "frozen or has adapters"
        )
    shape = base_shape(config.shape_of or str(resolve(config.base).base))
    depths: tuple[Any, Any] = (shape.vision_config, shape.text_config)  # typed as possibly absent
    vision, text = depths
    every = (vision.image_size // vision.patch_size) ** 2
    adapters = config.adapters if config.main == "lora" else None
    main = TrainConfig(base=config.base, data=config.data, adapters=adapters, tokens=config.tokens)
    total = sum(config.tokens.values())
    shares: dict[int, float] = {}
    for name, share in config.tokens.items():
        number = every if name == "all" else min(every, int(name))
        shares[number] = shares.get(number, 0.0) + share / total
    members = [(branch.exit, ratio) for branch in config.branches for ratio in branch.ratios]
    members.append((text.num_hidden_layers, 0.0))
    at_once = config.members_per_pass or len(members)
    parts = [members[start : start + at_once] for start in range(0, len(members), at_once)]
    flops, block = {}, None
    for tokens in shares:
        whole = pass_cost(main, shape, 1, tokens, text_tokens)
        one = shallow_cost(main, shape, (1, 1), 1, tokens, text_tokens)
        block = shallow_cost(main, shape, (1, 2), 1, tokens, text_tokens) + one * -1.0
        backward = 0.5 if config.main == "frozen" else 1.0  # a frozen main model runs forward alone
        head = 4.0 * text.vocab_size * text.hidden_size * text_tokens
        flops[tokens] = sum(
            backward * (whole.flops - (text.num_hidden_layers - max(e for e, _ in part)) * block.flops)
            + sum(ratio * WEIGHTS_SHARE * block.flops + head for _, ratio in part)
            for part in parts
        )
    assert block is not None  # the configuration's own check: tokens are not empty
    micro = config.micro_batch or config.batch_size
    longest = config.max_text_tokens or text_tokens
    activations = {}
    for checkpointing in (True, False):
        variant = replace(main, gradient_checkpointing=checkpointing)
        peak = pass_cost(variant, shape, micro, max(shares), longest).peak
        grown = (max(shares) + longest) / (max(shares) + text_tokens)
        logits = LOGITS * micro * longest * text.vocab_size
        activations[checkpointing] = peak + at_once * (micro * grown * block.peak + logits)
    branches = round(len(config.branches) * block.frozen)
    if pictures is None:
        per_epoch = config.total_steps * config.batch_size if config.total_steps else LLAVA_ROWS
        pictures = per_epoch if config.total_steps else math.ceil(config.epochs * per_epoch)
    return MemoryEstimate(
        base=config.base,
        pictures=pictures,
        micro_batch=micro,
        max_text=longest,
        checkpointing=config.gradient_checkpointing,
        frozen=round(whole.frozen),
        trained=round(whole.trained) + branches,
        activations=activations,
        flops=flops,
        mean_flops=sum(share * flops[tokens] for tokens, share in shares.items()),
    )
