"""More wordings for training alone: put together from parts, and typed with slips.

People's questions are open-ended. A model that has read twenty wordings of a question knows these; one that
has read a thousand, some with a word misspelt, left out or unknown, looks at what they have in common.
"""

from __future__ import annotations

from functools import cache
from itertools import product

from eval.asking.question import Draw
from eval.photos.wordings import WORDINGS, held_out_wordings

_SEEN = (
    "Is there", "Is there maybe", "Do you see", "Do you find", "Do you notice", "Do you spot", "Can you see",
    "Can you find", "Could you find", "Can you notice", "Could you spot", "Can you make out",
    "Can you recognise", "Can you detect", "Can you identify", "Did you see", "Did you notice",
    "Have you seen", "Have you spotted", "Have you found", "Would you say there is",
    "Is it right that there is", "Do you think there is", "Are you able to see", "Is it possible to see",
    "Could there be", "Does one see", "Can one see", "Can we see", "Am I right that there is",
    "Please tell me, is there", "Tell me, do you see", "Check whether there is", "Let me know if there is",
    "I want to know if there is", "I would like to know whether you see", "So, is there", "Hey, is there",
    "Quick question: is there", "Look closely: is there", "Looking at {pic}, do you see",
)  # fmt: skip
_THINGS = (" {a}", " {a}", " any {one}", " any {many}", " some {many}", " at least one {one}")
_PLACES = (
    "", " in {pic}", " here", " anywhere in {pic}", " anywhere", " in this", " in it", " in the scene",
    " on {pic}", " somewhere in {pic}",
)  # fmt: skip
_WHERE = (
    "Is the {one}", "Do you see the {one}", "Can you find the {one}", "Is the {one} located",
    "Does the {one} stand", "Where in {pic} is the {one},", "Where do you see the {one},",
    "Where can I find the {one},", "On what side is the {one},", "On what side of {pic} is the {one},",
    "In which half is the {one},", "Which half is the {one} in,", "In what part of {pic} is the {one},",
    "Should I look for the {one}", "Would you say the {one} is", "Is the {one} nearer", "Is the {one} rather",
    "Tell me, is the {one}",
)  # fmt: skip
_SIDES = (
    " on the left or on the right", " on the left or the right", " left or right",
    " to the left or to the right", " at the left or right", " on the left side or on the right side",
    " in the left or right half", " left or else right", " more to the left or more to the right",
)  # fmt: skip
_HEIGHTS = (
    " at the top or at the bottom", " at the top or the bottom", " top or bottom",
    " to the top or to the bottom", " at the top or bottom", " on the top side or on the bottom side",
    " in the top or bottom half", " top or else bottom", " more to the top or more to the bottom",
)  # fmt: skip

_PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "existence": (_SEEN, _THINGS, _PLACES, ("?",)),
    "count": (
        (
            "How many {many} are there", "How many {many} do you see", "How many {many} can you see",
            "How many {many} can you count", "How many {many} do you count", "How many {many} can you find",
            "How many {many} are visible", "How many {many} are shown", "How many {many} appear",
            "How many {many} are present", "How many {many} have you found",
            "How many {many} can be counted", "How many {many} do we have", "What number of {many} is there",
            "What number of {many} do you see", "Please count the {many}", "Count all {many}",
            "Count how many {many} there are", "Give me the number of {many}", "I need the number of {many}",
            "Tell me the number of {many}", "State how many {many} you see",
            "Do you know how many {many} there are",
        ),
        ("", " here", " in {pic}", " in total", " altogether", " in this"),
        ("?",),
    ),
    "side": (_WHERE, _SIDES, ("", " of {pic}"), ("?",)),
    # The same words around other ends, so that only these can tell what is asked.
    "height": (_WHERE, _HEIGHTS, ("", " of {pic}"), ("?",)),
    "side_check": (
        (
            "Is the {one}", "Do you see the {one}", "Can you find the {one}", "Is the {one} located",
            "Does the {one} stand", "Would you say the {one} is", "Is it right that the {one} is",
            "Tell me, is the {one}",
        ),
        (" on the {side}", " at the {side}", " to the {side}", " in the {side} half", " on the {side} side"),
        ("", " of {pic}"),
        ("?",),
    ),
    "list": (
        (
            "What things can you see", "What things are there", "What do you see", "What do we see",
            "What can you find", "What do you notice", "What is to be seen", "Which things do you see",
            "List what you see", "List all the things", "Name the things", "Tell me what you see",
            "Tell me what is to be seen", "Give me a list of the things", "Describe what you see",
            "Can you tell me what you see", "Can you describe what is there", "What objects can you find",
            "What all do you see",
        ),
        ("", " here", " in {pic}", " in this"),
        ("?",),
    ),
    "someone": (
        (
            "Is there", "Do you see", "Can you see", "Can you find", "Do you notice", "Can you make out",
            "Have you seen", "Would you say there is", "Do you think there is", "Tell me, is there",
            "Did you see", "Can you spot",
        ),
        (" anyone", " anybody", " someone", " somebody", " any people", " a human being", " any person"),
        _PLACES,
        ("?",),
    ),
}  # fmt: skip

