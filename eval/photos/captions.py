"""What captions say is in a picture: weak labels of the classes that nobody leaves out of a caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval.photos.photo import PhotoObject
from eval.photos.phrases import Namer

# Classes that a caption of a picture that shows them nearly always names.
CAPTIONED = frozenset(
    {"person", "dog", "cat", "horse", "elephant", "bicycle", "motorcycle", "airplane", "train", "surfboard",
     "skateboard", "snowboard", "frisbee", "pizza", "giraffe", "zebra", "toilet", "sheep", "cow"}
)  # fmt: skip
_MORE_WORDS = {
    "person": (
        "men", "women", "boy", "girl", "child", "children", "kid", "baby", "lady", "guy", "player", "toddler",
        "couple", "crowd", "teenager", "adult", "rider", "climber", "skier", "surfer", "snowboarder", "biker",
        "cyclist", "swimmer", "hiker", "skateboarder", "someone", "group", "family", "worker",
    ),
    "surfboard": ("surfer", "surfing", "surf"),
    "skateboard": ("skateboarder", "skateboarding"),
    "snowboard": ("snowboarder", "snowboarding"),
    "bicycle": ("biker", "cyclist", "biking"),
    "horse": ("pony",),
}  # fmt: skip
_CERTAIN = 2  # captions that must name a class before a question may say that it is there


_NAMER = Namer(CAPTIONED, _MORE_WORDS)


def things_of_captions(captions: Sequence[str]) -> tuple[PhotoObject, ...]:
    """The classes that captions of one picture name; those that only one of several names are not sure."""
    named = Counter(name for text in captions for name in _NAMER.named(text))
    least = min(_CERTAIN, len(captions))
    return tuple(PhotoObject(name, sure=count >= least) for name, count in named.items())
