from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.asking.language import noun, plural
from eval.scenes import describe as describing
from eval.scenes import questions as asking
from eval.scenes.facts import SceneView
from eval.scenes.layout import COLOURED, COLOURS, HEIGHT, HELD_OUT, KINDS, WIDTH
from eval.scenes.world import Scene, SceneObject, make_scene

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, **{str(n): n for n in range(6)}}


def thing(kind, colour=None, x=100, foot=300, width=60, height=60, text=None):
    box = (x, foot - height, x + width, foot)
    return SceneObject(kind, colour, text, box, box, width * height, foot, ())


def scene_of(*things, split="train", index=0):
    return Scene(split, index, WIDTH, HEIGHT, "sunny", "road", tuple(sorted(things, key=lambda t: t.base)))


def random_scene(split, index):
    rng = np.random.default_rng([7, index])
    things = []
    for _ in range(int(rng.integers(2, 9))):
        kind = things[-1].kind if things and rng.random() < 0.4 else KINDS[rng.integers(len(KINDS))]
        kind = "sign" if not things and rng.random() < 0.5 else kind
        if kind == "sign" and any(other.kind == "sign" for other in things):
            continue
        colours = [c for c in COLOURS if split == "heldout" or (c, kind) not in HELD_OUT]
        colour = colours[rng.integers(len(colours))] if kind in COLOURED else None
        width, height = (int(n) for n in rng.integers(30, 140, 2))
        x, foot = int(rng.integers(0, WIDTH - width)), int(rng.integers(200, HEIGHT))
        text = str(rng.integers(10, 99)) if kind == "sign" else None
        things.append(thing(kind, colour, x, foot, width, height, text))
    return scene_of(*things, split=split, index=index)


TRAIN = [random_scene("train", index) for index in range(150)]
HELDOUT = [random_scene("heldout", index) for index in range(150)]


def drawn(scenes, count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (scene, question) for scene in scenes for question in asking.training_questions(scene, rng, count)
    ]


DRAWN = drawn(TRAIN, 24)


def bare(question):
    for suffix in (asking.CHOICE_SUFFIX, asking.FREE_SUFFIX, asking.YES_NO_SUFFIX, asking.PHRASE_SUFFIX):
        question = question.removesuffix(suffix)
    return question


# An oracle that reads a question's words and looks them up in the scene: it knows nothing of the templates.

LOOKS = {
    noun(kind, colour, many=many): (kind, colour)
    for kind in KINDS
    for colour in (None, *COLOURS)
    for many in (False, True)
}


def named(scene, words):
    kind, colour = LOOKS[words]
    return [t for t in scene.things if t.kind == kind and (colour is None or t.colour == colour)]


def only(scene, words):
    (one,) = named(scene, words)
    return one


def centre(one):
    return (one.box[0] + one.box[2]) / 2


def area(one):
    return one.area


def height(one):
    return one.box[3] - one.box[1]


def holds(scene, prompt):
    """Whether a yes/no question is to be answered with yes; None where the oracle does not know the words."""
    if m := re.fullmatch(r"(?:Is there|Do you see|Can you see) an? (.+?)(?: in the picture)?\?", prompt):
        return bool(named(scene, m[1]))
    if m := re.fullmatch(r"(?:Are there|Do you see) any (.+?)(?: in the picture)?\?", prompt):
        return bool(named(scene, m[1]))
    if m := re.fullmatch(r"Is the (.+) to the (left|right) of the (.+)\?", prompt):
        is_left = centre(only(scene, m[1])) < centre(only(scene, m[3]))
        return is_left == (m[2] == "left")
    if m := re.fullmatch(r"Do you see the (.+) to the (left|right) of the (.+)\?", prompt):
        is_left = centre(only(scene, m[1])) < centre(only(scene, m[3]))
        return is_left == (m[2] == "left")
    if m := re.fullmatch(
        r"Is the (.+) (?:on|in) the (left|right)(?: side| half)?(?: of the picture)?\?", prompt
    ):
        return (centre(only(scene, m[1])) < WIDTH / 2) == (m[2] == "left")
    if m := re.fullmatch(r"Are there (more|fewer) (.+) than (.+?)(?: in the picture)?\?", prompt):
        one, two = len(named(scene, m[2])), len(named(scene, m[3]))
        return one > two if m[1] == "more" else one < two
    number = r"(one|two|three|four|five|[1-5])"
    start = r"(?:Is there|Are there|Do you see)(?: exactly| only)?"
    if m := re.fullmatch(rf"{start} {number} (.+?)(?: in the picture)?\?", prompt):
        return len(named(scene, m[2])) == NUMBERS[m[1]]
    if m := re.fullmatch(
        r"(?:Is|Does) the (.+?) (?:look )?(bigger|smaller|taller|shorter) than the (.+)\?", prompt
    ):
        size = area if m[2] in ("bigger", "smaller") else height
        one, two = size(only(scene, m[1])), size(only(scene, m[3]))
        return one > two if m[2] in ("bigger", "taller") else one < two
    if m := re.fullmatch(r"Is the (.+?) (closer|further away)(?: to the camera)? than the (.+)\?", prompt):
        one, two = only(scene, m[1]).base, only(scene, m[3]).base
        return one > two if m[2] == "closer" else one < two
    if m := re.fullmatch(r"(?:Is|Are) the (?:colour of the )?(\w+?) (?:in |wearing )?(\w+)\?", prompt):
        return all(t.colour == m[2] for t in named(scene, m[1]))
    for pattern in (
        r"Does the (?P<on>.+) say (?P<text>\w+)\?",
        r"Does it say (?P<text>\w+) on the (?P<on>.+)\?",
        r"Is (?P<text>\w+) written on the (?P<on>.+)\?",
    ):
        if m := re.fullmatch(pattern, prompt):
            return only(scene, m["on"]).text == m["text"]
    return None


