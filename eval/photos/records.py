"""Photographs with what is known about them, read from the formats in which people have them.

A set is a folder. What it holds for a split decides how it is read:

- `instances_SPLIT.json` with the pictures in `SPLIT/`: COCO's detection format (boxes),
- `SPLIT.jsonl` with the pictures in `SPLIT/`: a line a picture with `file` and one of `captions` (sentences),
  `qa` (questions with answers) or `label` (one class),
- `SPLIT/CLASS/` alone: folders of pictures, one a class.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval.photos.captions import CAPTIONED, things_of_captions
from eval.photos.names import canonical, folder_class
from eval.photos.photo import Photo, PhotoObject
from tofc.errors import UserError

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
            pairs = tuple((one["question"], plain_answer(one["answer"])) for one in entry["qa"])
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


def plain_answer(answer: str) -> str:
    """An answer as people write it: ``"garbage_bin, lamp"`` gives ``"garbage bin, lamp"``."""
    return ", ".join(canonical_spelling(part) for part in answer.split(","))


def canonical_spelling(words: str) -> str:
    """Words in lower case without underscores and with a common misspelling put right."""
    return " ".join(words.replace("_", " ").lower().split()).replace("refridgerator", "refrigerator")
