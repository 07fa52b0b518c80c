"""How well a model answers the benchmark: scenes in, an accuracy table out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from PIL import Image
from rich.table import Table

from eval.asking.answering import PICTURES_AT_ONCE, Answerer
from eval.lab import tables
from eval.scenes.questions import CATEGORIES, benchmark_questions
from eval.scenes.scoring import Scored, held_out_rates, mme_score, named_rates, score
from eval.scenes.world import make_scene


def answer_scenes(answerer: Answerer, split: str, scenes: int) -> Iterator[list[Scored]]:
    """Asks all benchmark questions of scenes 0 to `scenes` - 1; yields the scored answers scene by scene."""
    for first in range(0, scenes, PICTURES_AT_ONCE):
        made = [make_scene(split, i)[:2] for i in range(first, min(first + PICTURES_AT_ONCE, scenes))]
        questions = [benchmark_questions(scene) for scene, _ in made]
        answers = answerer.answer([Image.fromarray(pixels) for _, pixels in made], questions)
        for (scene, _), asked, given in zip(made, questions, answers, strict=True):
            yield [score(scene, question, one) for question, one in zip(asked, given, strict=True)]


def summary(scored: Sequence[Scored], heldout: Sequence[Scored] = ()) -> dict[str, Any]:
    """The table in plain numbers: ``rows``, MME scores by category (0..200), held-out differences."""
    by_category = {
        category: mme_score([one for one in scored if one.question.category == category])
        for category in CATEGORIES
        if any(one.question.category == category and one.question.form == "yes_no" for one in scored)
    }
    return {
        "rows": [{"name": row.name, **asdict(row.rate)} for row in named_rates(scored)],
        "mme": by_category,
        "held_out": [
            {"form": form, "seen": asdict(seen), "held_out": asdict(unseen), "difference": difference}
            for form, seen, unseen, difference in held_out_rates(scored, heldout)
        ],
    }


def accuracy_table(result: Mapping[str, Any]) -> Table:
    """The rows of `summary`, with what else the command knows: shares in percent with 95 % intervals."""
    sent = result["bytes_per_picture"]
    how = f"quality {result['quality']}, {sent:.0f} bytes a picture" if sent else "uncoded"
    where = f"{result['scenes']} {result['split']} scenes"
    title = f"{result['checkpoint']} on {where}, {result['tokens']} tokens, {how}"
    rows = ((row["name"], *_rate(row)) for row in result["rows"])
    return tables.table(title, ["questions"], ("n", "correct %", "95 % interval"), rows)


def held_out_table(differences: Sequence[Mapping[str, Any]]) -> Table:
    """Questions about colour-object pairs that no training saw, beside those about others."""
    rows = (
        (
            row["form"],
            *_rate(row["held_out"]),
            tables.percent(row["seen"]["value"]),
            f"{row['difference']:+.1f}",
        )
        for row in differences
    )
    columns = ("n", "correct %", "95 % interval", "seen pairs", "difference")
    return tables.table("colour-object pairs never shown in training", ["held out"], columns, rows)


def _rate(rate: Mapping[str, Any]) -> tuple[str, str, str]:
    share, low, high = (tables.percent(rate[name]) for name in ("value", "low", "high"))
    return str(rate["n"]), share, f"{low} to {high}"