_WHOLE: dict[str, tuple[str, ...]] = {
    "existence": (
        "{a} here?", "{a}?", "any {many}?", "{many}?", "{many} in {pic}?", "{one}?", "{one} here?",
        "Is {a} there?", "Is {a} present?", "Is {a} present in {pic}?", "Are {many} present?",
        "Is {a} to be seen?", "Is {a} part of {pic}?", "Does {pic} include {a}?", "Does {pic} feature {a}?",
        "Does {pic} depict {a}?", "Does this contain {a}?", "Is {a} pictured?",
        "There is {a} in {pic}, right?", "There is {a} here, isn't there?", "Would I find {a} in {pic}?",
        "Could {a} be found here?", "Are there {many} around?", "Is {a} around?", "Was {a} photographed?",
        "Yes or no: {a}?", "{a}: yes or no?", "Is {pic} showing {a}?", "In {pic}, can you see {a}?",
        "On {pic}, are there any {many}?", "Are {many} in {pic}?", "Does {pic} have any {many}?",
        "Are there some {many}?", "Are there any {many} to be seen?", "Are any {many} around here?",
        "Has {pic} got {a}?", "Does it show {a}?",
    ),
    "count": (
        "{many}: how many?", "How many {many} has {pic}?", "How many {many} does {pic} contain?",
        "How many {many} does {pic} have?", "how many {many} is it?", "The number of {many}?",
        "Count {many}.", "How many of the things here are {many}?", "How many {one}s?",
        "What is the count of {many}?",
    ),
    "side": (
        "Left or right, where do you see the {one}?", "The {one}: left or right?",
        "Which half of {pic} has the {one}, the left or the right?",
        "Is it the left or the right side that has the {one}?",
    ),
    "height": (
        "Top or bottom, where do you see the {one}?", "The {one}: top or bottom?",
        "Which half of {pic} has the {one}, the top or the bottom?",
        "Is it the top or the bottom that has the {one}?",
    ),
    "side_check": (
        "The {one} is on the {side}, right?",
        "Is it on the {side}, the {one}?", "{one} on the {side}?",
    ),
    "main": (
        "What do we have here?", "What is that?", "What can this be?", "What am I looking at?",
        "Can you name this?", "Can you tell me what this is?", "Do you know what this is?",
        "What kind of object is it?", "Identify the main object.", "What is the subject of {pic}?",
        "Which thing is this?", "Say what this is.", "What is the thing here?", "What object do you see?",
        "What is the thing in {pic}?", "And what is this?", "What would you call this?",
        "What is the biggest object here?", "Which is the main object in {pic}?",
    ),
    "list": (
        "What does it show?", "What are the objects here?", "Describe this.", "Can you describe {pic}?",
        "Can you tell me what is in {pic}?", "What is going on here?", "What all is in {pic}?",
        "What is on {pic}?", "What is in this?", "What's here?", "What is here?", "Describe the scene.",
        "What objects are here?", "What are the things in {pic}?", "What is in the scene?",
    ),
    "identity": (
        "Is this maybe {a}?", "Could this be {a}?", "Do you think this is {a}?",
        "Is it true that this is {a}?", "Is this really {a}?", "Is {a} what this is?",
        "Does this look like {a}?", "Is the main thing {a}?", "Is that thing {a}?", "Are we looking at {a}?",
        "Is it a photo of {a}?", "Would you call this {a}?", "Is the subject {a}?", "This is {a}, right?",
        "Is it a picture of {a}?", "Is the thing here {a}?",
    ),
    "choice": (
        "Which of these things can you see?", "Which of these do you see in {pic}?",
        "What is shown in {pic}?", "Select what is in {pic}.", "Pick the thing that is in {pic}.",
        "Which option is right?", "Which is in {pic}?", "Which thing do you see?",
        "Which of the options is in {pic}?", "What do you see here?", "What is here?",
        "Which of those appears in {pic}?", "Which one can you find in {pic}?", "What is in this?",
        "Which is it?",
    ),
    "choice_words": (
        "Is this {list}?", "Do you see {list}?", "Is there {list} in {pic}?", "Is it {list}?",
        "Is there {list}?", "Which of these is it: {list}?", "What is this, {list}?", "What is it: {list}?",
        "Can you see {list}?", "Which can you find in {pic}, {list}?", "Does {pic} show {list}?",
    ),
    "which_animal": (
        "What animal do you see?", "Which animal can you see?", "What animal is that?", "What animal is it?",
        "Which animal is this?", "Do you know which animal this is?", "Which kind of animal is this?",
        "What animal is here?",
    ),
    "which_vehicle": (
        "What vehicle do you see?", "Which vehicle can you see?", "What vehicle is that?",
        "What vehicle is it?", "Which vehicle is this?", "Do you know which vehicle this is?",
        "Which kind of vehicle is this?",
    ),
}  # fmt: skip

