"""Exits chosen question by question: how much of the full accuracy they keep, for how much of its compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.asking.answering import SHORT_ANSWER
from eval.lab.intervals import Estimate, resamples
from eval.rate.data import Data
from tofc import Device, Edge
from tofc.errors import UserError
from tofc.familial.index import Policy, cost
from tofc.language.generate import Decided
from tofc.language.prompt import answer_text

BATCH = 16


@dataclass(frozen=True)
class PolicyTally:
    """One picture's questions: how many are right by policy and by full member, and what each cost."""

    questions: int
    right: int
    right_full: int
    macs: int
    macs_full: int
    exits: Counter[str]


@dataclass(frozen=True)
class PolicyWorth:
    """What a policy reaches: `kept` of the full member's accuracy for `compute` of its multiply-accumulates.

    `accuracy` and `accuracy_full` are shares of the questions; `exits` how often each member answered.
    """

    questions: int
    accuracy: float
    accuracy_full: float
    kept: Estimate
    compute: Estimate
    exits: dict[str, float]


def choose(
    device: Device, edge: Edge, data: Data, pictures: int, quality: int | None
) -> Iterator[PolicyTally]:
    """Lets policy and full member answer; pictures travel as packets, uncoded without quality."""
    if edge.policy is None:
        raise UserError("this family has no policy: calibrate one with `tofc familial calibrate`")
    for index in range(pictures):
        example = data[index]
        image, asked = example.image, example.questions
        seen: Any = device.features(image) if quality is None else device.encode(image, quality=quality)
        prompts = edge.prompts([(seen, question.prompt) for question in asked])
        found: list[list[Decided]] = [[], []]
        for start in range(0, len(prompts), BATCH):
            for into, policy in zip(found, (edge.policy, Policy()), strict=True):
                into += policy.decide(edge.family, prompts[start : start + BATCH], edge.ends, SHORT_ANSWER)
        texts = [[answer_text(edge.tokenizer, one.ids) for one in some] for some in found]
        right, right_full = (
            sum(question.score(text)[0] for question, text in zip(asked, some, strict=True)) for some in texts
        )
        macs, macs_full = (
            sum(cost(edge.family, p.length, one.attempts).macs for p, one in zip(prompts, some, strict=True))
            for some in found
        )
        exits = Counter(one.exit for one in found[0])
        yield PolicyTally(len(asked), right, right_full, macs, macs_full, exits)


def summarise(pictures: Sequence[PolicyTally], seed: int = 0) -> PolicyWorth:
    """Shares over all pictures, with bootstrap intervals over them."""
    table = np.array([[p.right, p.right_full, p.macs, p.macs_full] for p in pictures], dtype=float)
    sums = resamples(len(pictures), seed=seed) @ table  # [1 + R, 4]
    asked = sum(p.questions for p in pictures)
    exits = sum((p.exits for p in pictures), Counter[str]())
    return PolicyWorth(
        asked,
        float(table[:, 0].sum() / asked),
        float(table[:, 1].sum() / asked),
        Estimate.of(sums[:, 0] / np.maximum(sums[:, 1], 1)),
        Estimate.of(sums[:, 2] / sums[:, 3]),
        {name: count / asked for name, count in sorted(exits.items())},
    )
