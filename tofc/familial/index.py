"""The index of a family, without torch: its members, their sizes, and the policy of `exit="auto"`.

A policy says which members answer in turn, how sure each has to be, and what that computes. Source: AI Flow
(arXiv 2506.12479), sections III-A2 and III-C.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tofc.config import Checkpoint, from_mapping
from tofc.errors import CheckpointError, UserError
from tofc.familial.members import AUTO, BranchSpec, MainSpec, Member, Roster
from tofc.hub import fetch, read_json
from tofc.language import FULL
from tofc.writing import write_json

if TYPE_CHECKING:
    from tofc.familial.views import Family
    from tofc.language.generate import Attempt, Decided
    from tofc.language.model import Exit
    from tofc.language.prompt import Prompt


@dataclass(frozen=True)
class Stage:
    """A member, and the least probability of each of its tokens with which its answer stands (0 to 1)."""

    member: str
    threshold: float

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"a policy's threshold is {self.threshold}; give a probability from 0 to 1")


@dataclass(frozen=True)
class Policy:
    """Members to try in turn, each exiting deeper than the last; behind them stands the full model."""

    stages: tuple[Stage, ...] = ()

    def exits(self, family: Family) -> list[tuple[Exit, float]]:
        """Exits and thresholds of all members; UserError where they do not go deeper and deeper."""
        names = [*(stage.member for stage in self.stages), FULL]
        depths = [family.named(name).exit_layer for name in names]
        if depths != sorted(set(depths)):
            raise UserError(
                f"a policy's members exit after blocks {depths}; name one a depth, the shallowest first"
            )
        thresholds = [*(stage.threshold for stage in self.stages), 0.0]
        return [(family.exit(name), threshold) for name, threshold in zip(names, thresholds, strict=True)]

    def decide(
        self, family: Family, prompts: Sequence[Prompt], ends: frozenset[int], max_new_tokens: int
    ) -> list[Decided]:
        """Greedy answers to a batch of prompts, each by the first member that is sure of it."""
        from tofc.language.generate import decide  # an index is read without torch

        return decide(family.language, self.exits(family), prompts, ends, max_new_tokens)


@dataclass(frozen=True)
class ExitCost:
    """Multiply-accumulates of blocks and heads, of dropped answers too; `shared` of them took the prompt
    through the main model's blocks, from where a deeper member goes on."""

    macs: int
    shared: int


def cost(family: Family, length: int, attempts: Sequence[Attempt]) -> ExitCost:
    """What members that were asked in turn about a prompt of `length` positions have computed."""
    from tofc.familial.branches import count_parameters

    width = family.language.model.config.get_text_config().hidden_size
    total = shared = depth = 0
    pairs = length * (length + 1) // 2  # that attend
    for attempt in attempts:
        exit = family.exit(attempt.exit)
        between, own = family.language.blocks[depth : exit.depth], list(exit.blocks)
        through = count_parameters(*between) * length + 2 * width * pairs * len(between)
        shared += through
        total += through + count_parameters(*own) * length + 2 * width * pairs * len(own)
        blocks = [*family.language.blocks[: exit.depth], *own]
        steps = attempt.num_tokens - 1  # the first token comes of the prompt
        seen = steps * length + steps * (steps + 1) // 2
        total += count_parameters(*blocks) * steps + 2 * width * seen * len(blocks)
        total += count_parameters(exit.head) * attempt.num_tokens
        depth = exit.depth
    return ExitCost(total, shared)


INDEX = "family.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Index:
    """What `family.json` says; `fingerprint` tells the main model that the branches were trained with."""

    fingerprint: str
    main: MainSpec
    branches: tuple[BranchSpec, ...]
    policy: Policy | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise CheckpointError(
                f"the family's format_version is {self.format_version}, this release reads {FORMAT_VERSION}: "
                "install the release of tofc that wrote it"
            )

    @property
    def roster(self) -> Roster:
        """The members."""
        return Roster(self.main, self.branches)

    def named(self, exit: str) -> Member | None:
        """The member that an exit names, None for "auto"; UserError where it is not to be had."""
        if exit != AUTO:
            return self.roster.named(exit)
        if self.policy is None:
            raise no_policy(self.roster.names)
        return None


def no_policy(names: Sequence[str]) -> UserError:
    """The error for an exit "auto" of a family of these members that nobody calibrated."""
    return UserError(
        f"exit {AUTO!r} needs a policy, and this family has none: calibrate one with `tofc familial "
        f"calibrate`, or name one of {', '.join(names)}"
    )


def write_index(folder: Path, index: Index) -> None:
    """Writes the index of a family's folder."""
    write_json(folder / INDEX, dataclasses.asdict(index))


def read_index(folder: str | Path) -> Index:
    """The index in a family's folder; CheckpointError where there is none."""
    file = fetch(folder, INDEX)
    return from_mapping(Index, read_json(file), str(file))


def check_exit(checkpoint: Checkpoint, exit: str) -> None:
    """UserError for an exit that a checkpoint does not have, before anything of it is loaded."""
    if checkpoint.family is not None:
        read_index(checkpoint.family).named(exit)
    elif exit != FULL:
        raise UserError(f"there is no exit {exit!r}; this model has: {FULL}")
