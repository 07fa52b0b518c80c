"""What a configuration of `tofc train-familial` says."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tofc.config import QUALITIES
from tofc.training.adapters import AdapterConfig
from tofc.training.data import DataConfig
from tofc.training.settings import check_ways

WAYS = ("frozen", "lora", "full")
CHOICES = ("all", "random", "sequential", "loss")


@dataclass(frozen=True)
class BranchConfig:
    """One branch: after how many blocks it exits, the shares of its ranks that are members, and its name.

    The name is e and the exit layer if left out; several branches at one exit need names of their own.
    """

    exit: int
    ratios: tuple[float, ...] = (1.0,)
    name: str | None = None

    def __post_init__(self) -> None:
        if self.exit < 1:
            raise ValueError(f"a branch exits after block {self.exit}; give at least 1")
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios) or 1.0 not in self.ratios:
            raise ValueError(
                f"ratios are {list(self.ratios)}; give shares above 0 to 1, with 1.0 for the whole branch"
            )

    @property
    def called(self) -> str:
        """The branch's name."""
        return self.name or f"e{self.exit}"


@dataclass(frozen=True)
class FamilyConfig:
    """Branches of a checkpoint's language model, trained together (arXiv 2506.12479, section III-B2).

    base: a checkpoint of tofc with its codec: a bundled name, a folder, a hub id; branches: the family.

    main: what becomes of the main model: "frozen", "lora" (with `adapters`), or "full" (its blocks, norm and
    embeddings; vision tower, projector and codec stand still). main_weight: of the full model's loss beside
    that of each member; main_ratio: the main model's learning rate over that of the branches.

    kl: share of the Kullback-Leibler divergence from the main model as it was before, beside 1 - kl of the
    answers' cross-entropy; temperature: of both distributions in it.

    choose: the members of a step: "all", or `members_per_step` of them at "random", in turn ("sequential"),
    or those with the largest "loss" of late; members_per_pass: so many share a forward pass, and gradients
    add up over passes (none: all in one).

    muon_lr, adamw_lr: learning rates of the branches: Muon's for the matrices (none: AdamW for all), AdamW's
    for the rest; adapters have their own; all warm up over warmup_steps and fall along a cosine.

    tokens, ways, uncoded_share: numbers of merged tokens and how often each is drawn, ways of merging that
    the pictures of a batch take in turn (none: the checkpoint's), and the share of pictures left uncoded;
    qualities: of the others. calibration_pictures: whose inputs whiten the decomposition.
    """

    base: str = "scenes-tiny"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    branches: tuple[BranchConfig, ...] = ()
    main: str = "frozen"
    adapters: AdapterConfig = field(default_factory=lambda: AdapterConfig(tower=False, projector=False))
    main_weight: float = 1.0
    main_ratio: float = 1.0
    kl: float = 0.0
    temperature: float = 1.0
    choose: str = "all"
    members_per_step: int = 1
    members_per_pass: int | None = None
    muon_lr: float | None = 1e-3
    adamw_lr: float = 5e-4
    weight_decay: float = 0.0
    warmup_steps: int = 50
    clip_norm: float = 1.0
    tokens: dict[str, float] = field(default_factory=lambda: {"64": 1.0})
    ways: tuple[str, ...] = ()
    uncoded_share: float = 0.2
    qualities: tuple[int, int] = (QUALITIES[0], QUALITIES[-1])
    calibration_pictures: int = 64
    total_steps: int = 1000
    batch_size: int = 16
    max_text_tokens: int | None = None
    precision: str = "auto"
    validation_pictures: int = 64
    log_every: int = 20
    validate_every: int = 200
    save_every: int = 100

    def __post_init__(self) -> None:
        if not self.branches:
            raise ValueError("branches is empty: name at least one, e.g. {exit: 2, ratios: [1.0, 0.5]}")
        if self.main not in WAYS:
            raise ValueError(f"main is {self.main!r}; choose one of {', '.join(WAYS)}")
        if self.choose not in CHOICES:
            raise ValueError(f"choose is {self.choose!r}; choose one of {', '.join(CHOICES)}")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision is {self.precision!r}: choose auto, bf16 or fp32")
        if not 0 <= self.kl <= 1 or not 0 <= self.uncoded_share <= 1:
            raise ValueError("kl and uncoded_share must be in [0, 1]")
        above = (self.temperature, self.main_ratio, self.adamw_lr, self.clip_norm, self.muon_lr or 1.0)
        if min(above) <= 0 or min(self.main_weight, self.weight_decay) < 0:
            raise ValueError(
                "temperature, main_ratio, muon_lr, adamw_lr and clip_norm must be above 0, main_weight and "
                "weight_decay not negative"
            )
        counts = (self.members_per_step, self.members_per_pass or 1, self.calibration_pictures)
        if min(*counts, self.total_steps, self.warmup_steps, self.batch_size) < 1:
            raise ValueError("steps, pictures and members must be at least 1")
        if not self.tokens or any(name != "all" and not name.isdigit() for name in self.tokens):
            raise ValueError(f"tokens is {self.tokens}; keys are numbers of tokens or 'all'")
        check_ways(self.ways)
        low, high = self.qualities
        if not QUALITIES[0] <= low <= high <= QUALITIES[-1]:
            raise ValueError(f"qualities are {low} to {high}; choose from 1 to {QUALITIES[-1]}")
        if self.log_every < 1 or self.save_every % self.log_every:
            raise ValueError("save_every must be a multiple of log_every, so that a resumed log is the same")

    def draw_tokens(self, rng: np.random.Generator) -> int | None:
        """Number of tokens of a step, None for all."""
        shares = np.array(list(self.tokens.values()))
        name = list(self.tokens)[int(rng.choice(len(shares), p=shares / shares.sum()))]
        return None if name == "all" else int(name)
