"""What a configuration of `tofc pretrain` says."""

from __future__ import annotations

from dataclasses import dataclass, field

from tofc.training.base_model import BaseModelConfig
from tofc.training.settings import RunConfig

STOCK = "stock"  # the token layout of the unmodified processor: base tile, then the grid with newlines


@dataclass(frozen=True)
class PretrainOptimizerConfig:
    """Learning rates and their course.

    `muon_lr` is in AdamW's units (updates are rescaled to AdamW's RMS). The rate warms up over
    `warmup_steps`, stays, and falls linearly from `decay_from`, a fraction of all steps. Once questions are
    asked it is scaled by `answer_ratio`, and that of the tower by `tower_ratio` as well: a language model
    cannot learn to read features that move faster than it does. With a `tower_ratio` of 0 the tower stands
    still from the first question on, and no dense loss is computed.
    """

    muon_lr: float = 2e-3
    adamw_lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 60
    decay_from: float = 0.4
    answer_ratio: float = 0.3
    tower_ratio: float = 0.3
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay_from < 1.0:
            raise ValueError(f"decay_from is {self.decay_from}: give a fraction of all steps in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """A whole pretraining run.

    `dense_steps` steps of `dense_batch` pictures teach the tower alone, the rest up to `total_steps`, of
    `answer_batch` pictures, teach all with the dense loss at `dense_weight`, which is the sum of the targets'
    losses, each by its weight in `dense_weights` (1 where it has none). Until the learning rate falls, a
    dense step without questions shows the tower a random `patch_share` of each picture's patches: half of
    them cost less than half, and are another view each time. `word_weight` is that of a loss
    beside the answers: what the projector makes of a patch should be the words for its object and for
    the side of the picture on which that is (the corpus' `patch_words`). `mimetic` gives
    tower and language model the first weights of `tofc.training.base_model` in the place of random ones.
    `layouts` maps a token layout ("stock", as the unmodified processor has it, or a number of merged tokens)
    to how often it is drawn; the pictures of a batch are merged in the `ways` in turn, those of validation in
    the first. `feature_noise` is in channel deviations. `start_from`, a checkpoint's folder that this command
    wrote, gives the first weights and the vocabulary in the place of random ones; `tower_from` gives those of
    the tower alone; `model` must be of its geometry.
    """

    name: str = "scenes-tiny"
    model: BaseModelConfig = field(default_factory=BaseModelConfig)
    optimizer: PretrainOptimizerConfig = field(default_factory=PretrainOptimizerConfig)
    dense_batch: int = 32
    answer_batch: int = 16
    dense_steps: int = 900
    total_steps: int = 5300
    dense_weight: float = 0.25
    dense_weights: dict[str, float] = field(default_factory=dict)
    patch_share: float = 1.0
    word_weight: float = 0.0
    mimetic: bool = False
    layouts: dict[str, float] = field(default_factory=lambda: {"64": 0.6, "196": 0.2, "32": 0.1, STOCK: 0.1})
    ways: tuple[str, ...] = ("dpc_knn",)
    feature_noise: float = 0.2
    max_text_tokens: int | None = 192
    start_from: str | None = None
    tower_from: str | None = None
    validation_pictures: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dense_steps <= self.total_steps:
            raise ValueError(
                f"dense_steps {self.dense_steps} must lie in 0..total_steps ({self.total_steps})"
            )
        if not 0.0 < self.patch_share <= 1.0:
            raise ValueError(f"patch_share is {self.patch_share}: give a share of the patches in (0, 1]")
        for layout, share in self.layouts.items():
            if (layout != STOCK and not layout.isdigit()) or share < 0:
                raise ValueError(
                    f"layouts has {layout!r}: {share}; keys are '{STOCK}' or a number of tokens, shares >= 0"
                )
        if not self.ways:
            raise ValueError("ways is empty: name at least one, e.g. [dpc_knn]")
        if not sum(self.layouts.values()) > 0:
            raise ValueError("layouts is empty: name at least one, e.g. {'64': 1.0}")
