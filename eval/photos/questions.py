"""Questions of every kind about a photograph: those that its boxes answer, and people's own (DAQUAR)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.asking.language import NUMBER_WORDS, listed, plural, with_article
from eval.asking.question import Draw, Question, with_letters
from eval.photos.facts import MARGIN, View, area, half, left_of, third
from eval.photos.names import content_list, spoken
from eval.photos.paraphrases import paraphrases, with_slip
from eval.photos.records import PhotoObject
from eval.photos.wordings import PICTURES, held_out_wordings, trained_wordings

SIDES, HEIGHTS, PARTS = ("left", "right"), ("top", "bottom"), ("left", "middle", "right")
PLACES = ("indoors", "outdoors")
_PARAPHRASE_SHARE = 0.5  # of training questions
_SYNONYM_SHARE = 0.35  # of questions that use another word than the canonical one
_NO_ARTICLE_SHARE = 0.06  # "is there dog in picture"
_SOMEONE_SHARE = 0.25  # of the questions for people that ask for anyone


@dataclass(frozen=True)
class Asker:
    """Words questions: in a trained wording or, if `held_out`, in one that training never uses."""

    draw: Draw
    held_out: bool = False
    careless: bool = False  # as training words them: with paraphrases, slips, and articles left out

    def word(self, kind: str, *, one: str = "", other: str = "", **slots: str) -> str:
        """A question of `kind` in a random wording, its slots filled for the class `one`."""
        wording = self.draw.pick((held_out_wordings if self.held_out else trained_wordings)(kind))
        bare = self.careless and self.draw.chance(_NO_ARTICLE_SHARE)
        if self.careless:
            if paraphrases(kind) and self.draw.chance(_PARAPHRASE_SHARE):
                wording = self.draw.pick(paraphrases(kind))
            wording = with_slip(wording, self.draw)
        return wording.format(
            pic=self.draw.pick(PICTURES),
            one=one,
            a=one if bare else with_article(one) if one else "",
            many=plural(one) if one else "",
            other=other,
            **slots,
        )

    def name(self, name: str) -> str:
        """A word for a class: mostly the canonical one."""
        words = spoken(name)
        if len(words) == 1 or not self.draw.chance(_SYNONYM_SHARE):
            return name
        return self.draw.pick(words[1:])


def existence(asker: Asker, name: str, there: bool, negatives: str = "") -> Question:
    """Whether there is something of a class."""
    if name == "person" and asker.draw.chance(_SOMEONE_SHARE):
        prompt = asker.word("someone")
    else:
        prompt = asker.word("existence", one=asker.name(name))
    answer = "Yes" if there else "No"
    return Question("yes_no", "existence", prompt, answer, None, asker.held_out, name, negatives)


def identity(asker: Asker, name: str, there: bool) -> Question:
    """Whether the picture is one of a class."""
    prompt = asker.word("identity", one=asker.name(name))
    return Question("yes_no", "identity", prompt, "Yes" if there else "No", None, asker.held_out, name)


def choice(asker: Asker, name: str, wrong: Sequence[str], letters: bool) -> Question:
    """Which of several classes is there: by a letter, or by its name."""
    if letters:
        prompt, answer = with_letters(asker.word("choice"), name, wrong, asker.draw)
        return Question("choice", "choice", prompt, answer, None, asker.held_out, name)
    options = listed([with_article(one) for one in asker.draw.shuffled([name, *wrong])], "or")
    prompt = asker.word("choice_words", list=options)
    return Question("free", "choice", prompt, name, None, asker.held_out, name)


def count(asker: Asker, name: str, number: int) -> Question:
    """How many there are of a class, answered in digits."""
    prompt = asker.word("count", one=asker.name(name))
    return Question("free", "count", prompt, str(number), None, asker.held_out, name)


def count_check(asker: Asker, name: str, number: int, asked: int) -> Question:
    """Whether there are as many as `asked` (at least two)."""
    prompt = asker.word("count_check", one=asker.name(name), number=NUMBER_WORDS[asked])
    answer = "Yes" if number == asked else "No"
    return Question("yes_no", "count", prompt, answer, None, asker.held_out, name)


def where(asker: Asker, thing: PhotoObject, axis: int) -> Question | None:
    """In which half of the picture a thing is: left or right (axis 0), top or bottom (1)."""
    place = half(thing, axis)
    if place is None:
        return None
    kind, answers = ("side", SIDES) if axis == 0 else ("height", HEIGHTS)
    prompt = asker.word(kind, one=asker.name(thing.name))
    category = "left/right" if axis == 0 else "top/bottom"
    return Question("free", category, prompt, answers[place], None, asker.held_out, thing.name)


def side_check(asker: Asker, thing: PhotoObject, there: bool) -> Question | None:
    """Whether a thing is on one side."""
    place = half(thing, 0)
    if place is None:
        return None
    side = SIDES[place if there else 1 - place]
    prompt = asker.word("side_check", one=asker.name(thing.name), side=side)
    return Question("yes_no", "position", prompt, "Yes" if there else "No", None, asker.held_out, thing.name)


def part(asker: Asker, thing: PhotoObject) -> Question | None:
    """Where a thing is: on the left, in the middle or on the right."""
    place = third(thing)
    if place is None:
        return None
    prompt = asker.word("where", one=asker.name(thing.name))
    return Question("free", "where", prompt, PARTS[place], None, asker.held_out, thing.name)


def indoors_or_outdoors(asker: Asker, outdoors: bool) -> Question:
    """Where the picture was taken, asked openly or with yes or no."""
    if asker.draw.chance(0.5):
        return Question("free", "place", asker.word("place"), PLACES[outdoors], None, asker.held_out)
    asked = asker.draw.chance(0.5)
    prompt, answer = asker.word("place_check", side=PLACES[asked]), "Yes" if asked == outdoors else "No"
    return Question("yes_no", "place", prompt, answer, None, asker.held_out)


def beside(asker: Asker, one: PhotoObject, other: PhotoObject, there: bool) -> Question | None:
    """Whether one of two things is left of the other."""
    order = left_of(one, other)
    if order is None:
        return None
    first, second = (one, other) if order == there else (other, one)
    prompt = asker.word("left_of", one=asker.name(first.name), other=asker.name(second.name))
    return Question("yes_no", "position", prompt, "Yes" if there else "No", None, asker.held_out, first.name)


def bigger(asker: Asker, one: PhotoObject, other: PhotoObject) -> Question | None:
    """Which of two things covers more of the picture."""
    large, small = sorted((one, other), key=area, reverse=True)
    if area(large) < MARGIN * area(small) or area(small) == 0:
        return None
    first, second = asker.draw.shuffled([large.name, small.name])
    prompt = asker.word("bigger", one=first, other=second)
    return Question("free", "bigger", prompt, large.name, None, asker.held_out, large.name)


def main_thing(asker: Asker, name: str) -> Question:
    """What the picture is of."""
    return Question("free", "main", asker.word("main"), name, None, asker.held_out, name)


def member(asker: Asker, group: str, name: str) -> Question:
    """Which animal or vehicle it is."""
    return Question("free", "main", asker.word(f"which_{group}"), name, None, asker.held_out, name)


def contents(asker: Asker, view: View) -> Question:
    """What is in the picture: everything, largest first."""
    return Question(
        "describe", "list", asker.word("list"), content_list(view.contents()), None, asker.held_out
    )


LEAST_SHARE = 0.8  # of the picture that a crop must keep: people ask about any corner of it
_OTHER_SIDE = {"left": "right", "right": "left"}
_AS_TYPED = 0.6  # of the questions in lower case and without a mark, as their authors left them


def people_questions(view: View, draw: Draw, number: int) -> list[Question]:
    """Up to `number` different ones of the picture's own questions; none where the crop is too small."""
    if view.share < LEAST_SHARE:
        return []
    questions = []
    for prompt, answer in draw.shuffled(sorted(set(view.photo.pairs)))[:number]:
        if view.flip:
            prompt, answer = _mirrored(prompt), _mirrored(answer)
        if not draw.chance(_AS_TYPED):
            prompt = prompt[:1].upper() + prompt[1:] + "?"
        questions.append(Question("free", "people", prompt, answer))
    return questions


def _mirrored(text: str) -> str:
    """A text about the mirrored picture: left and right change places."""
    return re.sub(r"\b(left|right)\b", lambda found: _OTHER_SIDE[found.group()], text)
