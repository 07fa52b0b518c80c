"""What configurations of training say: what all runs have in common, and `tofc train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from entropy import CodecConfig
from tofc.config import MERGINGS, QUALITIES, CheckpointConfig
from tofc.training.adapters import AdapterConfig
from tofc.training.data import DataConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Of every run.

    data: the corpus; seed: of weights, pictures' order and all that is drawn; ways: of merging, which the
    pictures of a step take in turn (none: the checkpoint's own alone); max_text_tokens: of a picture's
    questions (none: all); end_weight: of the end of an answer in the loss beside each of its other tokens
    (the paper: 1); precision: "auto" (bf16 where the hardware has it), "bf16" or "fp32".
    """

    data: DataConfig
    seed: int = 0
    ways: tuple[str, ...] = ()
    max_text_tokens: int | None = None
    end_weight: float = 0.2
    precision: str = "auto"
    validation_pictures: int = 64
    log_every: int = 20
    validate_every: int = 200
    save_every: int = 100

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision is {self.precision!r}: choose auto, bf16 or fp32")
        unknown = [way for way in self.ways if way not in MERGINGS]
        if unknown:
            raise ValueError(f"ways has {unknown[0]!r}; choose from {', '.join(MERGINGS)}")
        check_at_least(1, self, "validation_pictures", "log_every", "validate_every", "save_every")
        check_at_least(0, self, "end_weight")