# A question hangs on these, whatever stands around them.
_NEEDED = frozenset({
    "how", "many", "number", "count", "which", "what", "who", "where", "left", "right", "top", "bottom", "or",
    "animal", "vehicle", "bigger", "larger", "more", "indoors", "outdoors", "options", "main", "biggest",
    "largest", "object", "subject", "name",
})  # fmt: skip
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_SLIP_SHARE = 0.2  # of the wordings with a slip


@cache
def paraphrases(kind: str) -> tuple[str, ...]:
    """Wordings of a kind beside those of `wordings.WORDINGS`; none that is held out."""
    parts = ("".join(some) for some in product(*_PARTS.get(kind, ())))
    texts = dict.fromkeys((*parts, *_WHOLE.get(kind, ())))
    return tuple(text for text in texts if text and _bare(text) not in _held_out())


@cache
def _held_out() -> frozenset[str]:
    return frozenset(_bare(wording) for kind in WORDINGS for wording in held_out_wordings(kind))


def _bare(wording: str) -> str:
    return wording.lower().rstrip("?.")


def with_slip(wording: str, draw: Draw) -> str:
    """A wording in which, now and then, one word that it does not hang on is misspelt, missing or unknown."""
    words = wording.split(" ")
    spare = [
        place
        for place, word in enumerate(words)
        if place and "{" not in word and word.strip(",:?.").lower() not in _NEEDED
    ]
    if not spare or not draw.chance(_SLIP_SHARE):
        return wording
    place, kind = draw.pick(spare), draw.below(3)
    word = words[place]
    mark = word[len(word.rstrip(",:?.")) :]
    if kind == 0:
        words[place] = ""
    elif kind == 1 and len(word) > 2:
        at = draw.below(len(word) - len(mark) - 1)
        words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    else:
        syllables = 1 + draw.below(3)
        made = "".join(draw.pick(_CONSONANTS) + draw.pick(_VOWELS) for _ in range(syllables))
        words[place] = made + draw.pick(("", "n", "t", "s", "ed", "ing")) + mark
    slipped = " ".join(word for word in words if word) + (mark if kind == 0 and mark else "")
    return wording if _bare(slipped) in _held_out() else slipped
