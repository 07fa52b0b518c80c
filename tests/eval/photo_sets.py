"""Tiny sets of photographs in the formats that `eval.photos` reads, made for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("person", "dog", "cat", "horse", "sheep", "cow", "bird", "car", "sofa", "chair")
COLOURS = np.linspace(20, 235, len(CLASSES)).astype(np.uint8)
WIDTH, HEIGHT = 96, 64
Content = dict[str, list[dict[str, Any]]]


def write_detections(folder: Path, split: str, count: int, seed: int = 0) -> Path:
    """A detection set of `count` pictures with one to four boxes; a class's box has a grey of its own.

    People are in most pictures and dogs often beside them, as in real sets. One box in twelve is `difficult`,
    one picture in ten has a crowd of cars.
    """
    rng = np.random.default_rng([seed, count])
    (folder / split).mkdir(parents=True, exist_ok=True)
    content: Content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)],
    }
    for number in range(count):
        pixels = np.full((HEIGHT, WIDTH, 3), 250, np.uint8)
        kinds = [0] if rng.random() < 0.6 else []
        kinds += [1] if kinds and rng.random() < 0.4 else []
        kinds += rng.integers(0, len(CLASSES), rng.integers(1 if not kinds else 0, 3)).tolist()
        for kind in kinds:
            width, height = rng.integers(10, 50), rng.integers(10, 40)
            x, y = rng.integers(0, WIDTH - width), rng.integers(0, HEIGHT - height)
            pixels[y : y + height, x : x + width] = COLOURS[kind]
            box = [int(x), int(y), int(width), int(height)]
            _annotate(content, number, kind + 1, box, difficult=int(rng.random() < 1 / 12))
        if number % 10 == 9:
            _annotate(content, number, CLASSES.index("car") + 1, [0, 0, 40, 10], iscrowd=1)
        name = f"{split}-{number:04d}.png"
        Image.fromarray(pixels).save(folder / split / name)
        content["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
    (folder / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _annotate(
    content: dict[str, list[dict[str, Any]]], image: int, kind: int, box: list[int], **more: int
) -> None:
    number = len(content["annotations"])
    annotation = {"id": number, "image_id": image, "category_id": kind, "bbox": box, **more}
    content["annotations"].append(annotation)


def write_lines(folder: Path, split: str, entries: list[dict[str, Any]]) -> Path:
    """A set of lines (`qa`, `captions` or `label`), with a grey picture for each."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    lines = []
    for number, entry in enumerate(entries):
        name = f"{number}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (number % 256,) * 3).save(folder / split / name)
        lines.append(json.dumps({"file": name, **entry}))
    (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
