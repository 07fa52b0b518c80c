"""Every member's answers to the scenes, and those of direct early exits beside them, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from eval.asking.answering import PICTURES_AT_ONCE, answer_all, max_new_tokens
from eval.asking.question import Question
from eval.lab.rows import Store, blocks
from eval.scenes.questions import benchmark_questions
from eval.scenes.scoring import score
from eval.scenes.world import Scene, make_scene
from tofc import Device, Edge
from tofc.familial import FULL

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
    """Questions of one form and category about one scene: how many an exit answers right, of how many."""

    scene: int
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
    """The part of the store that holds the rows of an exit about a block of scenes."""
    return f"{one.name}-{block.start:06d}-{block.stop:06d}"


def answer(
    store: Store[ExitRow],
    device: Device,
    edge: Edge,
    chosen: Sequence[FamilyExit],
    split: str,
    scenes: int,
    quality: int | None,
) -> Iterator[int]:
    """Stores the rows that are missing, and yields the number of scenes done, block by block.

    Pictures travel as packets, or uncoded without quality.
    """
    edges = {one.name: direct_edge(edge, one.exit_layer) for one in chosen if one.kind == DIRECT}
    for block in blocks(scenes, PICTURES_AT_ONCE):
        missing = [one for one in chosen if not store.has(part_name(one, block))]
        made = [make_scene(split, i)[:2] for i in block] if missing else []
        pictures = [Image.fromarray(pixels) for _, pixels in made]
        if quality is None:
            seen: list[Any] = [device.features(picture) for picture in pictures]
        else:
            seen = [edge.decode_features(device.encode(picture, quality=quality)) for picture in pictures]
        questions = [[q for q in benchmark_questions(scene) if q.form != "describe"] for scene, _ in made]
        asked = [[(q.prompt, max_new_tokens(q)) for q in some] for some in questions]
        for one in missing:
            exit = one.name if one.kind == BRANCH else FULL
            given = answer_all(edges.get(one.name, edge), seen, asked, exit=exit)
            rows = [
                row
                for (scene, _), some, texts in zip(made, questions, given, strict=True)
                for row in _rows(scene, one.name, some, texts)
            ]
            store.write(part_name(one, block), rows)
        yield len(block)


def _rows(scene: Scene, name: str, questions: Sequence[Question], texts: Sequence[str]) -> Iterator[ExitRow]:
    sums: dict[tuple[str, str], list[int]] = {}
    for question, text in zip(questions, texts, strict=True):
        of = sums.setdefault((question.form, question.category), [0, 0])
        of[0] += score(scene, question, text).correct
        of[1] += 1
    for (form, category), (right, total) in sums.items():
        yield ExitRow(scene.index, name, form, category, right, total)
