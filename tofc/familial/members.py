"""The members of a family: what can be chosen, how large each is, and which fits a budget."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tofc.errors import UserError
from tofc.language import FULL

AUTO = "auto"
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}
_NAME = re.compile(r"(?P<branch>[a-z][a-z0-9_]*)(?:-(?P<percent>[1-9]\d?))?$")


@dataclass(frozen=True)
class Member:
    """One model of the family.

    `name` is what `exit=` takes: "full", a branch's name such as "e2", or with a share of its ranks in
    percent such as "e2-50". `exit_layer` blocks of the main model come first. `num_parameters` counts the
    language model: embeddings, blocks, branch, norm and head; `share` is that over the full model's.
    """

    name: str
    exit_layer: int
    num_parameters: int
    share: float
    branch: str | None = None
    ratio: float = 1.0


@dataclass(frozen=True)
class BranchSpec:
    """What is known of a branch without its weights.

    `ranks` holds each decomposed layer as [inputs, outputs, rank], block after block; `other_parameters`
    counts all else that the branch brings. `ratios` are those of its members.
    """

    name: str
    exit_layer: int
    ratios: tuple[float, ...]
    ranks: tuple[tuple[int, int, int], ...]
    other_parameters: int
    num_blocks: int = 1
    own_norm: bool = False
    own_head: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in (FULL, AUTO):
            raise UserError(f"a branch is called {self.name!r}; give small letters and digits, such as e2")

    def num_parameters(self, ratio: float) -> int:
        """Parameters that the branch brings at this share of its ranks."""
        low_rank = sum((n + m) * kept_rank(rank, ratio) for n, m, rank in self.ranks)
        return low_rank + self.other_parameters


@dataclass(frozen=True)
class MainSpec:
    """Sizes of the main language model: its blocks, and what stands around them.

    `outside` counts embeddings, norm and head (once where it is tied), `norm` and `head` those that a branch
    may bring instead; a tied head counts 0, for the embeddings are needed anyway.
    """

    num_layers: int
    layer: int
    outside: int
    norm: int
    head: int

    @property
    def num_parameters(self) -> int:
        """Parameters of the full model."""
        return self.outside + self.num_layers * self.layer


@dataclass(frozen=True)
class Roster(Sequence[Member]):
    """The members that a family lists, the smallest first, and any other rank of its branches."""

    main: MainSpec
    branches: tuple[BranchSpec, ...] = ()
    _listed: tuple[Member, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.branches]
        if len(set(names)) != len(names):
            raise UserError(f"branches share a name ({', '.join(names)}): give each its own")
        listed = [self._member(spec, ratio) for spec in self.branches for ratio in spec.ratios]
        listed.append(Member(FULL, self.main.num_layers, self.main.num_parameters, 1.0))
        object.__setattr__(self, "_listed", tuple(sorted(listed, key=lambda m: (m.num_parameters, m.name))))

    def __len__(self) -> int:
        return len(self._listed)

    def __getitem__(self, index: Any) -> Any:
        return self._listed[index]

    @property
    def names(self) -> list[str]:
        """What the members are called, the smallest first."""
        return [member.name for member in self]

    def named(self, name: str) -> Member:
        """The member of this name, listed or a share of a branch such as "e2-63".

        UserError where there is none, with those that there are.
        """
        for member in self:
            if member.name == name:
                return member
        match = _NAME.match(name)
        spec = next((s for s in self.branches if match and s.name == match["branch"]), None)
        if match is None or spec is None or (match["percent"] and not spec.ranks):
            raise UserError(f"there is no exit {name!r}; this model has: {', '.join(self.names)}")
        return self._member(spec, int(match["percent"] or 100) / 100)

    def deepest(self, names: Sequence[str]) -> Member:
        """The member among these that all others are part of: the one to load; UserError as of `named`."""
        return max((self.named(name) for name in names), key=lambda member: member.exit_layer)

    def member(
        self,
        *,
        budget: str | float | None = None,
        ratio: float | None = None,
        max_latency_ms: float | None = None,
        deepest: int | None = None,
    ) -> Member:
        """The member for at most `budget` parameters, or `ratio` of the full model's; see `Family.member`.

        As in section III-B2 the exit is the deepest that fits (at most `deepest`), and then as many ranks as
        fit. No rank falls below the smallest share listed for its branch, the smallest that was trained.
        UserError where nothing fits, and for `max_latency_ms`, which takes a loaded model.
        """
        if max_latency_ms is not None:
            raise UserError(
                "latency is measured on a loaded model: ask the family of an Edge, not of a folder"
            )
        if (budget is None) == (ratio is None):
            raise UserError("give exactly one of budget=, ratio= and max_latency_ms=")
        if ratio is not None and not 0 < ratio <= 1:
            raise UserError(f"ratio is {ratio}; give a share of the full model's parameters, above 0 to 1")
        size = parse_budget(budget) if budget is not None else (ratio or 0) * self.main.num_parameters
        reach = self.main.num_layers if deepest is None else deepest
        if size >= self.main.num_parameters and reach == self.main.num_layers:
            return self.named(FULL)
        within = [self._largest(spec, size) for spec in self.branches if spec.exit_layer <= reach]
        fitting = [member for member in within if member is not None]
        if not fitting:
            least = self[0]
            raise UserError(
                f"no member has {_count(size)} parameters or fewer; the smallest is {least.name} with "
                f"{_count(least.num_parameters)} ({least.share:.0%} of the full model); there are: "
                f"{', '.join(self.names)}"
            )
        return max(fitting, key=lambda member: (member.exit_layer, member.num_parameters))

    def _largest(self, spec: BranchSpec, budget: float) -> Member | None:
        percents = range(round(100 * spec.ratios[0]), 101) if spec.ranks else [100]
        members = [self._member(spec, percent / 100) for percent in percents]
        fitting = [member for member in members if member.num_parameters <= budget]
        return fitting[-1] if fitting else None

    def _member(self, spec: BranchSpec, ratio: float) -> Member:
        main = self.main
        replaced = main.norm * spec.own_norm + main.head * spec.own_head
        size = main.outside - replaced + spec.exit_layer * main.layer + spec.num_parameters(ratio)
        name = spec.name if ratio == 1 else f"{spec.name}-{round(100 * ratio)}"
        return Member(name, spec.exit_layer, size, size / main.num_parameters, spec.name, ratio)


def kept_rank(rank: int, ratio: float) -> int:
    """How many of `rank` ranks a partial branch of `ratio` keeps."""
    return max(1, int(rank * ratio + 1e-9))


def parse_budget(budget: str | float) -> float:
    """A number of parameters such as 3.2e9, "3.2B", "450M"; UserError for anything else."""
    if isinstance(budget, (int, float)) and not isinstance(budget, bool):
        number = float(budget)
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMB]?)\s*", str(budget), re.IGNORECASE)
        if match is None:
            raise UserError(
                f"budget is {budget!r}; give a number of parameters such as 3200000, 450M or 3.2B"
            )
        number = float(match[1]) * _UNITS[match[2].upper()]
    if not number > 0:
        raise UserError(f"budget is {budget!r}; give a number of parameters above 0")
    return number


def _count(number: float) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.0f}"
