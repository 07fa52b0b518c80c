"""What a configuration of `tofc train-familial` says."""

from __future__ import annotations

from dataclasses import dataclass, field

from tofc.config import QUALITIES
from tofc.training.adapters import AdapterConfig
from tofc.training.settings import CodedRunConfig, check_at_least

MAIN = ("frozen", "lora", "full")
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


@dataclass(frozen=True, kw_only=True)
class FamilyConfig(CodedRunConfig):
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
    for the rest; adapters have their own. uncoded_share: of pictures; qualities: of the others.
    calibration_pictures: whose inputs whiten the decomposition.
    """

    base: str = "scenes-tiny"
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
    tokens: dict[str, float] = field(default_factory=lambda: {"64": 1.0})
    uncoded_share: float = 0.2
    qualities: tuple[int, int] = (QUALITIES[0], QUALITIES[-1])
    calibration_pictures: int = 64
    total_steps: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.branches:
            raise ValueError("branches is empty: name at least one, e.g. {exit: 2, ratios: [1.0, 0.5]}")
        if self.main not in MAIN:
            raise ValueError(f"main is {self.main!r}; choose one of {', '.join(MAIN)}")
        if self.choose not in CHOICES:
            raise ValueError(f"choose is {self.choose!r}; choose one of {', '.join(CHOICES)}")
        if not 0 <= self.kl <= 1:
            raise ValueError(f"kl is {self.kl}; it must be in [0, 1]")
        if min(self.temperature, self.main_ratio, self.adamw_lr, self.muon_lr or 1.0) <= 0:
            raise ValueError("temperature, main_ratio, muon_lr and adamw_lr must be above 0")
        check_at_least(0, self, "main_weight", "weight_decay")
        check_at_least(1, self, "members_per_step", "members_per_pass", "calibration_pictures", "total_steps")
        low, high = self.qualities
        if not QUALITIES[0] <= low <= high <= QUALITIES[-1]:
            raise ValueError(f"qualities are {low} to {high}; choose from 1 to {QUALITIES[-1]}")
