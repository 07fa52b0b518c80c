"""Photographs as a training corpus: true answers after crops and flips, balanced, in the trained wordings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from eval.asking.language import plural
from eval.asking.question import Draw
from eval.photos.balance import ask
from eval.photos.corpus import PhotoCorpus
from eval.photos.facts import View, half, patches, which_half
from eval.photos.names import SYNONYMS, Namer, canonical, class_names
from eval.photos.paraphrases import paraphrases, with_slip
from eval.photos.questions import Asker
from eval.photos.records import ENVIRONMENT, WHOLE, Photo, PhotoObject, read_set
from eval.photos.wordings import WORDINGS, held_out_wordings, trained_wordings
from tests.eval.photo_sets import write_detections, write_lines
from tofc.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detections(tmp_path_factory.mktemp("set"), "train", 150)


@pytest.fixture(scope="module")
def corpus(folder: Path) -> PhotoCorpus:
    return PhotoCorpus(size=48, questions=10, sets=[str(folder)])


def test_the_same_number_gives_the_same_picture_and_questions(folder: Path, corpus: PhotoCorpus) -> None:
    again = PhotoCorpus(size=48, questions=10, sets=[str(folder)])
    for index in (0, 7, corpus.num_pictures("train") + 7):
        one, other = corpus.picture("train", index, 3), again.picture("train", index, 3)
        assert np.array_equal(one.pixels, other.pixels)
        assert one.turns == other.turns
        assert one.turns
        assert one.pixels.shape == (3, 48, 48)
        assert one.pixels.dtype == np.uint8
    assert corpus.picture("train", 7, 3).turns != corpus.picture("train", 7, 4).turns


IN_ANOTHER_PROCESS = """
import sys
from eval.photos.corpus import PhotoCorpus

corpus = PhotoCorpus(size=32, questions=6, sets=sys.argv[1:])
for index in range(corpus.num_pictures("train")):
    print(corpus.photos("train")[index].things)
    print(corpus.picture("train", index, 5).turns)
