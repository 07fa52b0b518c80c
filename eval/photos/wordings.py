"""The wordings of every kind of question; a fifth of them is kept out of training.

Slots: {pic} the picture, {a} a class behind its article, {many} its plural, {one} its bare name, {other} a
second class behind ``the``, {list} the options, {number} a number word.
"""

from __future__ import annotations

import zlib
from functools import cache

from eval.asking.question import CHOICE_SUFFIX, FREE_SUFFIX, PHRASE_SUFFIX, YES_NO_SUFFIX, Draw

PICTURES = ("the picture", "this picture", "the photo", "this photo", "the image", "this image")
HELD_OUT_SHARE = 5  # every fifth

WORDINGS: dict[str, tuple[str, ...]] = {
    "existence": (
        "Is there {a} in {pic}?", "Is there {a} here?", "Is there {a}?", "Do you see {a}?",
        "Do you see {a} in {pic}?", "Do you see any {many}?", "Can you see {a}?", "Can you see {a} in {pic}?",
        "Can you see any {many} here?", "Are there any {many} in {pic}?", "Are there any {many}?",
        "Are there {many} in {pic}?", "Any {many} here?", "Any {many} in {pic}?", "Any {one} in {pic}?",
        "Is {a} visible in {pic}?", "Is {a} visible?", "Are any {many} visible?", "Does {pic} show {a}?",
        "Does {pic} contain {a}?", "Does {pic} contain any {many}?", "Does {pic} have {a} in it?",
        "Is {a} shown in {pic}?", "Can {a} be seen in {pic}?", "Tell me if there is {a} in {pic}.",
        "Tell me whether there is {a} here.", "Please tell me whether you can see {a}.",
        "Could you check whether there is {a} in {pic}?", "Does {a} appear in {pic}?",
        "Do any {many} appear in {pic}?", "Can you find {a} in {pic}?", "Can you spot {a}?",
        "Is there at least one {one} in {pic}?", "Do we see {a} in {pic}?", "Is there any {one}?",
        "I am looking for {a}. Is there one in {pic}?", "Is it true that there is {a} in {pic}?",
        "Look at {pic}. Is there {a}?", "In {pic}, is there {a}?", "Have you noticed {a} in {pic}?",
    ),
    "someone": (
        "Is there anyone in {pic}?", "Is anybody in {pic}?", "Is someone in {pic}?", "Can you see anyone?",
        "Do you see anybody here?", "Is there somebody?", "Does {pic} show anyone?", "Is anyone visible?",
        "Are there any humans in {pic}?", "Tell me if anybody is in {pic}.",
    ),
    "identity": (
        "Is this {a}?", "Is it {a}?", "Is this a picture of {a}?", "Is that {a}?", "Is this a photo of {a}?",
        "Does {pic} mainly show {a}?", "Is the main object {a}?", "Am I looking at {a}?",
        "Is what you see {a}?", "Would you say that this is {a}?",
    ),
    "choice": (
        "Which of these is in {pic}?", "Which of these can you see?", "What is in {pic}?",
        "What can you see in {pic}?", "Which one is shown in {pic}?", "Which of these things is in {pic}?",
        "Which object appears in {pic}?", "Which of the following is in {pic}?", "What does {pic} show?",
        "Choose what is in {pic}.",
    ),
    "choice_words": (
        "Which of these is in {pic}: {list}?", "Which of these can you see: {list}?",
        "Which one is in {pic}, {list}?", "What is in {pic}: {list}?", "Which one do you see, {list}?",
        "Which do you see: {list}?", "What do you see, {list}?", "Which one does {pic} show, {list}?",
        "Which is in {pic}: {list}?", "Tell me which of these is in {pic}: {list}.",
    ),
    "count": (
        "How many {many} are there?", "How many {many} are in {pic}?", "How many {many} do you see?",
        "How many {many} can you see in {pic}?", "How many {many}?", "Count the {many}.",
        "Count the {many} in {pic}.", "What is the number of {many} in {pic}?",
        "How many {many} does {pic} show?",
        "How many {many} are here?", "Tell me how many {many} there are.", "How many {many} are visible?",
        "Can you count the {many}?", "Number of {many} in {pic}?", "How many {many} can be seen?",
    ),
    "count_check": (
        "Are there {number} {many} in {pic}?", "Are there exactly {number} {many}?",
        "Do you see {number} {many}?",
        "Does {pic} show {number} {many}?", "Is the number of {many} {number}?",
        "Can you see exactly {number} {many}?", "Is it right that there are {number} {many} here?",
        "Are {number} {many} visible?", "Are there just {number} {many}?", "Are {number} {many} in {pic}?",
    ),
    "side": (
        "Is the {one} on the left or on the right?", "Is the {one} on the left or the right of {pic}?",
        "On which side is the {one}, left or right?", "Which side is the {one} on, left or right?",
        "Where is the {one}, left or right?", "Is the {one} left or right?",
        "Is the {one} in the left or in the right half of {pic}?", "Left or right: where is the {one}?",
        "On which side of {pic} is the {one}?", "Tell me whether the {one} is on the left or on the right.",
    ),
    "height": (
        "Is the {one} at the top or at the bottom?", "Is the {one} at the top or the bottom of {pic}?",
        "Is the {one} in the top or in the bottom half of {pic}?", "Where is the {one}, top or bottom?",
        "Top or bottom: where is the {one}?", "Is the {one} more to the top or to the bottom?",
        "Is the {one} nearer to the top or to the bottom of {pic}?", "Is the {one} top or bottom?",
        "Tell me whether the {one} is at the top or at the bottom.",
        "In which half of {pic} is the {one}, top or bottom?",
    ),
    "side_check": (
        "Is the {one} on the {side}?", "Is the {one} on the {side} of {pic}?",
        "Is the {one} on the {side} side?",
        "Is the {one} in the {side} half of {pic}?", "Do you see the {one} on the {side}?",
        "Is the {side} side where the {one} is?", "Does {pic} show the {one} on the {side}?",
        "Is the {one} to the {side}?", "Can you see the {one} on the {side} side of {pic}?",
        "Is it true that the {one} is on the {side}?",
    ),
    "where": (
        "Where is the {one}?", "Where is the {one} in {pic}?", "Where in {pic} is the {one}?",
        "Where can you see the {one}?", "In which part of {pic} is the {one}?",
    ),
    "place": (
        "Is this indoors or outdoors?", "Was {pic} taken indoors or outdoors?", "Indoors or outdoors?",
        "Does {pic} show a place indoors or outdoors?", "Is it indoors or is it outdoors?",
    ),
    "place_check": (
        "Is this {side}?", "Was {pic} taken {side}?", "Is it {side}?", "Does {pic} show a place {side}?",
        "Are we {side} here?",
    ),
    "left_of": (
        "Is the {one} to the left of the {other}?", "Is the {one} left of the {other}?",
        "Is the {one} on the left of the {other}?", "Is the {other} to the right of the {one}?",
        "Is the {other} right of the {one}?", "Is the {one} on the left side of the {other}?",
        "Do you see the {one} left of the {other}?", "In {pic}, is the {one} to the left of the {other}?",
        "Does the {one} stand left of the {other}?", "Is the {other} on the right of the {one}?",
    ),
    "bigger": (
        "Which is bigger, the {one} or the {other}?", "Which is bigger in {pic}, the {one} or the {other}?",
        "Which looks bigger, the {one} or the {other}?", "What is larger in {pic}, the {one} or the {other}?",
        "Which one takes up more of {pic}, the {one} or the {other}?", "Is the {one} or the {other} bigger?",
        "Is the {one} or the {other} larger in {pic}?", "Which appears larger, the {one} or the {other}?",
        "Which of the two is bigger, the {one} or the {other}?",
        "Tell me which is bigger in {pic}, the {one} or the {other}.",
    ),
    "main": (
        "What is this?", "What is this a picture of?", "What is the main object in {pic}?",
        "What object is this?",
        "What is the biggest thing in {pic}?", "What is the main thing you see?", "What's this?",
        "What kind of thing is this?", "What is it?", "Tell me what this is.", "Name the main object.",
        "What is the largest object in {pic}?", "Which object is this?", "What is the main subject of {pic}?",
        "What do you call this?",
    ),
    "which_animal": (
        "What animal is this?", "Which animal is in {pic}?", "What animal can you see?",
        "What kind of animal is this?", "What kind of animal is in {pic}?", "Which animal is it?",
        "What animal does {pic} show?", "Name the animal.", "Tell me which animal this is.",
        "What animal is in {pic}?",
    ),
    "which_vehicle": (
        "What vehicle is this?", "Which vehicle is in {pic}?", "What vehicle can you see?",
        "What kind of vehicle is this?", "What kind of vehicle is in {pic}?", "Which vehicle is it?",
        "What vehicle does {pic} show?", "Name the vehicle.", "Tell me which vehicle this is.",
        "What vehicle is in {pic}?",
    ),
    "list": (
        "What is in {pic}?", "What can you see in {pic}?", "What do you see?", "What is there in {pic}?",
        "What objects are in {pic}?", "Which objects can you see?", "Which things are in {pic}?",
        "List the objects in {pic}.", "Name everything that you can see.", "Tell me what is in {pic}.",
        "What does {pic} show?", "What's in {pic}?", "Describe {pic}.", "What can be seen in {pic}?",
        "What do you see in {pic}?", "What is shown here?", "What is visible in {pic}?",
        "Please describe what you see.", "What is happening in {pic}?", "What all can you see here?",
    ),
}  # fmt: skip

