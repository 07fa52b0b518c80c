"""Photographs with what is known about them, read from the formats in which people have them.

A set is a folder. What it holds for a split decides how it is read:

- `instances_SPLIT.json` with the pictures in `SPLIT/`: COCO's detection format (boxes),
- `SPLIT.jsonl` with the pictures in `SPLIT/`: a line a picture with `file` and one of `captions` (sentences),
  `qa` (questions with answers) or `label` (one class),
- `SPLIT/CLASS/` alone: folders of pictures, one a class.

Captions give weak labels: the classes that nobody leaves out of one. A benchmark's photographs are those of
several sets, in a fixed mixed order.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.photos.names import Namer, canonical, folder_class
from tofc.errors import UserError

Region = tuple[float, float, float, float]  # x0, y0, x1, y1 in shares of the picture's width and height
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class PhotoObject:
    """One object: its class and, where it is known, its box; one that is not `sure` is never asked about."""

    name: str
    box: Region | None = None
    sure: bool = True
    truncated: bool = False


@dataclass(frozen=True)
class Photo:
    """One photograph and what is known about it.

    `labelled` are the classes of which nothing is left out: only of these may a question say that they are
    absent. `pairs` are questions with answers that hold for the whole picture.
    """

    source: str
    file: Path
    things: tuple[PhotoObject, ...] = ()
    labelled: frozenset[str] = frozenset()
    pairs: tuple[tuple[str, str], ...] = ()


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
    # Sorted, since a set's order is another in every process, and the questions would be too.
    named = Counter(name for text in captions for name in sorted(_NAMER.named(text)))
    least = min(_CERTAIN, len(captions))
    return tuple(PhotoObject(name, sure=count >= least) for name, count in named.items())


ENVIRONMENT = "TOFC_PHOTOS"
# What a picture of another class often shows besides: pictures sorted by class do not say that it is absent.
INCIDENTAL = frozenset({"person", "car", "chair", "lamp", "cup", "watch", "boat", "bicycle", "church"})
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def photographs_folder() -> Path:
    """Where the photographs lie: what TOFC_PHOTOS says, else `../shared/photos` beside the checkout.

    Raises `UserError` where there is no such folder.
    """
    beside = Path(__file__).parents[2].parent / "shared" / "photos"
    folder = Path(os.environ.get(ENVIRONMENT) or beside)
    if not folder.is_dir():
        raise UserError(
            f"there are no photographs at {folder}: set {ENVIRONMENT} to a folder of annotated photographs "
            "(docs/evaluation.md says in which formats)"
        )
    return folder


def read_set(folder: Path, split: str) -> list[Photo]:
    """The photographs of one split of a set, in the order of its annotations.

    Raises `UserError` for a folder in none of the formats, and for annotations that do not fit it.
    """
    instances, lines = folder / f"instances_{split}.json", folder / f"{split}.jsonl"
    try:
        if instances.exists():
            return read_detections(instances, folder / split)
        if lines.exists():
            return _read_lines(lines, folder / split)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: the annotations of {split} are not in their format ({error!r})"
        ) from error
    if (folder / split).is_dir():
        return _read_class_folders(folder / split)
    raise UserError(
        f"{folder} holds no instances_{split}.json, no {split}.jsonl and no folder {split}: give a folder in "
        "one of the formats that docs/evaluation.md names"
    )


def read_detections(instances: Path, pictures: Path) -> list[Photo]:
    """Photographs with boxes, from COCO's `instances_*.json`.

    A box that is `iscrowd` or `difficult` is not sure. Every class of `categories` counts as labelled in
    every picture.
    """
    content = json.loads(instances.read_text(encoding="utf-8"))
    names = {entry["id"]: canonical(entry["name"]) for entry in content["categories"]}
    boxes: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        boxes[annotation["image_id"]].append(annotation)
    labelled = frozenset(names.values())
    photos = []
    for image in content["images"]:
        size = (float(image["width"]), float(image["height"]))
        things = tuple(_thing(one, names, size) for one in boxes[image["id"]])
        photos.append(Photo(pictures.parent.name, pictures / image["file_name"], things, labelled))
    return photos


def _thing(annotation: Mapping[str, Any], names: Mapping[int, str], size: tuple[float, float]) -> PhotoObject:
    x, y, width, height = annotation["bbox"]
    box = (
        max(0.0, x / size[0]),
        max(0.0, y / size[1]),
        min(1.0, (x + width) / size[0]),
        min(1.0, (y + height) / size[1]),
    )
    sure = not annotation.get("iscrowd") and not annotation.get("difficult")
    return PhotoObject(names[annotation["category_id"]], box, sure, bool(annotation.get("truncated")))


def _read_lines(lines: Path, pictures: Path) -> list[Photo]:
    photos = []
    entries = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines() if line.strip()]
    labels = _separable(folder_class(entry["label"]) for entry in entries if "label" in entry)
    for entry in entries:
        file, source = pictures / entry["file"], pictures.parent.name
        if "qa" in entry:
            pairs = tuple((one["question"], canonical_answer(one["answer"])) for one in entry["qa"])
            photos.append(Photo(source, file, pairs=pairs))
        elif "captions" in entry:
            photos.append(Photo(source, file, things_of_captions(entry["captions"]), CAPTIONED))
        else:
            photos.append(_of_class(source, file, folder_class(entry["label"]), labels))
    return photos


def _read_class_folders(folder: Path) -> list[Photo]:
    names = {entry.name: folder_class(entry.name) for entry in sorted(folder.iterdir()) if entry.is_dir()}
    labels = _separable(names.values())
    photos = []
    for entry, name in names.items():
        files = sorted(file for file in (folder / entry).iterdir() if file.suffix.lower() in PICTURES)
        photos += [_of_class(folder.parent.name, file, name, labels) for file in files if name]
    return photos


def _separable(names: Iterable[str]) -> frozenset[str]:
    """The classes of which a picture of another class may be said to show none."""
    return frozenset(names) - INCIDENTAL - {""}


def _of_class(source: str, file: Path, name: str, labels: frozenset[str]) -> Photo:
    return Photo(source, file, (PhotoObject(name),), labels)


def canonical_answer(answer: str) -> str:
    """An answer as people write it: ``"garbage_bin, lamp"`` gives ``"garbage bin, lamp"``."""
    return ", ".join(canonical_spelling(part) for part in answer.split(","))


def canonical_spelling(words: str) -> str:
    """Words in lower case without underscores and with a common misspelling put right."""
    return " ".join(words.replace("_", " ").lower().split()).replace("refridgerator", "refrigerator")


SPLITS = ("train", "val", "test")
ALIASES = {"validation": "val"}  # what training calls the split
BENCHMARK_SETS = ("voc", "coco", "daquar")


def folder_of(name: str, root: str | None) -> Path:
    """The folder of a set: a path, or a name below `root`, else below where the photographs lie."""
    return Path(name) if Path(name).is_dir() else (Path(root) if root else photographs_folder()) / name


def has_split(folder: Path, split: str) -> bool:
    """Whether a set has a split."""
    return any((folder / name).exists() for name in (f"instances_{split}.json", f"{split}.jsonl", split))


def benchmark_photos(
    split: str, sets: Sequence[str] = BENCHMARK_SETS, root: str | None = None
) -> tuple[tuple[Photo, ...], dict[str, str]]:
    """The photographs of a split, mixed, and which split of each set they are from.

    A set without a `test` is read from its `val`. Raises `UserError` for an unknown split, and for a set that
    has neither.
    """
    split = split_named(split)
    photos: list[Photo] = []
    taken: dict[str, str] = {}
    for name in sets:
        folder = folder_of(name, root)
        taken[name] = "val" if split == "test" and not has_split(folder, split) else split
        photos += read_set(folder, taken[name])
    ordered = sorted(photos, key=lambda photo: zlib.crc32(f"{photo.source}/{photo.file.name}".encode()))
    return tuple(ordered), taken


def split_named(split: str) -> str:
    """The split of this name, which may be training's "validation"; UserError where there is none."""
    found = ALIASES.get(split, split)
    if found not in SPLITS:
        raise UserError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    return found