def test_an_independent_reader_agrees_with_every_yes_and_no():
    unread = []
    for scene, question in DRAWN:
        if question.form != "yes_no":
            continue
        truth = holds(scene, bare(question.prompt))
        if truth is None:
            unread.append(question.prompt)
        else:
            assert truth == (question.answer == "Yes"), (question, scene.things)
    assert not unread, unread[:5]


def options(question):
    return dict(re.findall(r"^([A-D])\. (.+)$", question.prompt, flags=re.MULTILINE))


def test_an_independent_reader_agrees_with_counts_colours_and_texts():
    seen = Counter()
    for scene, question in DRAWN:
        if question.form == "yes_no":
            continue
        answer = options(question)[question.answer] if question.form == "choice" else question.answer
        first = bare(question.prompt).split("\n")[0]
        if m := re.fullmatch(r"How many (.+?)(?: are there| are in the picture| do you see)\?", first):
            assert answer == str(len(named(scene, m[1])))
        elif m := re.fullmatch(r"What colou?r (?:is|are) the (\w+)(?: wearing)?\?", first):
            assert {t.colour for t in named(scene, m[1])} == {answer}
        elif m := re.fullmatch(r"What does the (.+) say\?|What is written on the (.+)\?", first):
            assert only(scene, m[1] or m[2]).text == answer
        elif m := re.fullmatch(r"Which of these (?:is in the picture|can you see)(?:\?|: .+)", first):
            assert named(scene, answer)
            assert not any(named(scene, other) for other in options(question).values() if other != answer)
        else:
            continue
        seen[question.category] += 1
    assert min(seen[category] for category in ("existence", "count", "colour", "text")) > 30


def test_wrong_options_differ_from_the_right_one_and_from_each_other():
    for _, question in DRAWN:
        if question.form == "choice":
            offered = options(question)
            assert 2 <= len(offered) <= 4
            assert len(set(offered.values())) == len(offered)
            assert list(offered) == list("ABCD")[: len(offered)]
            assert question.answer in offered


def test_yes_and_no_are_balanced_in_every_category():
    answers = Counter((q.category, q.answer) for _, q in drawn(TRAIN, 60) if q.form == "yes_no")
    for category in asking.CATEGORIES:
        yes, no = answers[category, "Yes"], answers[category, "No"]
        assert yes + no > 150
        assert abs(yes - no) < 4 * (yes + no) ** 0.5, category


def test_letters_are_uniform_and_sides_and_counts_balanced():
    questions = [q for _, q in drawn(TRAIN, 60)]
    letters = Counter(q.answer for q in questions if q.form == "choice" and len(options(q)) == 4)
    expected = sum(letters.values()) / 4
    assert all(abs(letters[letter] - expected) < 4 * expected**0.5 for letter in "ABCD")
    sides = Counter(q.answer for q in questions if q.form == "free" and q.category == "position")
    assert abs(sides["left"] - sides["right"]) < 0.15 * sum(sides.values())
    counts = Counter(q.answer for q in questions if q.form == "free" and q.category == "count")
    assert set(counts) >= {"0", "1", "2", "3"}
    assert counts["1"] < 0.6 * sum(counts.values())


