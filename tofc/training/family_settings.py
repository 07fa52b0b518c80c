"""What a configuration of `tofc train-familial` says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tofc.config import QUALITIES
from tofc.training.adapters import AdapterConfig
from tofc.training.settings import CodedRunConfig, check_at_least

MAIN = ("frozen", "lora", "full")
CHOICES = ("all", "random", "sequential", "loss")


@dataclass(frozen=True)
class BranchConfig:
    """One branch: after how many blocks it exits, the shares of its ranks that are members, and its name.

    The name is e and the exit layer if left out; several branches at one exit need names of their own.
    `learns` makes a specialist: the kinds of questions whose answers it learns (none: all), each a turn's
    category or a part of it between slashes.
    """

    exit: int
    ratios: tuple[float, ...] = (1.0,)
    name: str | None = None
    learns: tuple[str, ...] = ()

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

    def is_taught(self, category: str) -> bool:
        """Whether the branch learns from turns of this category."""
        return not self.learns or bool({category, *category.split("/")} & set(self.learns))


@dataclass(frozen=True)
class HpcdConfig:
    """Components of the whole language model instead of branches (arXiv 2506.12479, section III-B1).

    All `components` together have `ratio` of the parameters of the layers that they replace. Each is trained
    for `steps` at the run's `adamw_lr`, falling along a cosine to `final`, those before it frozen; then each
    is fine-tuned for `tuning_steps` (the paper's SFT stage) from `tuning_lr`, to a fifth of it.
    """

    components: int = 4
    ratio: float = 0.8
    steps: int = 500
    final: float = 0.1
    tuning_steps: int = 100
    tuning_lr: float = 5e-6

    def __post_init__(self) -> None:
        if min(self.components, self.steps) < 1 or self.tuning_steps < 0:
            raise ValueError("hpcd wants at least 1 component and step, and tuning_steps of at least 0")
        if self.ratio <= 0 or self.tuning_lr <= 0 or not 0 <= self.final <= 1:
            raise ValueError("hpcd wants ratio and tuning_lr above 0, final in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class FamilyConfig(CodedRunConfig):
    """Branches of a checkpoint's language model, trained together (arXiv 2506.12479, section III-B2).

    base: a checkpoint of tofc with its codec: a bundled name, a folder, a hub id; shape_of: a base model of
    the same shape, for estimates before there is a checkpoint; branches: the family.

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
    calibration_pictures: whose inputs whiten the decomposition; ranks: "equal", every layer of a branch has
    the same share of its parameters, or "adaptive", the ranks that lose least (equation 3), in as many
    parameters. hpcd: components instead of branches, with frozen main model.
    """

    base: str = "scenes-tiny"
    shape_of: str | None = None
    branches: tuple[BranchConfig, ...] = ()
    hpcd: HpcdConfig | None = None
    ranks: Literal["equal", "adaptive"] = "equal"
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

    def steps_for(self, num_pictures: int | None) -> int:
        """Steps of the whole run over a corpus of so many pictures (None: endless)."""
        if self.hpcd is not None:
            return self.hpcd.components * (self.hpcd.steps + self.hpcd.tuning_steps)
        return super().steps_for(num_pictures)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hpcd is not None and (self.branches or self.main != "frozen"):
            raise ValueError("hpcd takes the place of branches, and its main model is frozen: leave both out")
        if not self.branches and self.hpcd is None:
            raise ValueError("branches is empty: name at least one, e.g. {exit: 2, ratios: [1.0, 0.5]}")
        if self.main not in MAIN:
            raise ValueError(f"main is {self.main!r}; choose one of {', '.join(MAIN)}")
        if self.choose not in CHOICES:
            raise ValueError(f"choose is {self.choose!r}; choose one of {', '.join(CHOICES)}")
        if not 0 <= self.kl <= 1:
            raise ValueError(f"kl is {self.kl}; it must be in [0, 1]")
        if min(self.temperature, self.main_ratio, self.adamw_lr, self.muon_lr or 1.0) <= 0:
            raise ValueError("temperature, main_ratio, muon_lr and adamw_lr must be above 0")
        if self.hpcd is not None and self.total_steps is not None:
            raise ValueError("hpcd has steps of its own: leave total_steps out")
        check_at_least(0, self, "main_weight", "weight_decay")
        check_at_least(1, self, "members_per_step", "members_per_pass", "calibration_pictures")
        low, high = self.qualities
        if not QUALITIES[0] <= low <= high <= QUALITIES[-1]:
            raise ValueError(f"qualities are {low} to {high}; choose from 1 to {QUALITIES[-1]}")