"""


def test_another_process_draws_the_same_questions(tmp_path: Path) -> None:
    """A set of names goes through its order in no process twice: PYTHONHASHSEED decides it."""
    captions = ["a man rides a horse past a dog , a cat and a car", "a dog , a car , a bus and a person"]
    said = write_lines(tmp_path / "said", "train", [{"captions": captions}] * 12)
    boxes = write_detections(tmp_path / "boxes", "train", 12)
    told = [
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS, str(said), str(boxes)],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert told[0].count("Turn(") > 50
    assert told[0] == told[1]


def test_within_every_class_as_many_are_answered_yes_as_no(corpus: PhotoCorpus) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    draw = Draw(np.random.default_rng(0))
    for _ in range(5):
        for photo in corpus.photos("train"):
            for question in ask(View(photo), corpus._balance(photo.labelled), draw, 10):
                if question.category == "existence":
                    answers[question.subject][question.answer] += 1
    assert {"person", "dog", "couch", "animal"} <= set(answers)
    for name, given in answers.items():
        share = given["Yes"] / given.total()
        assert given.total() > 25, (name, given)
        assert abs(share - 0.5) < 4 * (0.25 / given.total()) ** 0.5, (name, given)


def test_only_what_is_labelled_is_said_to_be_absent_and_nothing_unsure_is_asked(corpus: PhotoCorpus) -> None:
    rng = np.random.default_rng(1)
    namer = Namer(class_names()[:80])
    for photo in corpus.photos("train"):
        sure = {thing.name for thing in photo.things if thing.sure}
        unsure = {thing.name for thing in photo.things} - sure
        for turn in corpus.turns(photo, rng, 10):
            if turn.category == "yes_no/existence":
                named = namer.named(turn.prompt)
                assert named <= photo.labelled
                assert not named & unsure


def test_answers_follow_crop_and_flip() -> None:
    things = (PhotoObject("dog", (0.0, 0.2, 0.3, 0.6)), PhotoObject("cat", (0.7, 0.3, 1.0, 0.8)))
    photo = Photo("set", Path("none"), things, frozenset({"dog", "cat", "cow"}))
    plain, flipped = View(photo), View(photo, flip=True)
    assert [half(thing, 0) for thing in (plain.by_name["dog"][0], plain.by_name["cat"][0])] == [0, 1]
    assert [half(thing, 0) for thing in (flipped.by_name["dog"][0], flipped.by_name["cat"][0])] == [1, 0]
    right = View(photo, (0.5, 0.0, 1.0, 1.0))
    assert right.present == ["cat"]
    assert right.absent == ["cow", "dog"]
    x0, y0, x1, y1 = right.by_name["cat"][0].box or ()
    assert (x0, y0, x1, y1) == pytest.approx((0.4, 0.3, 1.0, 0.8))
    sliver = View(photo, (0.25, 0.0, 1.0, 1.0))  # a sixth of the dog is left
    assert "dog" not in sliver.present
    assert "dog" not in sliver.absent
    assert sliver.counts() == {"cat": 1}


def test_pictures_show_what_their_boxes_say_after_the_crop(corpus: PhotoCorpus) -> None:
    from eval.photos.corpus import load
    from tests.eval.photo_sets import CLASSES, COLOURS

    greys = {canonical(name): grey for name, grey in zip(CLASSES, COLOURS, strict=True)}
    checked = 0
    for photo in corpus.photos("train"):
        if len(photo.things) != 1 or photo.things[0].box is None:
            continue
        x0, y0, x1, y1 = photo.things[0].box
        crop = (x0 / 2, y0 / 2, (1 + x1) / 2, (1 + y1) / 2)
        pixels = load(photo, 96, crop, flip=True)
        box = View(photo, crop, flip=True).by_name[photo.things[0].name][0].box or ()
        column, row = (int(96 * (low + high) / 2) for low, high in ((box[0], box[2]), (box[1], box[3])))
        assert abs(int(pixels[0, row, column]) - int(greys[photo.things[0].name])) < 12
        checked += 1
    assert checked > 10


def test_pictures_of_training_go_through_an_image_codec(tmp_path: Path) -> None:
    folder = write_detections(tmp_path, "train", 4)
    write_detections(tmp_path, "val", 2)
    corpus = PhotoCorpus(size=48, questions=10, sets=[str(folder)])
    coded = PhotoCorpus(size=48, questions=10, sets=[str(folder)], coded_share=1.0)
    for number in range(3):
        plain, sent = corpus.picture("train", number, 1), coded.picture("train", number, 1)
        assert plain.turns == sent.turns
        assert np.array_equal(sent.pixels, coded.picture("train", number, 1).pixels)
        assert 0.1 < np.abs(plain.pixels.astype(float) - sent.pixels).mean() < 60
    seen, unchanged = (one.picture("validation", 0, 1).pixels for one in (corpus, coded))
    assert np.array_equal(seen, unchanged)


def test_patches_say_on_which_side_their_object_is() -> None:
    dog = PhotoObject("dog", (0.0, 0.5, 0.25, 1.0))
    view = View(Photo("made", Path("one.jpg"), things=(dog,)), WHOLE, True)
    _, regions = patches(view, 8)
    side, height = (which_half(regions[:, axis]).reshape(8, 8) for axis in (0, 1))
    assert side[4:, 6:].tolist() == [[1, 1]] * 4  # mirrored
    assert height[4:, 6:].tolist() == [[1, 1]] * 4
    assert (side >= 0).sum() == (height >= 0).sum() == 4 * 2


def worded(wording: str) -> str:
    """A wording with its slots filled, as two kinds of question might fill them alike."""
    slots = {"pic": "the photo", "one": "dog", "a": "a dog", "many": "dogs", "other": "cat"}
    return wording.format(**slots, list="a dog or a cat", number="two", side="left").lower().rstrip("?.")


def test_a_fifth_of_the_wordings_of_every_kind_is_never_trained() -> None:
    for kind, wordings in WORDINGS.items():
        held, trained = held_out_wordings(kind), trained_wordings(kind)
        assert len(held) == len(wordings) // 5
        assert sorted([*held, *trained]) == sorted(set(wordings))
        asked = {worded(wording) for wording in (*trained, *paraphrases(kind))}
        assert not {worded(wording) for wording in held} & asked, kind


def test_training_asks_in_its_own_wordings_and_in_many(corpus: PhotoCorpus) -> None:
    held = {worded(wording) for kind in WORDINGS for wording in held_out_wordings(kind)}
    asker = Asker(Draw(np.random.default_rng(0)), careless=True)
    slots = {"other": "cat", "list": "a dog or a cat", "number": "two", "side": "left"}
    for kind in ("existence", "count", "side", "list"):
        asked = [asker.word(kind, one="dog", **slots).lower().rstrip("?.") for _ in range(600)]
        assert len(set(asked)) > 200
        assert not held & set(asked)


def test_a_slip_changes_one_word_and_never_one_that_matters() -> None:
    draw = Draw(np.random.default_rng(0))
    wording = "How many {many} can you see on the left of {pic}?"
    slipped = [with_slip(wording, draw) for _ in range(400)]
    changed = [text for text in slipped if text != wording]
    assert 40 < len(changed) < 140
    for text in changed:
        words = text.split()
        assert text.startswith("How many {many}")
        assert "left" in words
        assert "{pic}?" in words
        missing = [word for word in wording.split() if word not in words]
        assert len(missing) == 1, text


def test_questions_use_everyday_words_and_answers_one_name(corpus: PhotoCorpus) -> None:
    prompts = " ".join(
        turn.prompt.lower() for i in range(120) for turn in corpus.picture("train", i, 0).turns
    )
    turns = [turn for i in range(120) for turn in corpus.picture("train", i, 0).turns]
    assert "sofa" in prompts
    assert "couch" in prompts
    assert plural("person") in prompts
    answers = " ".join(turn.answer.lower() for turn in turns)
    assert "couch" in answers
    assert not any(word in answers for word in SYNONYMS["couch"])


def test_people_s_own_questions_are_asked_of_whole_pictures_and_mirrored(tmp_path: Path) -> None:
    pairs = [{"question": "what is on the left side of the bed", "answer": "night_stand"},
             {"question": "on which side is the lamp", "answer": "right"}]  # fmt: skip
    corpus = PhotoCorpus(size=32, sets=[str(write_lines(tmp_path / "rooms", "train", [{"qa": pairs}]))])
    photo, rng = corpus.photos("train")[0], np.random.default_rng(0)
    asked = {
        turn.prompt.lower().partition("?")[0]: turn.answer for turn in corpus.turns(photo, rng, 9, flip=True)
    }
    prompt = next(prompt for prompt in asked if "bed" in prompt)
    assert "right side of the bed" in prompt
    assert asked[prompt] == "night stand"
    assert any(answer == "left" for answer in asked.values())
    assert corpus.turns(photo, rng, 9, crop=(0.0, 0.0, 0.5, 1.0)) == ()


def test_captions_and_folders_of_classes_are_weak_labels(tmp_path: Path) -> None:
    captions = ["A man walks his dog .", "A person with a puppy on the beach .", "Someone runs"]
    photo = read_set(write_lines(tmp_path / "said", "train", [{"captions": captions}]), "train")[0]
    assert {thing.name for thing in photo.things if thing.sure} == {"person", "dog"}
    assert "horse" in photo.labelled
    assert "chair" not in photo.labelled
    folder = tmp_path / "classes"
    for name in ("airplanes", "okapi"):
        write_lines(folder, f"train/{name}", [{}])
    first = next(p for p in read_set(folder, "train") if p.file.parent.name == "airplanes")
    assert View(first).main() == "airplane"
    assert "okapi" in View(first).absent


def test_what_cannot_be_read_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"instances_train\.json"):
        read_set(tmp_path, "train")
    (tmp_path / "instances_train.json").write_text('{"images": [{}], "categories": [], "annotations": []}')
    with pytest.raises(UserError, match="annotations of train"):
        read_set(tmp_path, "train")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=ENVIRONMENT):
        PhotoCorpus().photos("train")
    with pytest.raises(UserError, match="split"):
        PhotoCorpus(sets=[str(tmp_path)]).photos("heldout")