def test_the_mix_of_forms_and_the_share_of_suffixes():
    questions = [q for _, q in drawn(TRAIN, 60)]
    forms = Counter(q.form for q in questions)
    for form, weight in zip(asking.FORMS, asking.FORM_WEIGHTS, strict=False):
        assert forms[form] / len(questions) == pytest.approx(weight, abs=0.05)
    for form, suffixes in (
        ("yes_no", (asking.YES_NO_SUFFIX, asking.PHRASE_SUFFIX)),
        ("choice", (asking.CHOICE_SUFFIX,)),
    ):
        asked = [q for q in questions if q.form == form]
        share = sum(q.prompt.endswith(suffixes) for q in asked) / len(asked)
        assert share == pytest.approx(asking.SUFFIX_SHARE, abs=0.05)


def mentioned(question):
    """Every (colour, kind) that stands in a question or among its answers, found in the words alone."""
    text = question.prompt + "\n" + question.answer
    pairs = {
        (colour, kind)
        for kind in KINDS
        for colour in COLOURS
        for many in (False, True)
        if re.search(rf"\b{noun(kind, colour, many=many)}\b", text)
    }
    if question.category == "colour":
        kinds = [kind for kind in KINDS if re.search(rf"\b({kind}|{plural(kind)})\b", question.prompt)]
        pairs |= {(colour, kind) for kind in kinds for colour in COLOURS if re.search(rf"\b{colour}\b", text)}
    return pairs


def test_only_the_heldout_split_mentions_held_out_pairs():
    for _, question in DRAWN:
        assert not question.held_out
        assert not mentioned(question) & HELD_OUT, question
    for scene in TRAIN:
        assert not any(question.held_out for question in asking.benchmark_questions(scene))


def test_the_heldout_split_asks_mostly_about_held_out_pairs_and_marks_them():
    asked = [
        question
        for scene in HELDOUT
        if any((t.colour, t.kind) in HELD_OUT for t in scene.things)
        for question in asking.benchmark_questions(scene)
    ]
    assert len(asked) > 300
    assert sum(question.held_out for question in asked) > 0.45 * len(asked)
    by_pair = Counter()
    for question in asked:
        if mentioned(question) & HELD_OUT:
            assert question.held_out, question
        if question.form == "yes_no" and question.held_out:
            by_pair[question.answer] += 1
    assert by_pair["Yes"] == by_pair["No"]


def test_a_training_scene_that_shows_a_held_out_pair_is_refused():
    colour, kind = sorted(HELD_OUT)[0]
    with pytest.raises(ValueError, match="held-out"):
        asking.training_questions(scene_of(thing(kind, colour)), np.random.default_rng(0), 1)
    with pytest.raises(ValueError, match="no thing"):
        asking.benchmark_questions(scene_of())


def test_benchmark_questions_are_pairs_choices_free_ones_and_a_description():
    for scene in TRAIN[:60]:
        questions = asking.benchmark_questions(scene)
        assert questions == asking.benchmark_questions(scene)
        forms = Counter(question.form for question in questions)
        assert forms["describe"] == 1
        assert 2 <= forms["choice"] <= 3
        assert forms["free"] == 2
        assert forms["yes_no"] >= 4
        for number in {q.pair for q in questions if q.form == "yes_no"}:
            both = [q for q in questions if q.pair == number]
            assert sorted(q.answer for q in both) == ["No", "Yes"]
            assert len({q.category for q in both}) == 1
            assert all(q.prompt.endswith(" Please answer yes or no.") for q in both)
        for question in questions:
            if question.form == "choice":
                assert question.prompt.endswith(asking.CHOICE_SUFFIX)


def test_a_rich_scene_gets_all_six_categories():
    scene = scene_of(
        thing("car", "red", 20, 300, 90, 40),
        thing("car", "blue", 320, 320, 100, 50),
        thing("tree", None, 180, 250, 80, 120),
        thing("sign", "white", 300, 430, 80, 100, "STOP"),
    )
    questions = asking.benchmark_questions(scene)
    assert {q.category for q in questions if q.form == "yes_no"} == set(asking.CATEGORIES)


GOLDEN = [
    "Can you see a blue bus in the picture? Yes",
    "Can you see a blue truck in the picture? No",
    "Is there exactly 1 blue bus in the picture? Yes",
    "Do you see 2 blue buses? No",
    "Is the dog on the left? Yes",
    "Is the dog on the right? No",
    "Is the colour of the bus blue? Yes",
    "Is the colour of the bus yellow? No",
    "Is the dog closer than the bus? Yes",
    "Is the bus closer than the dog? No",
]