SUFFIXES: dict[str, tuple[str, ...]] = {
    "yes_no": (
        YES_NO_SUFFIX,
        PHRASE_SUFFIX,
        " Answer yes or no.",
        " Please answer in one word.",
        " Yes or no?",
    ),
    "choice": (CHOICE_SUFFIX, " Answer with the letter only.", PHRASE_SUFFIX),
    "free": (FREE_SUFFIX, PHRASE_SUFFIX, " Please answer in one word.", " Answer in one word."),
}
SUFFIX_SHARE = 0.35  # of training questions: people mostly leave it out
_LOWER, _NO_MARK = 0.3, 0.25


@cache
def held_out_wordings(kind: str) -> tuple[str, ...]:
    """The fifth of a kind's wordings that training never uses: those with the lowest checksums."""
    ordered = sorted(WORDINGS[kind], key=lambda text: zlib.crc32(text.encode()))
    return tuple(ordered[: len(ordered) // HELD_OUT_SHARE])


@cache
def trained_wordings(kind: str) -> tuple[str, ...]:
    """The wordings of a kind that training uses."""
    return tuple(text for text in WORDINGS[kind] if text not in held_out_wordings(kind))


def carelessly(prompt: str, draw: Draw) -> str:
    """A prompt as people type it: sometimes in lower case, sometimes without its last mark."""
    if draw.chance(_LOWER):
        prompt = prompt.lower()
    if draw.chance(_NO_MARK):
        prompt = prompt.rstrip("?.")
    return prompt


def suffixed(prompt: str, form: str, draw: Draw) -> str:
    """A prompt, in `SUFFIX_SHARE` of the cases with a suffix of its form."""
    return prompt + draw.pick(SUFFIXES[form]) if draw.chance(SUFFIX_SHARE) else prompt
