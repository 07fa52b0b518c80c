from __future__ import annotations

import json
import math

import numpy as np
import pytest

from eval.asking.answering import PipelineAnswerer
from eval.asking.question import Question, is_correct, yes_or_no
from eval.scenes.describe import describe
from eval.scenes.questions import CATEGORIES, benchmark_questions
from eval.scenes.scoring import (
    Rate,
    Scored,
    answer_scenes,
    held_out_rates,
    mme_score,
    named_rates,
    score,
    summary,
)
from eval.scenes.world import make_scene
from tests.eval.commands import evaluate


def asked(form="yes_no", category="count", answer="Yes", pair=0, held_out=False):
    return Question(form, category, "Is it so?", answer, pair, held_out)


def scored(correct, form="yes_no", category="count", pair=0, scene=0, held_out=False):
    return Scored(scene, asked(form, category, pair=pair, held_out=held_out), "", int(correct), 1)


@pytest.mark.parametrize(
    ("given", "heard"),
    [
        ("Yes", "yes"), ("no.", "no"), (" YES, it is", "yes"), ("No, there is none", "no"), ("y", "yes"),
        ("N", "no"), ("a no", "no"), ("It is a yes", "other"), ("", "other"), ("maybe", "other"),
        ("x", "other"),
    ],
)  # fmt: skip
def test_yes_or_no_hears_only_the_first_four_characters(given, heard):
    assert yes_or_no(given) == heard


@pytest.mark.parametrize(
    ("form", "answer", "given", "right"),
    [
        ("yes_no", "No", "no", True), ("yes_no", "No", "yes", False), ("yes_no", "No", "perhaps", False),
        ("choice", "B", "B", True), ("choice", "B", " B.", True), ("choice", "B", "b", False),
        ("choice", "B", "B. red", False), ("free", "STOP", "stop.", True), ("free", "red", " Red", True),
        ("free", "3", "33", False), ("free", "3", "", False),
    ],
)  # fmt: skip
def test_answers_are_matched_by_form(form, answer, given, right):
    assert is_correct(asked(form, answer=answer), given) is right


def test_intervals_are_over_scenes():
    """Asking the same of a scene again makes nothing surer; more scenes do."""
    few = Rate.of((scene, scene % 2, 1) for scene in range(40))
    assert (few.n, few.value) == (40, 0.5)
    assert 0.3 < few.low < 0.4 < 0.6 < few.high < 0.7
    again = Rate.of((scene, scene % 2, 1) for scene in range(40) for _ in range(10))
    assert (again.n, again.value, again.low, again.high) == (400, 0.5, few.low, few.high)
    more = Rate.of((scene, scene % 2, 1) for scene in range(1000))
    assert 0.45 < more.low < more.high < 0.55
    nothing = Rate.of([(0, 0, 0)])
    assert math.isnan(nothing.value)
    assert (nothing.n, nothing.low, nothing.high) == (0, 0.0, 1.0)


def test_mme_counts_questions_and_whole_pairs():
    answers = [scored(True), scored(True), scored(True, scene=1), scored(False, scene=1)]
    assert mme_score(answers) == pytest.approx(100 * (3 / 4 + 1 / 2))
    assert mme_score([scored(True), scored(True)]) == 200
    assert math.isnan(mme_score([]))
    rates = named_rates(answers)
    assert (rates["yes_no"].n, rates["yes_no"].value) == (4, 0.75)
    assert (rates["yes_no+"].n, rates["yes_no+"].value) == (2, 0.5)
    assert set(rates) == {"yes_no", "yes_no/count", "yes_no+"}


def test_a_description_is_scored_by_its_facts():
    scene = make_scene("test", 0)[0]
    question = asked("describe", "describe", describe(scene))
    whole = score(scene, question, describe(scene))
    assert whole.correct == whole.total == whole.recalled == whole.recallable
    spoiled = score(scene, question, describe(scene) + " There is a dragon.")
    assert (spoiled.correct, spoiled.total) == (whole.correct, whole.total + 1)
    empty = score(scene, question, "")
    assert (empty.correct, empty.total, empty.recalled) == (0, 1, 0)
    with pytest.raises(ValueError, match="describe"):
        is_correct(question, "anything")


def test_the_held_out_difference_does_not_follow_the_mix_of_categories():
    # Colour is answered fully and counting not at all on both sides: no difference, however often each is.
    test = [scored(True, category="colour")] * 9 + [scored(False)] + [scored(True, held_out=True)]
    heldout = [scored(True, category="colour", held_out=True)] + [scored(False, held_out=True)] * 9
    ((form, seen, unseen, difference),) = held_out_rates(test, [*heldout, scored(True)])
    assert (form, seen.n, unseen.n) == ("yes_no", 10, 10)
    assert difference == pytest.approx(0)
    worse = [scored(False, category="colour", held_out=True)]
    assert held_out_rates(test, worse)[0][3] == pytest.approx(-100)
    assert held_out_rates(test, []) == []


