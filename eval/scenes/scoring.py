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

from PIL import Image
from rich.table import Table

from eval.asking.answering import PICTURES_AT_ONCE, Answerer
from eval.asking.question import FORMS, Question, is_correct
from eval.lab import terminal
from eval.scenes.describe import describe, facts, is_true
from eval.scenes.questions import CATEGORIES, benchmark_questions
from eval.scenes.world import Scene, make_scene

_Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


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
    """A share with its Wilson 95 % interval, all in 0..1; ``n`` is the number of trials."""

    n: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, correct: int, total: int) -> Rate:
        """The share ``correct / total``; of no trial at all it is NaN with the interval 0..1."""
        low, high = wilson(correct, total)
        return cls(total, correct / total if total else math.nan, low, high)


@dataclass(frozen=True)
class NamedRate:
    """One line of the accuracy table: which questions, and their rate."""

    name: str
    rate: Rate


def score(scene: Scene, question: Question, given: str) -> Scored:
    """The score of one answer."""
    if question.form != "describe":
        return Scored(scene.index, question, given, int(is_correct(question, given)), 1)
    stated, truth = facts(given), facts(describe(scene))
    true = sum(is_true(fact, scene) for fact in stated)
    # An empty description states nothing wrong and nothing right: it counts as one wrong fact.
    return Scored(scene.index, question, given, true, max(len(stated), 1), len(stated & truth), len(truth))


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The Wilson score interval at 95 %: (low, high) in 0..1; (0, 1) when nothing was counted.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    if total == 0:
        return 0.0, 1.0
    share, z2 = correct / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mme_pairs(scored: Iterable[Scored]) -> list[bool]:
    """For every yes/no pair (MME's question id) whether both answers are right: the trials of accuracy+."""
    pairs: dict[tuple[int, str, int | None], list[bool]] = {}
    for one in scored:
        if one.question.form == "yes_no":
            key = (one.scene, one.question.category, one.question.pair)
            pairs.setdefault(key, []).append(one.correct == one.total)
    return [all(both) for both in pairs.values()]


def mme_score(scored: Sequence[Scored]) -> float:
    """MME's score of one category: 100 times (accuracy plus accuracy+), 0 to 200; NaN without questions."""
    asked = [one for one in scored if one.question.form == "yes_no"]
    pairs = mme_pairs(asked)
    if not asked:
        return math.nan
    return 100 * (sum(one.correct for one in asked) / len(asked) + sum(pairs) / len(pairs))


def _share(scored: Sequence[Scored]) -> Rate:
    return Rate.of(sum(one.correct for one in scored), sum(one.total for one in scored))


def named_rates(scored: Sequence[Scored]) -> list[NamedRate]:
    """Accuracy by form and category, accuracy+ of yes/no, and recall of descriptions; no row without trials.

    Row names are ``form`` or ``form/category``; ``yes_no+`` is MME's accuracy+, ``describe recall`` the share
    of the scenes' facts that were stated.
    """
    rows: list[NamedRate] = []
    for form in ("yes_no", "choice", "free"):
        of_form = [one for one in scored if one.question.form == form]
        rows.append(NamedRate(form, _share(of_form)))
        for category in CATEGORIES:
            of_category = [one for one in of_form if one.question.category == category]
            rows.append(NamedRate(f"{form}/{category}", _share(of_category)))
        if form == "yes_no":
            pairs = mme_pairs(of_form)
            rows.append(NamedRate("yes_no+", Rate.of(sum(pairs), len(pairs))))
    described = [one for one in scored if one.question.form == "describe"]
    rows.append(NamedRate("describe facts", _share(described)))
    recalled = Rate.of(sum(one.recalled for one in described), sum(one.recallable for one in described))
    rows.append(NamedRate("describe recall", recalled))
    return [row for row in rows if row.rate.n]


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
        total = sum(unseen[name][1] for name in shared)
        expected = sum(unseen[name][1] * ordinary[name][0] / ordinary[name][1] for name in shared) / total
        seen_rate, unseen_rate = (
            Rate.of(sum(counts[name][0] for name in shared), sum(counts[name][1] for name in shared))
            for counts in (ordinary, unseen)
        )
        rows.append((form, seen_rate, unseen_rate, 100 * (unseen_rate.value - expected)))
    return rows


def _by_category(scored: Iterable[Scored]) -> dict[str, tuple[int, int]]:
    """(correct, total) of each category."""
    counts: dict[str, tuple[int, int]] = {}
    for one in scored:
        correct, total = counts.get(one.question.category, (0, 0))
        counts[one.question.category] = (correct + one.correct, total + one.total)
    return counts


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
