"""Names of classes: one canonical name each for answers, everyday words for questions, and groups of classes.

Canonical are COCO's names. What is in no table here keeps the name that its data set gives it. `Namer` finds
the classes that a text names, `content_list` says them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from eval.asking.language import listed, plural, with_article

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# What people call a class: in questions as often as the canonical name, and understood in stated answers.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": ("human", "man", "woman"),
    "bicycle": ("bike", "cycle"),
    "car": ("automobile",),
    "motorcycle": ("motorbike", "motor bike"),
    "airplane": ("plane", "aeroplane", "aircraft"),
    "bus": ("coach",),
    "truck": ("lorry",),
    "boat": ("ship",),
    "dog": ("puppy",),
    "cat": ("kitten", "kitty"),
    "cow": ("cattle",),
    "couch": ("sofa",),
    "potted plant": ("pot plant", "plant in a pot", "houseplant", "plant"),
    "dining table": ("table",),
    "tv": ("television", "tv set", "monitor", "tv monitor"),
    "cell phone": ("phone", "mobile phone", "cellphone", "smartphone"),
    "refrigerator": ("fridge",),
    "donut": ("doughnut",),
    "hair drier": ("hair dryer",),
    "handbag": ("purse",),
    "sports ball": ("ball",),
    "mouse": ("computer mouse",),
    "remote": ("remote control",),
    "tie": ("necktie",),
    "teddy bear": ("teddy",),
    "cup": ("mug",),
    "sink": ("wash basin",),
    "backpack": ("rucksack",),
}
# Words that say more ("man") or less ("plant") than their class: boxes do not tell whether they are right.
NOT_ASKED = frozenset({"man", "woman", "puppy", "kitten", "kitty", "coach", "monitor", "cattle", "plant"})
# Spellings of data sets, which nobody speaks.
SPELLINGS = {
    "aeroplane": "airplane", "diningtable": "dining table", "pottedplant": "potted plant", "sofa": "couch",
    "motorbike": "motorcycle", "tvmonitor": "tv", "tv monitor": "tv", "refridgerator": "refrigerator",
}  # fmt: skip

# Folders of Caltech-101 and classes of ImageNet under the name that people would give; "" is not asked about.
FOLDERS = {
    "faces": "person", "faces easy": "person", "leopards": "leopard", "motorbikes": "motorcycle",
    "airplanes": "airplane", "car side": "car", "bass": "fish", "tench": "fish", "binocular": "binoculars",
    "cellphone": "cell phone", "cougar body": "cougar", "cougar face": "cougar",
    "crocodile head": "crocodile", "dalmatian": "dog", "english springer": "dog",
    "flamingo head": "flamingo", "hawksbill": "turtle", "ketch": "boat", "schooner": "boat", "ferry": "boat",
    "pigeon": "bird", "ibis": "bird", "windsor chair": "chair", "wild cat": "cat",
    "water lilly": "water lily", "sea horse": "seahorse", "brontosaurus": "dinosaur",
    "stegosaurus": "dinosaur", "rhino": "rhinoceros", "chain saw": "chainsaw", "headphone": "headphones",
    "background google": "", "garfield": "", "snoopy": "", "brain": "", "yin yang": "",
}  # fmt: skip

# A group is present with any of its members, and absent only where all of `needed` are labelled and absent.
GROUP_MEMBERS: dict[str, tuple[str, ...]] = {
    "animal": (
        "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
    ),
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "fruit": ("banana", "apple", "orange"),
}  # fmt: skip
GROUP_NEEDED: dict[str, tuple[str, ...]] = {
    "animal": ("bird", "cat", "dog", "horse", "sheep", "cow"),
    "vehicle": GROUP_MEMBERS["vehicle"],
    "fruit": GROUP_MEMBERS["fruit"],
}

# What stands in rooms only, and what is never in one.
INDOORS = frozenset(
    {"couch", "dining table", "tv", "bed", "toilet", "sink", "oven", "microwave", "refrigerator"}
)
OUTDOORS = frozenset(
    {"airplane", "boat", "bus", "train", "truck", "horse", "sheep", "cow", "elephant", "zebra", "giraffe",
     "traffic light", "stop sign", "fire hydrant", "parking meter", "skis", "snowboard", "surfboard", "kite"}
)  # fmt: skip


def canonical(name: str) -> str:
    """The name that answers use of a class: ``"aeroplane"`` and ``"Airplane"`` give ``"airplane"``."""
    plain = " ".join(name.replace("_", " ").lower().split())
    return SPELLINGS.get(plain, plain)


def folder_class(label: str) -> str:
    """The class that a folder or a label of pictures sorted by class stands for; "" for none to speak of."""
    name = canonical(label)
    return FOLDERS.get(name, name)


def spoken(name: str) -> tuple[str, ...]:
    """The words for a class that a question may use, the canonical one first."""
    return (name, *(word for word in SYNONYMS.get(name, ()) if word not in NOT_ASKED))


def class_names() -> tuple[str, ...]:
    """Every name of COCO and every plural, as answers spell them: one token each helps."""
    return tuple(dict.fromkeys([*COCO, *(plural(name) for name in COCO)]))


NOTHING = "Nothing that I know."


def content_list(contents: Mapping[str, int]) -> str:
    """The answer to "What is in the picture?": ``"A dog and people."``, in the order given."""
    if not contents:
        return NOTHING
    text = listed([with_article(name) if count == 1 else plural(name) for name, count in contents.items()])
    return text[0].upper() + text[1:] + "."


class Namer:
    """Finds the classes that a text names, by their names, plurals, synonyms and `more` words of a class."""

    def __init__(self, names: Iterable[str], more: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self._class_of: dict[str, str] = {}
        for name in names:
            for word in (name, *SYNONYMS.get(name, ()), *(more or {}).get(name, ())):
                self._class_of[word] = self._class_of[plural(word)] = name
        # The longest first: a "dining table" is not also a "table", a "hot dog" no "dog".
        words = sorted(self._class_of, key=lambda word: (-len(word), word))
        self._pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b")

    def named(self, text: str) -> set[str]:
        """The classes that `text` names."""
        return {self._class_of[word] for word in self._pattern.findall(text.lower())}
