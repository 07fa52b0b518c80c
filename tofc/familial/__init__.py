"""Familial models: one language model in many sizes, which share their weights.

    for member in familial.family("scenes-tiny"):
        print(member.name, member.exit_layer, member.num_parameters)
    familial.member("scenes-tiny", ratio=0.45).name

Source: AI Flow (arXiv 2506.12479), section III.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofc.familial.members import AUTO, Member, Roster
from tofc.language import FULL

if TYPE_CHECKING:
    from tofc.familial.views import Family

__all__ = ["AUTO", "FULL", "Family", "Member", "Roster", "family", "member"]


def __getattr__(name: str) -> Any:
    if name != "Family":  # whose module takes torch
        raise AttributeError(f"module 'tofc.familial' has no attribute {name!r}")
    from tofc.familial.views import Family

    return Family


def family(model: Any) -> Family | Roster:
    """The members of a model, the smallest first, each with `name`, `exit_layer`, `num_parameters`, `share`.

    `model` is a Family, an `Edge`, or where a checkpoint lies (a bundled name, a folder, a hub id, a folder
    of `tofc.familial.store`), of which only the index is read then. Raises CheckpointError where a
    checkpoint has no family.
    """
    from tofc.config import CONFIG_NAME, resolve
    from tofc.errors import CheckpointError
    from tofc.familial.index import INDEX
    from tofc.familial.store import BASE, FAMILY, index_of
    from tofc.familial.views import Family

    if isinstance(model, (Family, Roster)):
        return model
    if isinstance(model, (str, Path)):
        folder = Path(model)
        if (folder / FAMILY / INDEX).is_file() and not (folder / CONFIG_NAME).exists():
            return index_of(folder / FAMILY, folder / BASE).roster  # of a plain language model
        checkpoint = resolve(model)
        if checkpoint.family is None:
            raise CheckpointError(
                f"{model} has no family, only the full model: train one with `tofc train-familial CONFIG`"
            )
        return index_of(checkpoint.family, checkpoint.base).roster
    held = getattr(model, "family", None)
    return held if isinstance(held, Family) else Family(model)


def member(
    model: Any,
    *,
    budget: str | float | None = None,
    ratio: float | None = None,
    max_latency_ms: float | None = None,
) -> Member:
    """The largest member of `model` (see `family`) within one limit; see `Family.member`.

    `max_latency_ms` is measured, which takes a loaded model (a Family or an Edge).
    """
    return family(model).member(budget=budget, ratio=ratio, max_latency_ms=max_latency_ms)
