"""Scoring answers in the benchmarks' own ways, with 95 % intervals; a model's answers to all scenes.

- yes/no as MME does it in lmms-eval: only the first four characters of an answer are searched; accuracy
  counts questions (``acc``), accuracy+ counts the pairs of which both are right (``acc+``).
- multiple choice as RealWorldQA: the letter, exactly.
- free answers: equal but for case and one final dot.
- descriptions: the share of stated facts that are true of the scene, and the share of the scene's facts that
  are stated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from eval.asking.answering import PICTURES_AT_ONCE, Answerer
from eval.asking.question import FORMS, Question, is_correct
from eval.lab import terminal
from eval.lab.intervals import Estimate, resamples
from eval.scenes.describe import describe, facts, is_true
from eval.scenes.questions import CATEGORIES, benchmark_questions
from eval.scenes.world import Scene, make_scene


@dataclass(frozen=True)
class Scored:
    """One question with the answer given and its score.

    ``correct`` out of ``total``: 0 or 1 of 1, but for a description the true facts of all stated ones;
    ``recalled`` out of ``recallable`` are the facts of the scene's canonical description that it states.
    """

    scene: int
    question: Question
    given: str
    correct: int
    total: int
    recalled: int = 0
    recallable: int = 0


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval over the scenes, all in 0..1; ``n`` is the number of trials."""

    n: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, trials: Iterable[tuple[int, int, int]]) -> Rate:
        """The share of (scene, correct, total); of no trial at all it is NaN with the interval 0..1."""
        sums: dict[int, list[int]] = {}
        for scene, correct, total in trials:
            before = sums.setdefault(scene, [0, 0])
            sums[scene] = [before[0] + correct, before[1] + total]
        sums = {scene: counts for scene, counts in sums.items() if counts[1]}
        if not sums:
            return cls(0, math.nan, 0.0, 1.0)
        right, of = (resamples(len(sums)) @ np.array(list(sums.values()), float)).T  # [1 + R] each
        found = Estimate.of(right / of)
        return cls(int(of[0]), found.value, found.low, found.high)


def score(scene: Scene, question: Question, given: str) -> Scored:
    """The score of one answer."""
    if question.form != "describe":
        return Scored(scene.index, question, given, int(is_correct(question, given)), 1)
    stated, truth = facts(given), facts(describe(scene))
    true = sum(is_true(fact, scene) for fact in stated)
    # An empty description states nothing wrong and nothing right: it counts as one wrong fact.
    return Scored(scene.index, question, given, true, max(len(stated), 1), len(stated & truth), len(truth))


def mme_pairs(scored: Iterable[Scored]) -> list[tuple[int, bool]]:
    """For every yes/no pair (MME's question id) its scene, and whether both answers are right."""
    pairs: dict[tuple[int, str, int | None], list[bool]] = {}
    for one in scored:
        if one.question.form == "yes_no":
            key = (one.scene, one.question.category, one.question.pair)
            pairs.setdefault(key, []).append(one.correct == one.total)
    return [(key[0], all(both)) for key, both in pairs.items()]


def mme_score(scored: Sequence[Scored]) -> float:
    """MME's score of one category: 100 times (accuracy plus accuracy+), 0 to 200; NaN without questions."""
    asked = [one for one in scored if one.question.form == "yes_no"]
    pairs = mme_pairs(asked)
    if not asked:
        return math.nan
    right = sum(both for _, both in pairs)
    return 100 * (sum(one.correct for one in asked) / len(asked) + right / len(pairs))


def _share(scored: Sequence[Scored]) -> Rate:
    return Rate.of((one.scene, one.correct, one.total) for one in scored)


def named_rates(scored: Sequence[Scored]) -> dict[str, Rate]:
    """Accuracy by form and category, accuracy+ of yes/no, and recall of descriptions; none without trials.

    Names are ``form`` or ``form/category``; ``yes_no+`` is MME's accuracy+, ``describe recall`` the share
    of the scenes' facts that were stated.
    """
    rates: dict[str, Rate] = {}
    for form in ("yes_no", "choice", "free"):
        of_form = [one for one in scored if one.question.form == form]
        rates[form] = _share(of_form)
        for category in CATEGORIES:
            rates[f"{form}/{category}"] = _share([o for o in of_form if o.question.category == category])
        if form == "yes_no":
            rates["yes_no+"] = Rate.of((scene, right, 1) for scene, right in mme_pairs(of_form))
    described = [one for one in scored if one.question.form == "describe"]
    rates["describe facts"] = _share(described)
    rates["describe recall"] = Rate.of((one.scene, one.recalled, one.recallable) for one in described)
    return {name: rate for name, rate in rates.items() if rate.n}


def held_out_rates(test: Sequence[Scored], heldout: Sequence[Scored]) -> list[tuple[str, Rate, Rate, float]]:
    """Held-out questions against ordinary ones: (form, ordinary, held-out, difference in points).

    ``test`` are answers on pairs seen in training, ``heldout`` those on the held-out split, of which only the
    questions that mention a held-out pair count. A negative difference means that the held-out pairs are
    answered worse. It compares with the ordinary accuracy at the held-out questions' mix of categories, so
    that a category asked more often in one split does not move it.
    """
    rows = []
    for form in FORMS:
        ordinary = _by_category(
            one for one in test if one.question.form == form and not one.question.held_out
        )
        unseen = _by_category(one for one in heldout if one.question.form == form and one.question.held_out)
        shared = sorted(ordinary.keys() & unseen.keys())
        if not shared:
            continue
        asked = {name: sum(one.total for one in unseen[name]) for name in shared}
        right = {name: _share(ordinary[name]).value for name in shared}
        expected = sum(asked[name] * right[name] for name in shared) / sum(asked.values())
        seen_rate, unseen_rate = (
            _share([one for name in shared for one in answers[name]]) for answers in (ordinary, unseen)
        )
        rows.append((form, seen_rate, unseen_rate, 100 * (unseen_rate.value - expected)))
    return rows


def _by_category(scored: Iterable[Scored]) -> dict[str, list[Scored]]:
    found: dict[str, list[Scored]] = {}
    for one in scored:
        found.setdefault(one.question.category, []).append(one)
    return found


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
        "rows": [{"name": name, **asdict(rate)} for name, rate in named_rates(scored).items()],
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
    return terminal.table(title, ["questions"], ("n", "correct %", "95 % interval"), rows)


def held_out_table(differences: Sequence[Mapping[str, Any]]) -> Table:
    """Questions about colour-object pairs that no training saw, beside those about others."""
    rows = (
        (
            row["form"],
            *_rate(row["held_out"]),
            terminal.percent(row["seen"]["value"]),
            f"{row['difference']:+.1f}",
        )
        for row in differences
    )
    columns = ("n", "correct %", "95 % interval", "seen pairs", "difference")
    return terminal.table("colour-object pairs never shown in training", ["held out"], columns, rows)


def _rate(rate: Mapping[str, Any]) -> tuple[str, str, str]:
    share, low, high = (terminal.percent(rate[name]) for name in ("value", "low", "high"))
    return str(rate["n"]), share, f"{low} to {high}"