class Oracle:
    """Knows every answer by heart, except in one category, where it always says the first thing."""

    def __init__(self, split, scenes, ignorant=None):
        self.answers = {}
        self.sizes = []
        for index in range(scenes):
            for name in (split, "heldout"):
                scene, pixels, _ = make_scene(name, index)
                for question in benchmark_questions(scene):
                    known = question.category != ignorant
                    key = (pixels.tobytes(), question.prompt)
                    self.answers[key] = question.answer if known else "Yes"

    def answer(self, images, questions):
        assert len(images) == len(questions)
        return [
            [self.answers[np.asarray(image).tobytes(), question.prompt] for question in some]
            for image, some in zip(images, questions, strict=True)
        ]


def test_an_oracle_is_perfect_and_ignorance_shows_in_its_category():
    perfect = [one for part in answer_scenes(Oracle("validation", 18), "validation", 18) for one in part]
    assert all(row["value"] == 1 for row in summary(perfect)["rows"])
    assert set(summary(perfect)["mme"].values()) == {200}
    ignorant = [
        one for part in answer_scenes(Oracle("validation", 6, "count"), "validation", 6) for one in part
    ]
    rates = {row["name"]: row["value"] for row in summary(ignorant)["rows"]}
    assert rates["yes_no/count"] == 0.5
    assert all(rates[f"yes_no/{name}"] == 1 for name in CATEGORIES if name != "count")
    assert summary(ignorant)["mme"]["count"] == 50


def test_the_pipeline_answerer_keeps_the_order_and_counts_bytes():
    class Said:
        def __init__(self, text):
            self.text = text

    class FakeDevice:
        def features(self, image, tokens=None):
            return f"{image} {tokens}"

        def encode(self, image, quality=None, tokens=None):
            return image.encode() * quality

    class FakeEdge:
        def answer_many(self, requests, exit, batch_size, max_new_tokens):
            return [Said(f"{question} {seen} {max_new_tokens}") for seen, question in requests]

    def questions(*forms):
        return [Question(form, "count", f"{form}?", "", None, False) for form in forms]

    given = [questions("yes_no", "describe", "free"), questions("describe", "choice")]
    uncoded = PipelineAnswerer(FakeDevice(), FakeEdge(), tokens="all")
    assert uncoded.answer(["a", "b"], given) == [
        ["yes_no? a all 12", "describe? a all 128", "free? a all 12"],
        ["describe? b all 128", "choice? b all 12"],
    ]
    assert uncoded.sizes == []
    coded = PipelineAnswerer(FakeDevice(), FakeEdge(), quality=3)
    assert coded.answer(["a", "bb"], given)[1] == ["describe? b'bbbbbb' 128", "choice? b'bbbbbb' 12"]
    assert coded.sizes == [3, 6]


def test_the_accuracy_command_prints_the_table_and_writes_the_numbers(monkeypatch, tmp_path):
    monkeypatch.setattr(PipelineAnswerer, "from_pretrained", lambda *_: Oracle("test", 4))
    target = tmp_path / "new" / "numbers.json"
    code, printed, _ = evaluate("scenes", "accuracy", "--limit", 4, "--json", target)
    assert code == 0
    assert "yes_no/position" in printed
    assert "never shown in training" in printed
    numbers = json.loads(target.read_text())
    assert numbers["scenes"] == 4
    assert {row["name"]: row["value"] for row in numbers["rows"]}["describe facts"] == 1
    assert [path.name for path in target.parent.iterdir()] == ["numbers.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["accuracy", "--quality", "9"], "1 to 8"),
        (["accuracy", "--tokens", "none"], "or all"),
        (["accuracy", "--checkpoint", "no-such-model"], "no-such-model"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(arguments, words):
    code, _, said = evaluate("scenes", *arguments)
    assert code == 2
    assert words in said
    assert len(said.splitlines()) == 1


def test_show_and_sheet_show_the_scene_and_a_picture(tmp_path):
    from PIL import Image

    picture, sheet = tmp_path / "picture.png", tmp_path / "sheet.png"
    code, printed, _ = evaluate("scenes", "show", 2, "--save", picture)
    assert code == 0
    scene, pixels, _ = make_scene("test", 2)
    assert describe(scene) in printed
    assert np.array_equal(np.asarray(Image.open(picture)), pixels)
    assert evaluate("scenes", "sheet", "--out", sheet, "--count", 4)[0] == 0
    with Image.open(sheet) as drawn:
        assert drawn.width == 4 * pixels.shape[1]
    assert evaluate("scenes", "show", "-3")[0] == 2