@dataclass(frozen=True, kw_only=True)
class CodedRunConfig(RunConfig):
    """Of runs on a base model whose features are coded.

    tokens: numbers of merged tokens ("all" for no merging) and how often each is drawn; uncoded_share: of
    what is left uncoded, so that pictures can still be answered without a codec; batch_size: pictures of a
    step over all processes; micro_batch: of one pass of one process, none for all at once; total_steps: none
    for `epochs` of the corpus; warmup_steps: in which learning rates rise, to fall along a cosine after it;
    beta2: AdamW's (its authors: 0.999).
    """

    tokens: dict[str, float] = field(default_factory=dict)
    uncoded_share: float = 0.1
    batch_size: int = 16
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    total_steps: int | None = None
    epochs: float = 1.0
    warmup_steps: int = 50
    beta2: float = 0.99
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tokens or min(self.tokens.values()) < 0 or sum(self.tokens.values()) <= 0:
            raise ValueError("tokens is empty: name at least one number with a share, e.g. {'64': 1.0}")
        for name in self.tokens:
            if name != "all" and (not name.isdigit() or int(name) < 1):
                raise ValueError(f"tokens has {name!r}; keys are numbers of at least 1, or 'all'")
        check_at_least(1, self, "batch_size", "micro_batch", "total_steps", "warmup_steps")
        if self.epochs <= 0 or not 0 < self.beta2 < 1:
            raise ValueError("epochs must be above 0, beta2 above 0 and below 1")
        if not 0.0 <= self.uncoded_share <= 1.0 or self.clip_norm <= 0:
            raise ValueError("uncoded_share must be in [0, 1], clip_norm above 0")
        if self.save_every % self.log_every:
            raise ValueError("save_every must be a multiple of log_every, so that a resumed log is the same")

    def steps_for(self, num_pictures: int | None) -> int:
        """Steps of the whole run over a corpus of so many pictures (None: endless)."""
        if self.total_steps is not None:
            return self.total_steps
        if num_pictures is None:
            raise ValueError("this corpus has no end, so an epoch has none: give total_steps")
        return max(1, int(self.epochs * num_pictures / self.batch_size))

    def draw_tokens(self, rng: np.random.Generator) -> int | None:
        """Number of tokens of a step, None for all."""
        name = draw(self.tokens, rng)
        return None if name == "all" else int(name)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CodedRunConfig):
    """A codec for a base model, trained with the answers of its language model (arXiv 2506.12479, II-B1).

    base: a LLaVA-OneVision folder or hub id; codec, prior: the codec's shape and its factorised prior;
    codec_from: a checkpoint of tofc whose codec, of that shape, goes on learning (none: a new one); adapters:
    LoRA and projector, none to leave the base as it is; checkpoint: what the checkpoint says of itself;
    merge_adapters: whether the checkpoint holds the changed base model, or names the base and holds the
    change as adapters/.

    uncoded_share: of steps with all tokens and no coding (1 trains the adapters alone). The first
    feature_steps train the codec alone, by the squared error in the coordinates that `init_pictures` pictures
    show to matter; feature_weight: of that error beside the rate in all other steps (the paper: 0).

    rate_weight: of a bit a coefficient beside the answers' cross-entropy in nats, for the lowest and the
    highest quality, geometric between; balance: of the balance loss beside the rate; temperature: of the
    router's softmax, from first to last step; codec_lr: learning rate of the codec.
    """

    base: str
    codec: CodecConfig = field(default_factory=lambda: CodecConfig(width=192))
    prior: str = "entropy_bottleneck"
    codec_from: str | None = None
    adapters: AdapterConfig | None = field(default_factory=AdapterConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    merge_adapters: bool = True
    tokens: dict[str, float] = field(default_factory=lambda: {"64": 0.7, "32": 0.2, "all": 0.1})
    init_pictures: int = 256
    feature_steps: int = 500
    feature_weight: float = 1.0
    rate_weight: tuple[float, float] = (0.6, 0.002)
    balance: float = 0.5
    temperature: tuple[float, float] = (1.0, 0.1)
    codec_lr: float = 2e-3
    clip_norm: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "init_pictures")
        check_at_least(0, self, "feature_steps", "feature_weight", "balance")
        if min(*self.rate_weight, *self.temperature, self.codec_lr) <= 0:
            raise ValueError("rate_weight, temperature and codec_lr must be above 0")
        if self.prior not in ("entropy_bottleneck", "logistic"):
            raise ValueError(f"prior is {self.prior!r}; choose one of entropy_bottleneck, logistic")
        if not self.checkpoint.default_quality <= len(self.codec.steps) <= len(QUALITIES):
            raise ValueError(
                f"codec.steps has {len(self.codec.steps)} levels; give {self.checkpoint.default_quality} "
                f"(checkpoint.default_quality) to {len(QUALITIES)}"
            )
        if self.checkpoint.tiling != "base":
            raise ValueError(
                "checkpoint.tiling must be base: a codec trained on single tiles serves several as well"
            )

    def rate_weights(self) -> list[float]:
        """Weight of a bit a coefficient at each quality level, falling geometrically."""
        low, high = self.rate_weight
        return [float(value) for value in np.geomspace(low, high, len(self.codec.steps))]

    def draw_layout(self, rng: np.random.Generator, asking: bool) -> tuple[int | None, bool]:
        """Number of tokens of a step (None: all) and whether they are coded."""
        uncoded = asking and float(rng.random()) < self.uncoded_share
        tokens = self.draw_tokens(rng)
        return (None, False) if uncoded else (tokens, True)

    def main_tokens(self) -> int | None:
        """The checkpoint's number of tokens, None for all."""
        tokens = self.checkpoint.merging.tokens
        return None if tokens == "all" else int(tokens)

    def validation_levels(self) -> dict[str, int]:
        """Levels that validation looks at: name -> level from 0, -1 for uncoded features."""
        last = len(self.codec.steps) - 1
        return {"uncoded": -1} | {f"quality_{level + 1}": level for level in (0, last // 2, last)}


def draw(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    """One of the names, each as often as its share says."""
    names, values = list(shares), np.array(list(shares.values()))
    return names[int(rng.choice(len(names), p=values / values.sum()))]


def check_at_least(least: float, config: object, *names: str) -> None:
    """Raises ValueError where one of these fields is less; None is as good as any."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; give at least {least:g}")
