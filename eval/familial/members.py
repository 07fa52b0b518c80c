"""Every member's answers about pictures as rows: of each alone, of direct early exits, and by exits chosen.

Exits chosen question by question: how much of the full accuracy they keep, for how much of its compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.asking.answering import PICTURES_AT_ONCE, SHORT_ANSWER, AskedPicture, Data, answer_all
from eval.lab.intervals import Estimate, resamples
from eval.lab.rows import Store, blocks
from tofc import Device, Edge
from tofc.errors import UserError
from tofc.familial import FULL
from tofc.familial.index import Policy, cost
from tofc.language.generate import Decided
from tofc.language.prompt import answer_text

BRANCH, DIRECT = "branch", "direct"


@dataclass(frozen=True)
class FamilyExit:
    """A member, or a direct exit: norm and head on the state after so many blocks.

    `num_parameters` counts the language model; `kind` is "branch" (the full model too) or "direct".
    """

    name: str
    kind: str
    exit_layer: int
    num_parameters: int


@dataclass(frozen=True)
class ExitRow:
    """Questions of one form and category about one picture: how many an exit answers right, of how many."""

    picture: str
    system: str
    form: str
    category: str
    right: int
    of: int


def exits_of(edge: Edge) -> list[FamilyExit]:
    """The members that an edge has, then a direct exit after each block but the last."""
    main = edge.family.roster.main
    members = [FamilyExit(m.name, BRANCH, m.exit_layer, m.num_parameters) for m in edge.family]
    layers = range(1, main.num_layers)
    return members + [FamilyExit(f"direct{i}", DIRECT, i, main.outside + i * main.layer) for i in layers]


def direct_edge(edge: Edge, exit_layer: int) -> Edge:
    """The edge with a model that stops after `exit_layer` blocks and speaks at once."""
    model: Any = edge.family.direct(exit_layer)
    return Edge(model, edge.tokenizer, edge.template, edge.config, edge.codec)


def part_name(one: FamilyExit, block: range) -> str:
    """The part of the store that holds the rows of an exit about a block of pictures."""
    return f"{one.name}-{block.start:06d}-{block.stop:06d}"


def answer(
    store: Store[ExitRow],
    device: Device,
    edge: Edge,
    chosen: Sequence[FamilyExit],
    data: Data,
    pictures: int,
    quality: int | None,
) -> Iterator[int]:
    """Stores the rows that are missing, and yields the number of pictures done, block by block.

    Pictures travel as packets, or uncoded without quality.
    """
    edges = {one.name: direct_edge(edge, one.exit_layer) for one in chosen if one.kind == DIRECT}
    for block in blocks(pictures, PICTURES_AT_ONCE):
        missing = [one for one in chosen if not store.has(part_name(one, block))]
        examples = [data[index] for index in block] if missing else []
        images = [example.image for example in examples]
        if quality is None:
            seen: list[Any] = [device.features(image) for image in images]
        else:
            seen = [edge.decode_features(device.encode(image, quality=quality)) for image in images]
        asked = [[(q.prompt, q.max_new_tokens) for q in example.questions] for example in examples]
        for one in missing:
            exit = one.name if one.kind == BRANCH else FULL
            given = answer_all(edges.get(one.name, edge), seen, asked, exit=exit)
            rows = [
                row
                for example, texts in zip(examples, given, strict=True)
                for row in _rows(example, one.name, texts)
            ]
            store.write(part_name(one, block), rows)
        yield len(block)


def _rows(example: AskedPicture, name: str, texts: Sequence[str]) -> Iterator[ExitRow]:
    sums: dict[tuple[str, str], list[int]] = {}
    for question, text in zip(example.questions, texts, strict=True):
        counted = sums.setdefault((question.form, question.category), [0, 0])
        right, of = question.score(text)
        counted[0] += right
        counted[1] += of
    for (form, category), (right, of) in sums.items():
        yield ExitRow(example.name, name, form, category, right, of)


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