def test_the_benchmark_is_the_same_on_every_machine():
    scene = scene_of(
        thing("dog", None, 20, 300), thing("bus", "blue", 300, 250, 120, 70), split="test", index=5
    )
    prompts = [
        bare(q.prompt) + " " + q.answer for q in asking.benchmark_questions(scene) if q.form == "yes_no"
    ]
    assert prompts == GOLDEN


def test_the_same_generator_draws_the_same_questions():
    one, two = (asking.training_questions(TRAIN[0], np.random.default_rng(3), 40) for _ in range(2))
    assert one == two
    assert one != asking.training_questions(TRAIN[0], np.random.default_rng(4), 40)


def test_what_a_person_might_dispute_is_not_asked():
    middle = scene_of(thing("dog", None, 200, 300, 48, 40), thing("cone", None, 205, 310, 48, 42))
    dogs = scene_of(thing("dog", None, 20, 300), thing("dog", None, 300, 310))
    for _, question in drawn([middle], 200):
        assert question.category != "position"
        assert not (question.category == "comparison" and "closer" in question.prompt)
        assert not re.search("bigger|taller", question.prompt)
    for _, question in drawn([dogs], 200):
        assert "the dog" not in question.prompt
        assert question.category in ("existence", "count", "comparison")


def test_margins_of_left_of_and_of_size():
    view = SceneView(scene_of(thing("dog", None, 20, 300), thing("cone", None, 220, 300, 40, 40)))
    dog, cone = view.by_kind["dog"][0], view.by_kind["cone"][0]
    assert view.left_of(dog, cone) is True
    assert view.left_of(cone, dog) is False
    assert view.left_of(dog, dog) is None
    assert view.beats("bigger", dog, cone)
    assert not view.beats("bigger", cone, dog)
    assert not view.beats("closer", dog, cone)


@pytest.mark.parametrize("index", range(12))
def test_rendered_scenes_can_be_asked_about(index):
    for split in ("train", "heldout"):
        scene = make_scene(split, index)[0]
        assert len(asking.benchmark_questions(scene)) >= 8
        text = describing.describe(scene)
        assert all(describing.is_true(fact, scene) for fact in describing.facts(text)), text


def test_every_fact_of_a_description_is_true_and_its_length_in_range():
    for scene in TRAIN + HELDOUT:
        text = describing.describe(scene)
        stated = describing.facts(text)
        assert all(describing.is_true(fact, scene) for fact in stated), text
        assert not any(fact.sort == "unparsed" for fact in stated)
        assert len(text.split()) >= 20, text
        assert len(re.findall(r"\w+|[.,]", text)) <= 60, text
        assert sum(fact.sort == "count" and fact.number > 0 for fact in stated) == len(
            {t.kind for t in scene.things}
        )


def test_a_description_reads_from_left_to_right():
    scene = scene_of(
        thing("bus", "red" if ("red", "bus") not in HELD_OUT else "blue", 320, 280, 100, 60),
        thing("dog", None, 30, 330),
        thing("sign", "white", 200, 400, 60, 90, "42"),
    )
    colour = next(t.colour for t in scene.things if t.kind == "bus")
    assert describing.describe(scene) == (
        "A street with one dog, one sign and one bus. On the left there is a dog. "
        f"In the middle there is a white sign. On the right there is a {colour} bus. The sign says 42."
    )


def test_false_facts_are_found_out():
    scene = scene_of(thing("dog", None, 20, 300), thing("car", "red", 320, 280, 100, 60))
    stated = describing.facts(
        "A street with two dogs and one car. On the left there is a blue car. "
        "The sign says STOP. Nice weather."
    )
    truth = {fact.sort + fact.kind: describing.is_true(fact, scene) for fact in stated}
    assert truth == {
        "countdog": False, "countcar": True, "thingcar": False, "sidecar": False,
        "textsign": False, "unparsed": False,
    }  # fmt: skip


@settings(max_examples=150)
@given(
    st.text(
        alphabet=st.sampled_from("A street with two cars, and. On the left there is red dog says\n"),
        max_size=120,
    )
)
def test_the_parser_takes_any_text(text):
    for fact in describing.facts(text):
        assert describing.is_true(fact, TRAIN[0]) in (True, False)


@settings(max_examples=60)
@given(st.integers(0, 149), st.integers(0, 10**6))
def test_cutting_a_description_never_makes_it_wrong_in_its_whole_sentences(index, cut):
    scene = TRAIN[index]
    text = describing.describe(scene)
    stop = text.rfind(". ", 0, cut % len(text))
    if stop > 0:
        assert all(describing.is_true(fact, scene) for fact in describing.facts(text[: stop + 1]))
