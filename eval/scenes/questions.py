"""Questions about a scene, with the answers that the renderer knows.

Three forms: yes/no in the protocol of MME (two opposite questions for one fact), multiple choice with letters
in the protocol of RealWorldQA, and short free answers. ``training_questions`` mixes them at random;
``benchmark_questions`` is fixed by the scene alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from eval.asking.question import (
    CHOICE_SUFFIX,
    FORMS,
    FREE_SUFFIX,
    PHRASE_SUFFIX,
    YES_NO_SUFFIX,
    Draw,
    Question,
    with_letters,
)
from eval.scenes import templates_space as space
from eval.scenes import templates_things as things
from eval.scenes.describe import describe, described_pairs
from eval.scenes.facts import Mention, Open, Opposites, SceneView
from eval.scenes.layout import HELD_OUT
from eval.scenes.world import Scene

PAIRS: dict[str, Callable[[SceneView, Draw], Opposites | None]] = {
    "existence": things.existence_pair, "count": things.count_pair, "position": space.position_pair,
    "colour": things.colour_pair, "text": things.text_pair, "comparison": space.comparison_pair,
}  # fmt: skip
CHOICES: dict[str, Callable[[SceneView, Draw], Open | None]] = {
    "existence": things.existence_choice, "count": things.count_choice, "position": space.position_choice,
    "colour": things.colour_choice, "text": things.text_choice, "comparison": space.comparison_choice,
}  # fmt: skip
FREE: dict[str, Callable[[SceneView, Draw], Open | None]] = {
    "existence": things.existence_free, "count": things.count_free, "position": space.position_free,
    "colour": things.colour_free, "text": things.text_free, "comparison": space.comparison_free,
}  # fmt: skip


CATEGORIES = ("existence", "count", "position", "colour", "text", "comparison")

FORM_WEIGHTS = (0.42, 0.30, 0.28)  # yes_no, choice, free
CATEGORY_WEIGHTS = (0.09, 0.23, 0.18, 0.08, 0.24, 0.18)  # as CATEGORIES: more of what is learned slowly
SUFFIX_SHARE = 0.4  # of training questions with the protocol's suffix: people leave it out
FREE_SUFFIX_SHARE = 0.25
PHRASE_SUFFIX_SHARE = 0.25  # of the yes/no questions with a suffix
DESCRIBE_PROMPTS = ("Describe the picture.", "What can you see in the picture?", "What is in this picture?")
BENCHMARK_CATEGORY_WEIGHTS = (0.14, 0.20, 0.20, 0.12, 0.18, 0.16)  # fixed: the benchmark never changes
BENCHMARK_CHOICES = 3
BENCHMARK_FREE = 2
_BENCHMARK_SEED = 20_250_612
_ATTEMPTS = 4


def training_questions(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """A random mix of ``count`` questions; needs no more than 0.1 ms each.

    Forms and categories follow ``FORM_WEIGHTS`` and ``CATEGORY_WEIGHTS``, renormalised over what the scene
    allows. Raises ``ValueError`` for a scene without things.
    """
    view, draw = SceneView(scene), Draw(rng)
    questions: list[Question] = []
    seen: set[str] = set()
    while len(questions) < count:
        form = draw.weighted(FORMS[:3], FORM_WEIGHTS)
        category = draw.weighted(CATEGORIES, CATEGORY_WEIGHTS)
        truth = draw.chance(0.5)
        question = None
        # A repeated question is drawn again with the same answer: discarding it would shift the balance of
        # answers, since there are more wrong things to ask about than right ones.
        for _ in range(_ATTEMPTS):
            question = _training_question(view, draw, form, category, truth) or question
            if question is not None and question.prompt not in seen:
                break
        if question is not None:
            seen.add(question.prompt)
            questions.append(question)
    return questions


def _training_question(view: SceneView, draw: Draw, form: str, category: str, truth: bool) -> Question | None:
    if form == "yes_no":
        opposites = PAIRS[category](view, draw)
        if opposites is None:
            return None
        prompt = opposites.yes if truth else opposites.no
        mentions = opposites.yes_mentions if truth else opposites.no_mentions
        suffix = ""
        if draw.chance(SUFFIX_SHARE):
            suffix = PHRASE_SUFFIX if draw.chance(PHRASE_SUFFIX_SHARE) else YES_NO_SUFFIX
        return Question(
            form, category, prompt + suffix, "Yes" if truth else "No", None, _is_held_out(mentions)
        )
    source = CHOICES if form == "choice" else FREE
    found = source[category](view, draw)
    if found is None:
        return None
    if form == "choice":
        return _with_letters(found, category, draw, CHOICE_SUFFIX if draw.chance(SUFFIX_SHARE) else "")
    return _free(found, category, draw.chance(FREE_SUFFIX_SHARE))


def _free(found: Open, category: str, suffix: bool) -> Question:
    """The question as it stands; RealWorldQA's suffix only where a single word does answer it."""
    prompt = found.prompt + (FREE_SUFFIX if suffix and " " not in found.right else "")
    return Question("free", category, prompt, found.right, None, _is_held_out(found.mentions))


