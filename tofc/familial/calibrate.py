"""Thresholds of a policy from validation questions: the cheapest that keep the full member's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
from PIL import Image

from tofc.device import Device
from tofc.edge import Edge
from tofc.errors import UserError
from tofc.familial.index import Policy, Stage, cost
from tofc.language.model import FULL
from tofc.language.prompt import Prompt, answer_text

GRID = 25  # thresholds tried for each stage
PICTURES_AT_ONCE = 4


@dataclass(frozen=True)
class MemberAnswers:
    """What members said to N validation questions, a column a member, the full one last.

    `right` and `confidence` [N, M]; `macs` [N, M] is what a member costs alone, `shared` [N, M] the part
    of it from which the next goes on.
    """

    members: tuple[str, ...]
    right: np.ndarray
    confidence: np.ndarray
    macs: np.ndarray
    shared: np.ndarray


@dataclass(frozen=True)
class Calibrated:
    """A policy with what it reached in calibration: shares of the full member's accuracy and compute."""

    policy: Policy
    accuracy: float
    compute: float


@dataclass(frozen=True)
class CalibrationQuestion:
    """One question about a picture: how long an answer may get, and whether one is right."""

    prompt: str
    max_new_tokens: int
    right: Callable[[str], bool]


def ask(
    device: Device,
    edge: Edge,
    members: Sequence[str],
    pictures: Iterable[tuple[Image.Image, Sequence[CalibrationQuestion]]],
) -> MemberAnswers:
    """Lets each member answer the questions about pictures, which travel as packets do by default."""
    names = [*members, FULL]
    rows: list[list[tuple[float, ...]]] = []
    waiting = iter(pictures)
    while some := list(islice(waiting, PICTURES_AT_ONCE)):
        asked = [(device.encode(image), one) for image, questions in some for one in questions]
        prompts = edge.prompts([(packet, one.prompt) for packet, one in asked])
        if prompts:
            found = [_alone(edge, name, prompts, [one for _, one in asked]) for name in names]
            rows += [list(each) for each in zip(*found, strict=True)]
    if not rows:
        raise UserError("the data has no questions about these pictures: give another source")
    table = np.array(rows)  # [N, M, 4]
    return MemberAnswers(tuple(names), table[..., 0], table[..., 1], table[..., 2], table[..., 3])


def _alone(
    edge: Edge, name: str, prompts: Sequence[Prompt], asked: Sequence[CalibrationQuestion]
) -> list[tuple[float, ...]]:
    """What one member makes of the prompts: right, confidence, cost, and the shared part of it."""
    policy = Policy(()) if name == FULL else Policy((Stage(name, 0.0),))
    found = policy.decide(edge.family, prompts, edge.ends, max(one.max_new_tokens for one in asked))
    costs = [cost(edge.family, p.length, one.attempts) for p, one in zip(prompts, found, strict=True)]
    said = [answer_text(edge.tokenizer, one.ids) for one in found]
    right = [float(one.right(text)) for one, text in zip(asked, said, strict=True)]
    rows = zip(right, found, costs, strict=True)
    return [(hit, one.confidence, spent.macs, spent.shared) for hit, one, spent in rows]


def calibrate(asked: MemberAnswers, keep: float) -> Calibrated:
    """The cheapest thresholds with at least `keep` of the full member's accuracy on these questions.

    UserError where none keep so much, which happens only above what the full member reaches itself.
    """
    steps = np.linspace(0, 1, GRID)
    tried = [np.append(np.quantile(column, steps), 1.0) for column in asked.confidence.T[:-1]]
    full_right, full_macs = asked.right[:, -1].sum(), asked.macs[:, -1].sum()
    best: tuple[float, float, tuple[float, ...]] | None = None
    for thresholds in product(*(np.unique(values) for values in tried)):
        right, macs = outcome(asked, thresholds)
        if right >= keep * full_right and (best is None or macs < best[0]):
            best = (macs, right, thresholds)
    if best is None:
        raise UserError(f"no policy keeps {keep:.0%} of the full member's accuracy; ask for less")
    named = zip(asked.members[:-1], best[2], strict=True)
    policy = Policy(tuple(Stage(name, float(threshold)) for name, threshold in named))
    kept = best[1] / full_right if full_right else 1.0  # of nothing, all
    return Calibrated(policy, float(kept), float(best[0] / full_macs))


def outcome(asked: MemberAnswers, thresholds: Sequence[float]) -> tuple[float, float]:
    """Right answers and cost of all questions, where one goes deeper while a member is less sure."""
    undecided = np.ones(len(asked.right), dtype=bool)
    right = macs = 0.0
    for stage, threshold in enumerate((*thresholds, 0.0)):
        done = asked.shared[undecided, stage - 1].sum() if stage else 0.0
        macs += asked.macs[undecided, stage].sum() - done
        sure = undecided & (asked.confidence[:, stage] >= threshold)
        right += asked.right[sure, stage].sum()
        undecided &= ~sure
    return right, macs
