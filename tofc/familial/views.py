"""A family around one main model: its members as views that share weights, made as they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tofc.errors import UserError
from tofc.familial.branches import (
    Branch,
    LowRankLinear,
    count_parameters,
    direct_exit,
    member_model,
    on_device_of,
)
from tofc.familial.members import BranchSpec, MainSpec, Member, Roster
from tofc.language.model import FULL, Exit, LanguageModel, text_model
from tofc.language.prompt import Prompt
from tofc.language.sequences import Sequences

Load = Callable[[BranchSpec, float], Branch]


class Family(Sequence[Member]):
    """The members of `model`, as a sequence from the smallest to the full model.

    `branches` are held in memory; those that only `roster` names are read by `load` when they are first
    used. The model may be cut off after some of its blocks: then only the members that exit there or before
    are to be had, and `default` says which one `exit=None` means.
    """

    def __init__(
        self,
        model: Any,
        branches: Sequence[Branch] = (),
        roster: Roster | None = None,
        load: Load | None = None,
        default: str = FULL,
    ) -> None:
        self.main, self.language = model, LanguageModel(model)
        self.roster = roster or Roster(main_spec(model), tuple(branch_spec(branch) for branch in branches))
        self.default = default
        self._held = {branch.name: (branch, 1.0) for branch in branches}
        self._load = load
        self._views: dict[str, Any] = {}
        self._exits: dict[str, Exit] = {}

    @property
    def num_blocks(self) -> int:
        """Blocks of the main model that are in memory."""
        return len(text_model(self.main).layers)

    @property
    def names(self) -> list[str]:
        """The exits that can be asked for here, the smallest first."""
        return [member.name for member in self]

    def __len__(self) -> int:
        return len(self._here())

    def __getitem__(self, index: Any) -> Any:
        return self._here()[index]

    def _here(self) -> list[Member]:
        return [member for member in self.roster if member.exit_layer <= self.num_blocks]

    def named(self, name: str | None) -> Member:
        """The member of this name, the default for None; UserError where it is not to be had here."""
        member = self.roster.named(self.default if name is None else name)
        if member.exit_layer > self.num_blocks:
            raise UserError(
                f"exit {member.name!r} needs {member.exit_layer} blocks, and only {self.num_blocks} were "
                f"loaded; here are: {', '.join(self.names)}. Load it with exit={member.name!r}"
            )
        return member

    def deepest(self, names: Sequence[str]) -> Member:
        """The member among these that all others are part of; UserError as of `named`."""
        return self.roster.deepest(names)

    def member(
        self,
        *,
        budget: str | float | None = None,
        ratio: float | None = None,
        max_latency_ms: float | None = None,
    ) -> Member:
        """The largest member within one limit, its exit first, then its ranks (section III-B2).

        budget: parameters of the language model, a number or "3.2B"; ratio: of the full model's, 0 to 1;
        max_latency_ms: a decoding step on this machine, measured now. UserError where nothing fits.
        """
        if max_latency_ms is None:
            return self.roster.member(budget=budget, ratio=ratio, deepest=self.num_blocks)
        if budget is not None or ratio is not None:
            raise UserError("give exactly one of budget=, ratio= and max_latency_ms=")
        return self._within_latency(max_latency_ms)

    def _within_latency(self, limit: float) -> Member:
        if not limit > 0:
            raise UserError(f"max_latency_ms is {limit}; give milliseconds above 0")
        times = {member.name: 1e3 * self.step_seconds(member.name) for member in self}
        fitting = [member for member in self if times[member.name] <= limit]
        if not fitting:
            shown = ", ".join(f"{name} {value:.2f} ms" for name, value in times.items())
            raise UserError(f"no member decodes a token within {limit} ms here: {shown}")
        return fitting[-1]

    def step_seconds(self, name: str, context: int = 96, repeats: int = 9) -> float:
        """Seconds that member `name` takes for one token behind `context` others: the least of `repeats`."""
        exit = self.exit(name)
        sequences = Sequences(self.language, [exit], keep=False)
        sequences.extend([Prompt(torch.zeros(context, dtype=torch.int64), (), {})])
        sequences.run(name)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            sequences.append([[0]])
            float(sequences.logits(name)[0, 0, 0])  # waits for the device
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    def branch(self, name: str, ratio: float = 1.0) -> Branch:
        """A branch with at least the leading share `ratio` of its ranks, read from disk if need be."""
        held = self._held.get(name)
        if held is None or held[1] < ratio:
            spec = next(spec for spec in self.roster.branches if spec.name == name)
            if self._load is None:
                raise UserError(f"the weights of branch {name} are not here: load the family from its folder")
            held = (on_device_of(self._load(spec, ratio), self.main), ratio)
            self._held[name] = held
        return held[0]

    def model(self, name: str | None = None) -> Any:
        """A member as a stock model that generates and caches: a view, no weight is copied.

        `name` is what a member is called; None for the default. UserError where it is not to be had.
        """
        member = self.named(name)
        if member.branch is None:
            return self.main
        if member.name not in self._views:
            branch = self.branch(member.branch, member.ratio)
            self._views[member.name] = member_model(self.main, branch, member.ratio)
        return self._views[member.name]

    def exit(self, name: str | None = None) -> Exit:
        """A member as `tofc.language` runs it; None for the default, UserError where it is not to be had."""
        member = self.named(name)
        if member.branch is None:
            return self.language.full
        if member.name not in self._exits:
            branch, full = self.branch(member.branch, member.ratio), self.language.full
            self._exits[member.name] = Exit(
                member.name,
                member.exit_layer,
                branch.at(member.ratio),
                full.norm if branch.norm is None else branch.norm,
                full.head if branch.head is None else branch.head,
            )
        return self._exits[member.name]

    def direct(self, exit_layer: int) -> Any:
        """Norm and head straight on the state after `exit_layer` blocks, as a model: the baseline."""
        return member_model(self.main, direct_exit(exit_layer))


def main_spec(model: Any) -> MainSpec:
    """The sizes of a whole main model."""
    text = text_model(model)
    head = count_parameters(text, model.lm_head) - count_parameters(text)
    layer = count_parameters(text.layers[0])
    outside = count_parameters(text) - count_parameters(text.layers) + head
    return MainSpec(len(text.layers), layer, outside, count_parameters(text.norm), head)


def branch_spec(branch: Branch) -> BranchSpec:
    """What the index says of a branch that is in memory."""
    low_rank = [module for module in branch.modules() if isinstance(module, LowRankLinear)]
    ranks = tuple((layer.in_features, layer.out_features, layer.rank) for layer in low_rank)
    decomposed = sum((n + m) * rank for n, m, rank in ranks)
    return BranchSpec(
        branch.name,
        branch.exit_layer,
        branch.ratios,
        ranks,
        count_parameters(branch) - decomposed,
        len(branch.blocks),
        branch.norm is not None,
        branch.head is not None,
    )
