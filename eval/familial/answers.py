"""Every member's answers to the scenes, and those of direct early exits beside them, as rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from eval.asking.answering import PICTURES_AT_ONCE, answer_all, max_new_tokens
from eval.asking.question import Question
from eval.scenes.questions import benchmark_questions
from eval.scenes.scoring import score
from eval.scenes.world import Scene, make_scene
from tofc import Device, Edge
from tofc.familial import FULL

BRANCH, DIRECT = "branch", "direct"


@dataclass(frozen=True)
class System:
    """A member, or a direct exit: norm and head on the state after so many blocks.

    `num_parameters` counts the language model; `kind` is "branch" (the full model too) or "direct".
    """

    name: str
    kind: str
    exit_layer: int
    num_parameters: int


@dataclass(frozen=True)
class Row:
    """Questions of one form and category about one scene: how many a system answers right, of how many."""

    scene: int
    system: str
    form: str
    category: str
    right: int
    of: int


def systems(edge: Edge) -> list[System]:
    """The members that an edge has, then a direct exit after each block but the last."""
    main = edge.family.roster.main
    members = [System(m.name, BRANCH, m.exit_layer, m.num_parameters) for m in edge.family]
    exits = range(1, main.num_layers)
    direct = [System(f"direct{i}", DIRECT, i, main.outside + i * main.layer) for i in exits]
    return members + direct


def direct_edge(edge: Edge, exit_layer: int) -> Edge:
    """The edge with a model that stops after `exit_layer` blocks and speaks at once."""
    model: Any = edge.family.direct(exit_layer)
    return Edge(model, edge.tokenizer, edge.template, edge.config, edge.codec)


def answer(
    device: Device, edge: Edge, chosen: Sequence[System], split: str, scenes: int, quality: int | None
) -> Iterator[list[Row]]:
    """Rows of all systems, some scenes at a time; pictures travel as packets, or uncoded without quality."""
    edges = {s.name: direct_edge(edge, s.exit_layer) for s in chosen if s.kind == DIRECT}
    for first in range(0, scenes, PICTURES_AT_ONCE):
        made = [make_scene(split, i)[:2] for i in range(first, min(first + PICTURES_AT_ONCE, scenes))]
        pictures = [Image.fromarray(pixels) for _, pixels in made]
        if quality is None:
            seen: list[Any] = [device.features(picture) for picture in pictures]
        else:
            seen = [edge.decode_features(device.encode(picture, quality=quality)) for picture in pictures]
        questions = [[q for q in benchmark_questions(scene) if q.form != "describe"] for scene, _ in made]
        for system in chosen:
            asked = [[(q.prompt, max_new_tokens(q)) for q in some] for some in questions]
            exit = system.name if system.kind == BRANCH else FULL
            given = answer_all(edges.get(system.name, edge), seen, asked, exit=exit)
            yield [
                row
                for (scene, _), some, texts in zip(made, questions, given, strict=True)
                for row in _rows(scene, system.name, some, texts)
            ]


def _rows(scene: Scene, system: str, questions: Sequence[Question], texts: Sequence[str]) -> Iterator[Row]:
    sums: dict[tuple[str, str], list[int]] = {}
    for question, text in zip(questions, texts, strict=True):
        of = sums.setdefault((question.form, question.category), [0, 0])
        of[0] += score(scene, question, text).correct
        of[1] += 1
    for (form, category), (right, total) in sums.items():
        yield Row(scene.index, system, form, category, right, total)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row.__dataclass_fields__)
        writer.writerows(vars(row).values() for row in rows)


def read_rows(path: Path) -> list[Row]:
    """Reads what `write_rows` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(int(r["scene"]), r["system"], r["form"], r["category"], int(r["right"]), int(r["of"]))
            for r in csv.DictReader(file)
        ]
