"""What a configuration of `tofc train` says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from entropy import CodecConfig
from tofc.config import MERGINGS, QUALITIES, CheckpointConfig
from tofc.training.adapters import AdapterConfig
from tofc.training.data import DataConfig


@dataclass(frozen=True)
class TrainConfig:
    """A codec for a base model, trained with the answers of its language model (arXiv 2506.12479, II-B1).

    base: a LLaVA-OneVision folder or hub id; seed: of weights, pictures' order and noise; data: the corpus;
    codec, prior: the codec's shape and its factorised prior; codec_from: a checkpoint of tofc whose codec, of
    that shape, goes on learning (none: a new one); adapters: LoRA and projector, none to leave the
    base as it is; checkpoint: what the checkpoint says of itself; merge_adapters: whether the checkpoint
    holds the changed base model, or names the base and holds the change as adapters/.

    tokens: numbers of merged tokens ("all" for no merging) and how often each is drawn; ways: of merging,
    which the pictures of a step take in turn (none: the checkpoint's own alone); uncoded_share: of steps with
    all tokens and no coding, so that pictures can still be answered without a codec (1 trains the adapters
    alone).

    total_steps: none for one epoch of the corpus; the first feature_steps train the codec alone, by the
    squared error in the coordinates that `init_pictures` pictures show to matter (plain_share in (0, 1] of
    the error counts alike in all directions). batch_size: pictures of a step over all processes; micro_batch:
    pictures of one pass of one process, none for all at once; max_text_tokens: of a picture's questions.

    rate_weight: of a bit a coefficient beside the answers' cross-entropy in nats, for the lowest and the
    highest quality, geometric between; feature_weight: of the squared error beside the rate, relative to the
    weight that keeps each level's step; balance: of the balance loss beside the rate; temperature: of the
    router's softmax, from first to last step. codec_lr, gain_ratio: learning rate of the codec, and that of
    its gains relative to it; all rates warm up over warmup_steps and fall along a cosine.
    """

    base: str
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    codec: CodecConfig = field(default_factory=lambda: CodecConfig(width=192))
    prior: str = "entropy_bottleneck"
    codec_from: str | None = None
    adapters: AdapterConfig | None = field(default_factory=AdapterConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    merge_adapters: bool = True
    tokens: dict[str, float] = field(default_factory=lambda: {"64": 0.7, "32": 0.2, "all": 0.1})
    ways: tuple[str, ...] = ()
    uncoded_share: float = 0.1
    init_pictures: int = 256
    plain_share: float = 0.1
    total_steps: int | None = None
    feature_steps: int = 500
    batch_size: int = 16
    micro_batch: int | None = None
    max_text_tokens: int | None = None
    gradient_checkpointing: bool = False
    precision: str = "auto"
    rate_weight: tuple[float, float] = (0.6, 0.002)
    feature_weight: float = 1.0
    balance: float = 0.5
    temperature: tuple[float, float] = (1.0, 0.1)
    codec_lr: float = 2e-3
    gain_ratio: float = 0.2
    clip_norm: float = 5.0
    warmup_steps: int = 50
    validation_pictures: int = 64
    log_every: int = 20
    validate_every: int = 200
    save_every: int = 100

    def __post_init__(self) -> None:
        self._check_counts()
        if not self.tokens or min(self.tokens.values()) < 0 or sum(self.tokens.values()) <= 0:
            raise ValueError("tokens is empty: name at least one number with a share, e.g. {'64': 1.0}")
        for name in self.tokens:
            if name != "all" and (not name.isdigit() or int(name) < 1):
                raise ValueError(f"tokens has {name!r}; keys are numbers of at least 1, or 'all'")
        check_ways(self.ways)
        if not 0.0 <= self.uncoded_share <= 1.0 or not 0.0 < self.plain_share <= 1.0:
            raise ValueError("uncoded_share must be in [0, 1], plain_share in (0, 1]")
        if min(*self.rate_weight, *self.temperature, self.codec_lr, self.clip_norm) <= 0:
            raise ValueError("rate_weight, temperature, codec_lr and clip_norm must be above 0")
        if min(self.feature_weight, self.balance, self.gain_ratio) < 0:
            raise ValueError("feature_weight, balance and gain_ratio must not be negative")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision is {self.precision!r}: choose auto, bf16 or fp32")
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

    def _check_counts(self) -> None:
        for name in ("init_pictures", "batch_size", "warmup_steps", "validation_pictures", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.feature_steps < 0 or (self.total_steps is not None and self.total_steps < 1):
            raise ValueError("feature_steps must be at least 0, total_steps at least 1")
        if self.log_every < 1 or self.save_every < 1 or self.save_every % self.log_every:
            raise ValueError("save_every must be a multiple of log_every, so that a resumed log is the same")

    def steps_for(self, num_pictures: int | None) -> int:
        """Steps of the whole run over a corpus of so many pictures (None: endless)."""
        if self.total_steps is not None:
            return self.total_steps
        if num_pictures is None:
            raise ValueError("this corpus has no end, so an epoch has none: give total_steps")
        return max(1, num_pictures // self.batch_size)

    def rate_weights(self) -> list[float]:
        """Weight of a bit a coefficient at each quality level, falling geometrically."""
        low, high = self.rate_weight
        return [float(value) for value in np.geomspace(low, high, len(self.codec.steps))]

    def draw_layout(self, rng: np.random.Generator, asking: bool) -> tuple[int | None, bool]:
        """Number of tokens of a step (None: all) and whether they are coded."""
        uncoded = asking and float(rng.random()) < self.uncoded_share
        shares = np.array(list(self.tokens.values()))
        name = list(self.tokens)[int(rng.choice(len(shares), p=shares / shares.sum()))]
        if uncoded or name == "all":
            return None, not uncoded
        return int(name), True

    def main_tokens(self) -> int | None:
        """The checkpoint's number of tokens, None for all."""
        tokens = self.checkpoint.merging.tokens
        return None if tokens == "all" else int(tokens)

    def validation_levels(self) -> dict[str, int]:
        """Levels that validation looks at: name -> level from 0, -1 for uncoded features."""
        last = len(self.codec.steps) - 1
        return {"uncoded": -1} | {f"quality_{level + 1}": level for level in (0, last // 2, last)}


def check_ways(ways: tuple[str, ...]) -> None:
    """Raises ValueError where one of the ways of merging is unknown."""
    unknown = [way for way in ways if way not in MERGINGS]
    if unknown:
        raise ValueError(f"ways has {unknown[0]!r}; choose from {', '.join(MERGINGS)}")


def check_share(batch_size: int, processes: int) -> None:
    """Raises ValueError where the batch does not divide among the processes."""
    if batch_size % processes:
        raise ValueError(
            f"batch_size {batch_size} does not divide among {processes} processes; "
            f"give a multiple of {processes}"
        )
