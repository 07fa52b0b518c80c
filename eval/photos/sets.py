"""The photographs of a benchmark: which sets, which split, in a fixed mixed order."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from eval.photos.photo import Photo
from eval.photos.records import photographs_folder, read_set
from tofc.errors import UserError

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