def _with_letters(found: Open, category: str, draw: Draw, suffix: str) -> Question:
    """The question with two to four lettered options, the right one at a uniformly random letter."""
    most = min(len(found.wrong), 3)
    wrong = found.wrong[: most if draw.chance(0.7) else 1 + draw.below(most)]
    prompt, letter = with_letters(found.prompt, found.right, wrong, draw)
    return Question("choice", category, prompt + suffix, letter, None, _is_held_out(found.mentions))


def _is_held_out(mentions: tuple[Mention, ...]) -> bool:
    return any(mention in HELD_OUT for mention in mentions)


def benchmark_questions(scene: Scene) -> list[Question]:
    """The fixed questions of a scene, the same on every machine.

    One yes/no pair for each category that the scene allows, three multiple choices, two free questions and
    one description. Scenes of the held-out split are asked mostly about the pairs that training never showed.
    """
    seed = [_BENCHMARK_SEED, zlib.crc32(scene.split.encode()), scene.index]
    draw = Draw(np.random.default_rng(seed))
    view = SceneView(scene)
    questions: list[Question] = []
    for number, category in enumerate(CATEGORIES):
        tries = (PAIRS[category](view, draw) for _ in range(_ATTEMPTS * 4))
        opposites = next((one for one in tries if one), None)
        if opposites is None:
            continue
        # "Is the car red?" of a green car is as much about the green car as its opposite is: marked by its
        # own words alone, the held-out questions would nearly all be answered with yes.
        held_out = _is_held_out(opposites.yes_mentions + opposites.no_mentions)
        for text, answer in ((opposites.yes, "Yes"), (opposites.no, "No")):
            questions.append(Question("yes_no", category, text + YES_NO_SUFFIX, answer, number, held_out))
    questions += _open_questions(view, draw, "choice", BENCHMARK_CHOICES)
    questions += _open_questions(view, draw, "free", BENCHMARK_FREE)
    questions.append(_description(scene, draw))
    return questions


def _open_questions(view: SceneView, draw: Draw, form: str, count: int) -> list[Question]:
    """Up to ``count`` questions of one form, each from another category, by the benchmark's own weights."""
    source = CHOICES if form == "choice" else FREE
    left = dict(zip(CATEGORIES, BENCHMARK_CATEGORY_WEIGHTS, strict=True))
    questions: list[Question] = []
    while left and len(questions) < count:
        category = draw.weighted(list(left), list(left.values()))
        del left[category]
        found = next((o for o in (source[category](view, draw) for _ in range(_ATTEMPTS * 2)) if o), None)
        if found is None:
            continue
        if form == "choice":
            questions.append(_with_letters(found, category, draw, CHOICE_SUFFIX))
        else:
            questions.append(_free(found, category, True))
    return questions


def training_description(scene: Scene, rng: np.random.Generator) -> Question:
    """A request to describe the scene with its canonical description as the answer."""
    return _description(scene, Draw(rng))


def _description(scene: Scene, draw: Draw) -> Question:
    text = describe(scene)
    prompt = draw.pick(DESCRIBE_PROMPTS)
    return Question("describe", "describe", prompt, text, None, _is_held_out(described_pairs(text)))
