"""The index of a family: its members and their sizes, and how an exit is found by its name; without torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tofc.config import Checkpoint, from_mapping
from tofc.errors import CheckpointError, UserError
from tofc.familial.members import AUTO, BranchSpec, MainSpec, Member, Roster
from tofc.familial.policy import Policy
from tofc.hub import fetch, read_json
from tofc.language import FULL
from tofc.writing import write_json

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
            raise UserError(
                f"exit {AUTO!r} needs a policy, and this family has none: calibrate one with `tofc familial "
                f"calibrate`, or name one of {', '.join(self.roster.names)}"
            )
        return None


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
